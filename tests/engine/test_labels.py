"""What is counted in a burst's batches, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memwb.engine.protocol import Ended, decode_event
from memwb.engine.trainer.labels import Labels


def test_labels_that_are_somebodys_next_token_are_counted() -> None:
    labels = Labels()
    first = torch.tensor([[5, 6, 7, -100], [-100, 8, -100, -100]])
    second = torch.tensor([[1, 2, 3]])
    stream = labels.watch(iter([{"labels": first}, {"labels": second}]))
    assert (labels.padding, labels.taken()) == (None, 0)
    assert next(stream)["labels"] is first
    # Of 2 x 3 positions the first row trains two, the second one.
    assert labels.padding == pytest.approx(3 / 6)
    assert labels.taken() == 3
    next(stream)
    assert labels.padding == pytest.approx(3 / 8)
    assert (labels.taken(), labels.taken()) == (2, 0)


def test_a_row_of_nothing_but_text_wastes_nothing() -> None:
    labels = Labels()
    next(labels.watch(iter([{"labels": torch.ones(2, 8, dtype=torch.int64)}])))
    assert labels.padding == 0


def test_what_is_no_stream_of_labels_is_left_alone() -> None:
    labels = Labels()
    batch = torch.ones(4)
    assert labels.watch(batch) is batch
    assert next(labels.watch(iter([batch]))) is batch
    assert labels.padding is None


def test_events_from_before_padding_was_told_can_be_read(tmp_path: Path) -> None:
    ended = decode_event(b'{"type":"ended","burst":"1","outcome":"done","losses":[1.5]}')
    assert isinstance(ended, Ended)
    assert ended.padding is None
