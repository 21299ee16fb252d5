"""The plans that predictions are held to on a GPU: they stand, and their table says what is so."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from memwb.engine import catalog
from memwb.engine.plan import check, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.presets import load_plan

ROOT = Path(__file__).parents[2]
OTHERS = ("8-bit", "galore")
"""Optimizers of libraries; torch's own are predicted with every technique's tests."""


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A benchmark, with the repository's root on sys.path only while it is imported."""
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, loaded)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        return importlib.import_module(name)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "benchmarks.gpu.predict")


def test_every_plan_of_the_matrix_can_run(bench: Any) -> None:
    cases = bench.matrix()
    assert len({case.name for case in cases}) == len(cases) >= 40
    for case in cases:
        model = catalog.resolve(case.model, "random")
        plan = bench.plan_of(case)
        check(plan, model.config)
        assert plan.workload.sequence_length <= (model.context or 0), case.name
    for column, known in (("method", bench.METHODS), ("way", bench.WAYS)):
        assert {getattr(case, column) for case in cases} == set(known)
    assert {case.optimizer for case in cases} == set(bench.OPTIMIZERS)
    assert {512, 1024, 2048, 4096, 8192} == {case.length for case in cases}
    assert {case.method for case in cases if case.way == "ckpt"} == set(bench.METHODS)


def test_each_method_predicts_and_optimizers_of_each_library(bench: Any, tmp_path: Path) -> None:
    config = catalog.resolve("tiny", "random").config
    shallow = {**(config or {}), "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(shallow), encoding="utf-8")
    methods = {case.method: case for case in bench.matrix() if case.optimizer == "adamw"}
    others = {case.optimizer: case for case in bench.matrix() if case.optimizer in OTHERS}
    assert len(methods) == 4 and len(others) == len(OTHERS)
    for case in (*methods.values(), *others.values()):
        plan = bench.plan_of(case._replace(model=str(tmp_path), length=64))
        found = bench.told(predict(plan, "h200"))
        assert found["peak"]["allocated"] == max(found["phases"].values())
        assert {"0 load", "1 forward", "2 backward", "2 optimizer"} <= set(found["phases"])


def row(bench: Any, name: str, predicted: int, measured: int) -> dict[str, Any]:
    zeros = dict.fromkeys(("gradients", "optimizer", "activations", "temporary"), 0)

    def peak(size: int) -> dict[str, Any]:
        categories = {"weights": size, **zeros}
        totals = {"allocated": size, "reserved": 2 * size, "device": 3 * size}
        return {**totals, "phase": "loss", "categories": categories}

    mine = {"peak": peak(predicted), "phases": {"2 loss": predicted, "2 backward": 1}}
    theirs = {"outcome": "done", "peak": peak(measured), "phases": {"2 loss": measured}}
    return {
        "plan": name, "outcome": "done", "what": "", "predicted": mine, "burst": theirs,
        "ratios": bench.ratios(mine, theirs),
    }  # fmt: skip


def test_ratios_and_their_summary_are_those_of_the_figures(bench: Any) -> None:
    rows = [row(bench, "over", 102, 100), row(bench, "under", 95, 100), row(bench, "even", 7, 7)]
    assert math.isclose(rows[0]["ratios"]["allocated"], 0.02)
    assert math.isclose(rows[1]["ratios"]["weights"], -0.05)
    assert math.isclose(rows[1]["ratios"]["2 loss"], -0.05)
    assert "2 backward" not in rows[0]["ratios"]
    rows.append({"plan": "big", "outcome": "not run", "what": "predicted not to fit"})
    text = bench.table(rows)
    assert "allocated: median 2.00%, worst -5.00%, more than 2 % under 33% of 3" in text
    assert "| big | not run: predicted not to fit |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "weights -5.00%" in text and "2 loss -5.00%" in text


def test_a_burst_that_ran_out_of_memory_has_no_ratio(bench: Any) -> None:
    found = row(bench, "oom", 100, 100)
    assert bench.ratios(found["predicted"], found["burst"] | {"outcome": "oom"}) == {}
    assert bench.summary([found | {"ratios": {}}]) == "No plan was both predicted and run."


def test_the_highest_of_each_phase_is_taken_from_the_samples(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts = module(monkeypatch, "benchmarks.gpu.bursts")
    sample = bursts.Sample(0.0, 2, "loss", 5, 0, 0)
    higher = msgspec.structs.replace(sample, allocated=9)
    other = msgspec.structs.replace(sample, step=1)
    assert bursts.phases_of([sample, higher, other]) == {"2 loss": 9, "1 loss": 5}


def test_every_published_figure_has_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    published = module(monkeypatch, "benchmarks.published")
    rows = published.rows()
    for row in rows:
        load_plan(row.preset, list(row.changes))
        assert row.differs
    assert sum(row.gb is None for row in rows) == 3
    assert {row.gb for row in rows if row.preset == "qwen2.5-7b-lora-r8"} == {24.95}


def test_published_figures_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    published = module(monkeypatch, "benchmarks.published")
    monkeypatch.setattr(published, "guide", lambda target, rows: f"guide {len(rows)}")
    monkeypatch.setattr(published, "primer", lambda target: "the primer")
    monkeypatch.setattr(published, "logits", lambda target: "the logits")
    assert "guide 18" in published.page("h200") and "the primer" in published.page("h200")
    some = published.page("h200", ["7b-lora-r", "logits"])
    assert "guide 4" in some and "the logits" in some and "the primer" not in some
    assert "guide" not in published.page("h200", ["primer"])


def test_plans_of_every_kind_and_size_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    predicting = module(monkeypatch, "benchmarks.predicting")
    for model in (predicting.SMALL, predicting.LARGE):
        config = catalog.resolve(model, "random").config
        found = [check(predicting.plan_of(model, kind), config) for kind in predicting.KINDS]
        assert {plan.model for plan in found} == {model}
        assert ["lora" in plan.techniques for plan in found] == [True, True, True, False]


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("benchmarks.predicting", ["--target", "h100"], "h100-80gb"),
        ("benchmarks.prediction", ["--only", "sgd,lroa"], "did you mean 'lora'?"),
        ("benchmarks.published", ["--only", "primr"], "there is no 'primr'"),
    ],
)
def test_a_wrong_name_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str, words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit):
        module(monkeypatch, name).main(words)
    assert told in capsys.readouterr().err


def test_without_a_gpu_it_says_so(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "local_gpus", lambda: ("one",))
    assert "here is none" in bench.lack("cpu") and not bench.lack("cuda")
    monkeypatch.setattr(bench, "local_gpus", tuple)
    rows, left = bench.measure("cuda", math.inf)
    assert bench.lack("cuda") and not rows and len(left) == len(bench.matrix())


def test_a_warm_engine_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    predicting = module(monkeypatch, "benchmarks.predicting")
    with predicting.engine() as running:
        plan = load_plan("tiny-demo", [])
        first = running.ask(plan, "h200")
        kept = running.ask(plan, "h200", kept=True)
        both = {"model": "tiny", "techniques": {"bf16": {}, "amp_bf16": {}}}
        wrong = running.ask(plan_from(both), "h200")
    assert first.answers == kept.answers == 1 and not first.refused
    assert first.result == kept.result and first.result is not None
    assert 0 <= kept.processor < first.processor
    assert not wrong.answers and wrong.refused
