"""A document a row, padded on the right to the longest of its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique

if TYPE_CHECKING:
    import argparse
    from array import array

    import torch

    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of padding."""

    to: Annotated[
        Literal["longest", "sequence_length"],
        Meta(description="a batch's width: its longest document, or always the same"),
    ] = "longest"


technique = Technique(
    name="padding",
    title="padding",
    group="sequence",
    saves="Nothing: documents are whole and see only themselves, as in most fine-tuning scripts.",
    costs="Padding is computed and stored like text: half of a batch, or more, trains nothing.",
    not_when="Lengths differ much: grouping by length pads less, packing hardly at all.",
    source="https://huggingface.co/docs/transformers/pad_truncation",
    params=Params,
)


NO_ARITHMETIC = (
    "a batch's width, or what its masks take, depends on documents and kernels; a burst measures it"
)

MASKED = ("gpt2", "llama", "qwen2", "qwen3")
"""Families whose layers have no mask of their own, such as a window's."""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why padding does not fit the plan, and the override that mends it."""
    return masked(plan)


def masked(plan: Plan) -> tuple[str, str] | None:
    """Why batches that need a mask do not fit the plan's attention, and what mends it."""
    if getattr(plan.techniques.get("attention"), "backend", "") == "flash":
        reason = "sdpa's flash kernel takes no mask on CUDA, and these batches need one"
        return reason, "attention.backend=auto"
    return None


def batches(
    args: argparse.Namespace, documents: Iterator[array[int]], *, to: str
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end of padded documents, in random order."""
    from memwb.engine.recipe import shuffled

    pieces = read_pieces(args, documents)
    return padded(args, pieces, lambda: shuffled(args, len(pieces)), to)


def read_pieces(args: argparse.Namespace, documents: Iterator[array[int]]) -> list[array[int]]:
    """As many documents as the training will use, cut where they are longer than a sequence.

    A single token is left out: it has no next one. Raises DataError when nothing is left.
    """
    from memwb.engine.recipe import DataError

    wanted = args.steps * args.batch_size * args.gradient_accumulation
    pieces: list[array[int]] = []
    for document in documents:
        pieces += cut(document, args.sequence_length)
        if len(pieces) >= wanted:
            break
    if not pieces:
        raise DataError(f"{args.data} holds no document of two tokens or more: give more text")
    return pieces[:wanted]


def cut(document: array[int], length: int) -> list[array[int]]:
    """The document in pieces of at most ``length`` tokens, each of two or more."""
    pieces = (document[start : start + length] for start in range(0, len(document), length))
    return [piece for piece in pieces if len(piece) > 1]


def padded(
    args: argparse.Namespace,
    pieces: list[array[int]],
    new_order: Callable[[], Iterator[list[int]]],
    to: str,
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows padded on the right; prints what share of the first pass is padding.

    ``new_order`` begins the endless sequence of the rows of each batch.
    """
    from itertools import islice

    import torch

    from memwb.engine.recipe import collated

    least = args.sequence_length if to == "sequence_length" else 0

    def width(rows: list[int]) -> int:
        return max(least, *(len(pieces[row]) for row in rows))

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        shape = (len(rows), width(rows))
        inputs, labels, mask = (torch.full(shape, fill) for fill in (0, -100, 0))
        for number, row in enumerate(rows):
            end = len(pieces[row])
            inputs[number, :end] = torch.frombuffer(pieces[row], dtype=torch.int32)
            labels[number, :end] = inputs[number, :end]
            mask[number, :end] = 1
        return {"input_ids": inputs, "labels": labels, "attention_mask": mask}

    most = args.steps * args.gradient_accumulation
    first = list(islice(new_order(), min(most, -(-len(pieces) // args.batch_size))))
    positions = sum(width(rows) * len(rows) for rows in first)
    tokens = sum(len(pieces[row]) for rows in first for row in rows)
    print(
        f"{len(pieces)} documents in {len(pieces)} rows of at most {args.sequence_length} tokens, "
        f"{100 * (1 - tokens / positions):.1f} % padding",
        flush=True,
    )
    return collated(args, new_order(), collate)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The masks of batches as wide as a sequence; shorter ones are as wide as documents are."""
    return mask_effects(facts) if params.to == "sequence_length" else []


def mask_effects(facts: Facts) -> list[Effect]:
    """What sdpa keeps in each layer of batches that have a mask, beside those that need none.

    The mask is expanded to the precision of the scores; keys and values that several heads
    share are repeated, since kernels that share them take no mask.
    """
    shape, work = facts.shape, facts.workload
    if shape.family not in MASKED:
        return []
    width, length = facts.compute_bytes, work.sequence_length
    pair = 2 * width * facts.tokens * shape.head_dim
    return [
        Effect(
            category="activations",
            before=pair * shape.kv_heads,
            after=pair * shape.heads + width * work.batch_size * length**2,
            formula=f"mask: {width} B × {work.batch_size} × {length:,} × {length:,} where sdpa "
            f"needs one; keys and values repeated from {shape.kv_heads} heads to {shape.heads}",
            each=True,
        )
    ]
