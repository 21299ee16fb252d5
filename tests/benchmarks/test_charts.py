"""The benchmark of the charts runs, and says what it was to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, *words: str) -> str:
    """What a benchmark prints, run from the repository's root as a user runs it."""
    # `make test` keeps the root off the path.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    env["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    # 1: an aim was missed, which a busy machine may.
    assert done.returncode in (0, 1) and done.stdout and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_memory_over_time_is_measured() -> None:
    assert "MiB before" in run(
        "endurance", "--minutes", "0.1", "--frames", "0", "--replayed", "400"
    )


def test_every_case_is_measured() -> None:
    sizes = ("--size", "60x16", "--points", "200", "--frames", "2", "--seconds", "1")
    found = json.loads(run("charts", "--json", *sizes))
    names = [row["case"] for row in found["cases"]]
    assert len(names) == 9 and names[-2:] == ["textual-plotext", "textual-hires-canvas"]
    for row in found["cases"]:
        assert "skipped" in row or (row["bytes"] > 0 and row["cpu_ms"] >= 0)
    assert found["streamed"]["frames_a_second"] > 0 and found["streamed"]["kib_a_second"] > 0
