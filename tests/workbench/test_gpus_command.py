"""``memwb gpus``."""

from __future__ import annotations

import json

import pytest

from memwb.engine import gpus
from memwb.workbench.cli import main


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> gpus.Gpu:
    """One local GPU, which no data sheet tells of."""
    found = gpus.Gpu(
        id="test-card",
        name="Test Card",
        arch="sm_86",
        memory=8 * 2**30,
        capacity=7 * 2**30,
        bandwidth=None,
        bf16=None,
        source="NVML",
        local=True,
    )
    monkeypatch.setattr(gpus, "local_gpus", lambda: (found,))
    return found


def test_the_table_has_the_local_one_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 0
    header, first, *others = capsys.readouterr().out.splitlines()
    assert header.split() == ["gpu", "usable", "GB/s", "TFLOP/s", "arch", "name"]
    assert " ".join(first.split()) == "test-card * 7.00 GiB – – sm_86 Test Card"
    line = next(line for line in others if line.startswith("rtx-4090 "))
    assert line.endswith("  GeForce RTX 4090")
    for words in ("23.5 GiB", "1,008", "165.2", "sm_89"):
        assert words in line


def test_json_is_the_data(capsys: pytest.CaptureFixture[str], local: gpus.Gpu) -> None:
    assert main(["gpus", "--json"]) == 0
    first, *others = json.loads(capsys.readouterr().out)
    assert first == {
        "id": "test-card",
        "name": "Test Card",
        "arch": "sm_86",
        "memory": 8 * 2**30,
        "capacity": 7 * 2**30,
        "bandwidth": None,
        "bf16": None,
        "source": "NVML",
        "local": True,
        "multiprocessors": None,
    }
    assert len(others) == len(gpus.listed())
