"""Data of more tokens than are kept for real in a tensor: a batch has values all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memwb.engine.plan import plan_from
from memwb.engine.predict.places import MOST_VALUES
from memwb.engine.predict.predictor import predict
from memwb.engine.trainer.labels import Labels


def peak(**workload: object) -> int:
    return predict(plan_from({"model": "tiny", "workload": workload}), "rtx-4090").peak.allocated


def test_a_table_of_many_rows_needs_what_one_of_few_needs(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("All work and no play. " * 1_000_000)
    work = {"data": str(data), "batch_size": 2, "sequence_length": 4096}
    assert MOST_VALUES < 2 * 4096 * 2500
    assert peak(**work, steps=2500) == peak(**work, steps=2)


@pytest.mark.parametrize(("batch", "length"), [(16384, 256), (65536, 16)])
def test_many_rows_at_once_are_drawn_from_the_data(batch: int, length: int) -> None:
    # Their logits alone, in fp32, of the 256 bytes that tiny's vocabulary has at least.
    assert peak(batch_size=batch, sequence_length=length) > batch * length * 256 * 4


def test_labels_without_values_count_nothing() -> None:
    labels = Labels()
    next(labels.watch(iter([{"labels": torch.ones(2, 8, dtype=torch.int64, device="meta")}])))
    assert (labels.padding, labels.taken()) == (None, 0)
