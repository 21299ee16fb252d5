"""Documents of like length in one batch, so that little padding stands between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique
from memwb.engine.techniques.padding import masked

if TYPE_CHECKING:
    import argparse
    from array import array

    import torch

    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of grouping by length."""

    window: Annotated[
        int, Meta(ge=1, le=2**20, description="batches whose documents are sorted together")
    ] = 50


technique = Technique(
    name="length_grouping",
    title="grouping by length",
    group="sequence",
    saves="Most of the padding: the documents of a batch are about as long as each other.",
    costs="Batches are less random; the longest comes first, so that its peak is met at once.",
    not_when="One row is a batch: there is nothing to group. Packing pads less and is steady.",
    source="https://huggingface.co/docs/transformers/main_classes/trainer (group_by_length)",
    params=Params,
)

NO_ARITHMETIC = "a batch's width depends on the lengths of the documents; a burst measures it"


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why padding does not fit the plan, and the override that mends it."""
    return masked(plan)


def batches(
    args: argparse.Namespace, documents: Iterator[array[int]], *, window: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end of padded documents, each of documents of like length."""
    from memwb.engine.techniques.padding import padded, read_pieces

    pieces = read_pieces(args, documents)
    lengths = [len(piece) for piece in pieces]
    return padded(args, pieces, lambda: grouped(args, lengths, window), "longest")


def grouped(args: argparse.Namespace, lengths: list[int], window: int) -> Iterator[list[int]]:
    """The rows of each batch, without end.

    Rows are shuffled anew for each pass, sorted by length within ``window`` batches, cut into
    batches, and these shuffled. The very first batch is the one with the longest row.
    """
    import torch

    generator = torch.Generator().manual_seed(args.seed)
    size = args.batch_size
    rest: list[int] = []
    begun = False
    while True:
        while len(rest) < size:
            rest += torch.randperm(len(lengths), generator=generator).tolist()
        whole = len(rest) // size * size
        order: list[int] = []
        for start in range(0, whole, size * window):
            near = rest[start : min(start + size * window, whole)]
            order += sorted(near, key=lambda row: lengths[row], reverse=True)
        rest = rest[whole:]
        turns = torch.randperm(whole // size, generator=generator).tolist()
        if not begun:
            turns.sort(key=lambda turn: lengths[order[turn * size]] < max(lengths))
            begun = True
        for turn in turns:
            yield order[turn * size : (turn + 1) * size]
