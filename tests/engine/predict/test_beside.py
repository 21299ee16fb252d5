"""Work in a forked process: its result, its errors, its end. And streams, which come from it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from memwb.engine.predict.beside import beside
from memwb.engine.predict.stream import Birth, Stream
from memwb.engine.trainer.trace import Moment


def test_the_result_comes_from_another_process() -> None:
    with beside(os.getpid) as begun:
        assert begun.result() not in (os.getpid(), 0)


def test_what_fails_there_fails_here(tmp_path: Path) -> None:
    def work() -> int:
        (tmp_path / str(os.getpid())).touch()
        raise LookupError("no such thing")

    with beside(work) as begun, pytest.raises(LookupError, match="no such thing"):
        begun.result()
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_left_of_what_is_not_waited_for() -> None:
    before = set(psutil.Process().children())
    with beside(lambda: time.sleep(60)):
        assert set(psutil.Process().children()) > before
    assert set(psutil.Process().children()) == before


def test_a_stream_comes_over_whole() -> None:
    birth = Birth(3, "model.layers.0", "aten.mm", (2, 2), "float32")
    rows = [(0, "load", -1, 0), (1, "forward", 1, 16), (1, "backward", 1, -16)]
    moments = [Moment(at, *row) for at, row in enumerate(rows)]
    with beside(lambda: Stream(moments, {1: birth})) as begun:
        found = begun.result()
    assert found.moments == moments
    assert dict(found.births) == {1: birth}
    assert found.dtypes == {"float32"} and found.categories[1] == 3
