"""Each goal of the GPU suite finds its figure among the rows, or says why there is none."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("goals", "kernel_cases", "problems")


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    """The suite's modules by name, the repository's root on sys.path while they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
            patch.delitem(sys.modules, loaded)
        patch.syspath_prepend(str(ROOT))
        yield SimpleNamespace(
            **{name: importlib.import_module(f"benchmarks.gpu.{name}") for name in NAMES}
        )


def raced(gpu: Any, kernel: str, facts: Any, **times: float) -> list[Any]:
    """Rows of a case in which each arm takes so long; ours takes 1."""
    rows = []
    for arm, seconds in {"memwb": 1.0, **times}.items():
        part = {"p20": seconds, "p50": seconds, "p80": seconds}
        parts = ["both"] if "cross" in kernel else ["forward", "backward"]
        row = {"kernel": kernel, "arm": arm, "outcome": "right", **dict(facts)}
        row |= {"seconds": dict.fromkeys(parts, part), "roofline": dict.fromkeys(parts, 0.9)}
        row |= {"extra": 102, "least_extra": 100, "errors": {"gradient of hidden": 2e-3}}
        rows.append(row)
    return rows


def losses(gpu: Any, kernel: str, **times: float) -> list[Any]:
    """The first head of the race in all variants; each is as many times slower as its place."""
    rows = []
    name, tokens = next(iter(gpu.kernel_cases.HEADS)), gpu.kernel_cases.TOKENS[0]
    for variant in gpu.kernel_cases.VARIANTS:
        made = gpu.problems.losses(kernel, tokens, 4, 8, device="cpu", name=name, **variant)
        rows += raced(gpu, kernel, made.facts, **times)
    return rows


def everything(gpu: Any) -> list[Any]:
    arms = {"Liger C=1": 1.5, "Liger C=16": 0.98, "CCE": 1.1}
    rows = losses(gpu, gpu.goals.FUSED, **arms) + losses(gpu, gpu.goals.CUT, **arms)
    for kernel, made in (
        ("rms_norm", gpu.problems.norms), ("layer_norm", gpu.problems.norms),
        ("swiglu", gpu.problems.gates),
    ):  # fmt: skip
        case = gpu.kernel_cases.race(kernel)[0]
        sizes = [int(size) for size in case.label.split()[1].split("×")]
        keys = [key for key, _ in made(kernel, 1, 1, device="cpu").facts]
        facts = dict(zip(keys, sizes, strict=True))
        rows += raced(gpu, kernel, facts, Liger=2.5)
    assert gpu.kernel_cases.race("rope")[0].label == "rope 1×8192×32×8×128"
    turned = gpu.problems.ropes("rope", 1, 8192, 1, 1, 2, device="cpu").facts
    return rows + raced(gpu, "rope", {**dict(turned), "columns": 128}, Liger=1.0)


def written(folder: Path, rows: dict[str, Any]) -> Path:
    for section, found in rows.items():
        (folder / f"{section}.json").write_text(json.dumps({"rows": found}))
    return folder


def told(gpu: Any, folder: Path) -> dict[str, tuple[float | None, str]]:
    return {goal.what: (value, word) for goal, value, word in gpu.goals.verdicts(folder)}


def test_every_goal_of_the_race_finds_its_case(gpu: Any, tmp_path: Path) -> None:
    found = told(gpu, written(tmp_path, {"kernels-race": everything(gpu)}))
    figures = {what: value for what, (value, _) in found.items() if value is not None}
    assert len(figures) == len(gpu.goals.goals()) - 5
    assert figures["trained head: Liger C=1 takes × of our time"] == 1.5
    assert figures["least memory: extra memory, of the gradients' own"] == 1.02
    assert found["trained head: Liger C=16 takes ×"] == (0.98, "met")
    assert found["trained head: extra memory, of Liger C=16's"] == (1.0, "**missed**")
    assert found["least memory, peaky: CCE takes ×"] == (1.1, "**missed**")
    assert found["layer_norm backward: Liger takes ×"] == (2.5, "met")
    assert found["allocated: largest error"] == (None, "no figure: predict has no rows")


def test_predictions_and_the_meter_have_goals_too(gpu: Any, tmp_path: Path) -> None:
    apart = [{"allocated": off, "reserved": off} for off in (0.01, -0.03, 0.005)]
    burst = {"outcome": "done", "peak": {"allocated": 7}}
    truth = [{**burst, "traced_maximum": 7}, {**burst, "traced_maximum": 8}]
    predicted = [{"ratios": one} for one in [*apart, None]]
    found = told(gpu, written(tmp_path, {"predict": predicted, "truth": truth}))
    assert found["allocated: median error of the predictions"] == (0.01, "met")
    assert found["allocated: most that one is too little"] == (0.03, "**missed**")
    assert found["reserved: median error of the predictions"] == (0.01, "met")
    assert found["peaks that differ from the allocator's own, of all bursts"] == (1, "**missed**")


def test_what_has_no_figure_says_why(gpu: Any, tmp_path: Path, capsys: Any) -> None:
    rows = everything(gpu)
    for row in rows:
        if row["arm"] == "CCE":
            del row["seconds"]
            row |= {"outcome": "left out", "reason": "cut_cross_entropy | is not installed"}
    wrong = {"kernel": "swiglu", "outcome": "wrong"}
    written(tmp_path, {"kernels-race": rows, "kernels-correct": [wrong]})
    found = told(gpu, tmp_path)
    assert found["swiglu backward: of copy bandwidth"][1] == "no figure: memwb was not raced there"
    assert "is not installed" in found["least memory, peaky: CCE takes ×"][1]
    assert gpu.goals.main([str(tmp_path)]) == 1
    page = capsys.readouterr().out
    assert "cut_cross_entropy \\| is not" in page and "have no figure." in page
    with pytest.raises(SystemExit, match="2"):
        gpu.goals.main([str(tmp_path / "nowhere")])


def test_a_section_that_was_cut_off_is_read_from_the_journal(gpu: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"section": "kernels-race", "row": row}) for row in everything(gpu)]
    (tmp_path / "journal.jsonl").write_text("\n".join([*lines, '{"section": "kernels-ra']))
    found = told(gpu, tmp_path)
    assert found["rope backward: of copy bandwidth"] == (0.9, "met")


def test_what_goals_ask_for_is_raced_first(gpu: Any) -> None:
    for kernel in gpu.kernel_cases.LOSSES:
        first = [case.label for case in gpu.kernel_cases.race(kernel)[:6]]
        assert all("Llama-3-8B 8192×4096×128256" in label for label in first)
        assert first[3].endswith("128256 ignored 0.5")
