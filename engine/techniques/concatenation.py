"""Documents one after another, cut into full rows: what acts when nothing else is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from memwb.engine.technique import Technique

if TYPE_CHECKING:
    import argparse
    from array import array

    import torch

technique = Technique(
    name="concatenation",
    title="concatenation",
    group="sequence",
    saves="All padding: every position of every row is a token that is trained on.",
    costs="Documents are cut where a row ends, and see what stands before them in their row.",
    not_when="Documents are independent examples that must not see each other: take packing.",
    source="arXiv:2005.14165 (appendix B)",
    exact=True,
)

NO_ARITHMETIC = (
    "it is the reference, and what a full row keeps depends on kernels; a burst measures it"
)


def batches(
    args: argparse.Namespace, documents: Iterator[array[int]]
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end of full rows; labels are the inputs, which the model shifts itself.

    Raises DataError when the data does not fill one row.
    """
    from array import array

    import torch

    from memwb.engine.recipe import DataError, collated, shuffled

    length = args.sequence_length
    wanted = args.steps * args.batch_size * args.gradient_accumulation
    tokens = array("i")
    for document in documents:
        tokens += document
        if len(tokens) >= wanted * length:
            break
    count = min(wanted, len(tokens) // length)
    if count == 0:
        raise DataError(
            f"{args.data} holds {len(tokens)} tokens, and one sequence needs {length}: "
            "give more text or a smaller sequence length"
        )
    table = torch.frombuffer(tokens, dtype=torch.int32)[: count * length].view(count, length)

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        batch = table[rows].long()
        return {"input_ids": batch, "labels": batch}

    return collated(args, shuffled(args, count), collate)
