"""Random keys and mouse; ten thousand of them are ``python -m benchmarks.monkey``."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.monkey import play


@pytest.mark.parametrize("seed", [11, 12])
async def test_a_monkey_breaks_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # What is saved without a folder lands where the test's files are.
    monkeypatch.chdir(tmp_path)
    await play(300, seed, tmp_path)
