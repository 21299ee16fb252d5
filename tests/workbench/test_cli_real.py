"""The command line with the real engine: the demonstration, and a script that repeats a run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

MEMWB = [sys.executable, "-P", "-m", "memwb.workbench.cli"]


def memwb(*words: str) -> Any:
    done = subprocess.run([*MEMWB, *words, "--json"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_rung_of_the_demonstration_takes_less_memory() -> None:
    rungs = memwb("demo")
    assert [rung["outcome"] for rung in rungs] == ["done"] * 4
    peaks = [rung["peak"]["allocated"] for rung in rungs]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4
    for rung in rungs:
        assert sum(rung["peak"]["categories"].values()) == rung["peak"]["allocated"]
        assert rung["losses"][-1] < rung["losses"][0]


def test_an_exported_script_prints_the_losses_of_the_run(
    warm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ("tiny-demo", "-o", "lora=on", "-o", "workload.steps=3", "-o", "sequence_length=64")
    with monkeypatch.context() as patch:
        patch.setenv("MEMWB_ENGINE", shlex.join(warm.python("-m", "memwb.engine")))
        ran = memwb("run", *plan)
    assert ran["tokens_per_second"] > 0
    exported = memwb("export", *plan, str(tmp_path / "out"))
    assert "Measured on" in (tmp_path / "out/train.py").read_text()
    done = subprocess.run(
        [sys.executable, exported["files"][0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"^step \d+  loss (\d+\.\d{6})$", done.stdout, re.MULTILINE)
    assert printed == [f"{loss:.6f}" for loss in ran["losses"]]
