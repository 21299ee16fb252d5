"""The GPU suite stands ready: its plans can run, and it says what it did not get to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_suite_without_time_writes_its_tables_and_names_what_is_left(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--minutes", "0"]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for name, count in (("truth", 29), ("qwen", 14), ("predict", 42)):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["rows"] == []
        assert len(found["left_out"]) == count
        assert found["torch"]
        assert "Left out" in (tmp_path / f"{name}.md").read_text()
    left = json.loads((tmp_path / "techniques.json").read_text())["left_out"]
    assert "alone: lora" in left and "removed: without bf16" in left
