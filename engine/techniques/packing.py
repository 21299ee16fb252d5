"""Several whole documents in each row, side by side, without seeing each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.padding import mask_effects, masked

if TYPE_CHECKING:
    import argparse
    from array import array

    import torch

    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of packing."""

    window: Annotated[
        int, Meta(ge=1, le=2**20, description="documents that are fitted into rows together")
    ] = 1024


technique = Technique(
    name="packing",
    title="packing",
    group="sequence",
    saves="Nearly all padding: every batch is full, and the same size from step to step.",
    costs="A mask of length x length a row with eager and sdpa, whose fastest kernels take none.",
    not_when="Documents fill a sequence each: there is nothing to pack.",
    source="arXiv:2404.10830 (best-fit packing); arXiv:2107.02027",
    params=Params,
)

NO_ARITHMETIC = (
    "what masks take in this family depends on its windows and kernels; a burst measures it"
)

# Layers that carry a state along the row, and families that take no position ids: in neither
# would one document be hidden from the next.
STATEFUL = ("mamba", "ssm_", "rwkv", "recurrent", "xlstm", "linear_attention", "linear_conv")
STATEFUL_TYPES = ("bamba", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "minimax", "nemotron_h")
NO_POSITIONS = ("bloom", "mpt", "cpmant", "fuyu", "kosmos2", "roformer", "trocr")


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why documents could not be kept apart in the rows of this model, and what to take."""
    kind = str(config.get("model_type", ""))
    layers = config.get("layer_types") or config.get("layers_block_type") or ()
    words = " ".join(map(str, (kind, *config, *layers)))
    mend = "padding=on"
    if kind in STATEFUL_TYPES or any(word in words for word in STATEFUL):
        return "layers of this model carry a state from one document into the next", mend
    if kind in NO_POSITIONS or config.get("alibi"):
        return "this model takes no position ids, by which documents are told apart", mend
    if refusal := masked(plan):
        return refusal
    chosen = getattr(plan.techniques.get("attention"), "implementation", "")
    if chosen.startswith("flash_attention"):
        if plan.workload.batch_size > 1:
            reason = f"{chosen} keeps documents apart only in a batch of one row"
            return reason, "workload.batch_size=1"
        if kind == "gpt_bigcode":
            # transformers hands the position ids to each layer, but not in this family.
            return f"{chosen} cannot keep documents apart in this model", "attention=off"
    return None


def batches(
    args: argparse.Namespace, documents: Iterator[array[int]], *, window: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end of packed rows, each exactly a sequence long; prints the padding.

    Positions begin at 0 with each document, which is how transformers tells documents apart: it
    masks attention between them. No document is asked to predict the next one's first token.
    """
    import torch

    from memwb.engine.recipe import collated, shuffled

    length = args.sequence_length
    packed = pack(args, documents, window)
    count = sum(map(len, packed))
    tokens = sum(len(piece) for row in packed for piece in row)
    print(
        f"{count} documents in {len(packed)} rows of {length} tokens, "
        f"{100 * (1 - tokens / (len(packed) * length)):.1f} % padding",
        flush=True,
    )

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        inputs, labels, positions = (torch.full((len(rows), length), n) for n in (0, -100, 0))
        for number, row in enumerate(rows):
            end = 0
            for piece in packed[row]:
                start, end = end, end + len(piece)
                inputs[number, start:end] = torch.frombuffer(piece, dtype=torch.int32)
                labels[number, start + 1 : end] = inputs[number, start + 1 : end]
                positions[number, start:end] = torch.arange(end - start)
            positions[number, end:] = torch.arange(length - end)
        return {"input_ids": inputs, "labels": labels, "position_ids": positions}

    return collated(args, shuffled(args, len(packed)), collate)


def pack(
    args: argparse.Namespace, documents: Iterator[array[int]], window: int
) -> list[list[array[int]]]:
    """The documents of each row, as many rows as the training will use.

    Documents longer than a sequence are cut first. They are fitted ``window`` at a time, or
    fewer where these are sure to fill the rows that are still wanted. Raises DataError when
    there is nothing to train on.
    """
    from memwb.engine.recipe import DataError
    from memwb.engine.techniques.padding import cut

    length = args.sequence_length
    wanted = args.steps * args.batch_size * args.gradient_accumulation
    packed: list[list[array[int]]] = []
    near: list[array[int]] = []
    tokens = 0
    for document in documents:
        pieces = cut(document, length)
        near += pieces
        tokens += sum(map(len, pieces))
        if len(near) >= window or tokens >= (wanted - len(packed)) * length:
            packed += best_fit(near, length)
            near, tokens = [], 0
            if len(packed) >= wanted:
                break
    packed += best_fit(near, length)
    if not packed:
        raise DataError(f"{args.data} holds no document of two tokens or more: give more text")
    return packed[:wanted]


def best_fit(pieces: list[array[int]], length: int) -> list[list[array[int]]]:
    """Rows of pieces, the longest piece first, each into the fullest row that it still fits."""
    from bisect import bisect_left, insort

    rows: list[list[array[int]]] = []
    spaces: list[tuple[int, int]] = []
    for piece in sorted(pieces, key=len, reverse=True):
        at = bisect_left(spaces, (len(piece), 0))
        if at == len(spaces):
            space, row = length, len(rows)
            rows.append([])
        else:
            space, row = spaces.pop(at)
        rows[row].append(piece)
        insort(spaces, (space - len(piece), row))
    return rows


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The masks by which documents in one row do not see each other."""
    return mask_effects(facts)
