"""The GPU suite stands ready: its plans can run, and it says what it did not get to."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def suite(monkeypatch: Any) -> Any:
    """The command's module; the repository's root is on the path for it alone."""
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.gpu.__main__")


def test_a_suite_without_time_writes_its_tables_and_names_what_is_left(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--minutes", "0"]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for name, count in (("truth", 31), ("qwen", 14), ("predict", 42)):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["rows"] == []
        assert len(found["left_out"]) == count
        assert found["torch"]
        assert "Left out" in (tmp_path / f"{name}.md").read_text()
    left = json.loads((tmp_path / "techniques.json").read_text())["left_out"]
    assert "alone: lora" in left and "removed: without bf16" in left


@pytest.mark.parametrize(("more", "said"), [
    ([], "no CUDA device here"), (["--device", "cud"], "no device 'cud'"),
    (["--device", "cpu", "--minutes", "-1"], "no time"),
    (["--device", "cpu", "--minutes", "nan"], "no time"),
    (["--device", "cpu", "--sections", "thruth"], "there are truth, kernels-correct"),
    (["--device", "cpu", "--sections", ","], "no section is chosen"),
    (["--device", "cpu", "--arms", "memwb,liger"], "there are memwb, plain, torch.compile"),
    (["--device", "cpu", "--only", "llama"], "no case of kernels-correct has 'llama'"),
    (["--device", "cpu", "--out", "/dev/null/x"], "--out /dev/null/x: Not a directory"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    suite: Any, tmp_path: Path, monkeypatch: Any, capsys: Any, more: list[str], said: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        suite.main(["--out", str(tmp_path / "out"), *more])
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_section_that_fails_takes_none_of_the_others_with_it(
    suite: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("a driver of yesterday")

    def exits(*_: Any) -> Any:
        suite.journal.note({"outcome": "done"})
        raise SystemExit("the engine is gone")

    right = {"outcome": "done", "expected": ["done"]}
    sections = {
        "broken": SimpleNamespace(measure=fails),
        "gone": SimpleNamespace(measure=exits),
        "whole": SimpleNamespace(measure=lambda *_: ([right], []), table=lambda rows: "a table"),
    }
    sections["absent"] = None
    for name, module in sections.items():
        monkeypatch.setitem(sys.modules, f"section_{name}", module)
    monkeypatch.setattr(suite, "SECTIONS", {name: f"section_{name}" for name in sections})
    command = ["--device", "cpu", "--out", str(tmp_path), "--sections"]
    assert suite.main([*command, "broken,absent,gone,whole"]) == 1
    assert json.loads((tmp_path / "broken.json").read_text())["error"].endswith("of yesterday")
    assert "Failed: ValueError" in (tmp_path / "broken.md").read_text()
    assert json.loads((tmp_path / "whole.json").read_text())["rows"] == [right]
    assert "ModuleNotFoundError" in json.loads((tmp_path / "absent.json").read_text())["error"]
    assert "engine is gone" in json.loads((tmp_path / "gone.json").read_text())["error"]
    # What was measured before is kept all the same.
    kept = json.loads((tmp_path / "journal.jsonl").read_text())
    assert kept == {"section": "gone", "row": {"outcome": "done"}}
    assert suite.main([*command, "whole"]) == 0
