"""A monkey at the terminal; ten thousand events are ``python -m benchmarks.monkey``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_monkey_breaks_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.monkey", "--events", "600", "--seed", "11"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "600 events with seed 11, nothing raised" in done.stdout
