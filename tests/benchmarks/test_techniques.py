"""The table of techniques: which plans it runs, what it says of those it cannot, one real run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from memwb.engine.plan import active, plan_from, problems
from memwb.engine.technique import techniques

ROOT = Path(__file__).parents[2]
BASE = {"model": "tiny", "weights": "random", "workload": {"steps": 3, "sequence_length": 32}}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with the repository's root on sys.path only while it is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        return importlib.import_module("benchmarks.techniques")


def test_every_technique_has_a_row_that_can_run_or_says_why(bench: Any) -> None:
    base = plan_from(BASE)
    cases = bench.cases(base, "cpu", bench.STACK)
    alone = [case for case in cases if case.table == bench.ALONE]
    rows = [case.label.partition(",")[0] for case in alone[1:]]
    named = [row for row in rows if "." not in row]
    assert named == [name for name in techniques() if name not in active(base)]
    assert {row for row in rows if "." in row} == set(bench.CHOICES)
    for case in alone[1:]:
        assert active(case.plan) != active(base) and case.technique in active(case.plan)
    for case in cases:
        if case.outcome:
            assert case.reason
        else:
            assert problems(case.plan) == []
            assert case.technique == "" or (case.technique in case.plan.techniques) == (
                case.table == bench.ALONE
            )
    assert len({case.key for case in cases}) == len(cases)


def test_no_two_rows_are_the_same_plan(bench: Any) -> None:
    for name in (bench.ALONE, bench.REMOVED):
        cases = [c for c in bench.cases(plan_from(BASE), "cpu", bench.STACK) if c.table == name]
        plans = [active(case.plan) for case in cases if not case.outcome]
        assert all(plan not in plans[:place] for place, plan in enumerate(plans))


def test_a_row_may_set_a_parameter(bench: Any) -> None:
    base = plan_from(BASE)
    chosen = ["attention.implementation=eager"]
    plain, eager = (c for c in bench.cases(base, "cpu", ("lora",), chosen) if c.table == "alone")
    assert (plain.technique, eager.technique) == ("", "attention")
    assert eager.label == chosen[0]
    assert eager.plan.techniques["attention"].implementation == "eager"
    stack = next(c for c in bench.cases(base, "cpu", bench.STACK) if c.table == "removed")
    chunk = stack.plan.techniques["chunked_cross_entropy"].chunk_size
    assert f"chunked_cross_entropy.chunk_size={chunk}" in stack.label
    assert chunk < 256, "else one chunk holds all tokens of a step"


def test_needs_are_brought_along_and_go_together(bench: Any) -> None:
    cases = bench.cases(plan_from(BASE), "cpu", bench.STACK, ["quantize_4bit", "lora"])
    labels = [case.label for case in cases]
    assert "quantize_4bit, with lora" in labels
    assert "without lora + quantize_4bit" in labels
    assert len(labels) == 6


def test_what_cannot_run_keeps_its_reason(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "bitsandbytes" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    cases = bench.cases(plan_from(BASE), "cpu", bench.STACK, ["adamw_8bit"])
    rows, left = bench.rows_of([case for case in cases if case.outcome], "cpu", 0.0)
    assert [(row["table"], row["outcome"]) for row in rows] == [
        ("alone", "unavailable"),
        ("removed", "unavailable"),
        ("removed", "unavailable"),
    ]
    assert "pip install bitsandbytes" in bench.table(rows)
    assert not left


def test_a_run_writes_figures_and_the_page(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "benchmarks.techniques", "--only", "lora"]
    command += ["--stack", "lora", "--steps", "3", "-o", "sequence_length=32"]
    command += ["--json", str(tmp_path / "all.json"), "--markdown", str(tmp_path / "page.md")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    plain, lora, stack, without = json.loads((tmp_path / "all.json").read_text())["rows"]
    for row in (plain, lora, stack, without):
        assert row["outcome"] == "done"
        assert row["median_tokens_per_second"] > 0
        assert sum(row["peak"]["categories"].values()) == row["peak"]["allocated"]
    assert lora["peak"] | {"device": 0} == stack["peak"] | {"device": 0}
    assert lora["peak"]["categories"]["optimizer"] < plain["peak"]["categories"]["optimizer"]
    assert without["losses"] == plain["losses"]
    page = (tmp_path / "page.md").read_text()
    assert str(tmp_path) not in page and "--markdown page.md" in page
    for words in ("| lora |", "| without lora |", "## Alone", "## Removed", "date 20", "torch "):
        assert words in page
    width = page.count("|", page.index("| plain"), page.index("\n", page.index("| plain")))
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {width}
