"""What every test starts from: a home of its own and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The models are tiny: a second thread would only wait for the first. Children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MEMWB_HOME; nothing of the user's is read or written, nothing is downloaded."""
    folder = tmp_path / "memwb-home"
    monkeypatch.setenv("MEMWB_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder
