"""The guard: which earlier run a run is held against, and what is said of its losses."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memwb.engine import guard, keeping, runs
from memwb.engine.catalog import resolve
from memwb.engine.guard import baseline_for, compare, deviation, owed
from memwb.engine.plan import Plan, Workload, override, toggle
from memwb.engine.protocol import Device, Ended, Started
from memwb.engine.runs import Summary
from memwb.engine.script import script
from memwb.engine.technique import techniques

CPU = Device("cpu", "a CPU", 8)
GPU = Device("cuda", "a GPU", 8)
LOSSES = [6.0, 5.0, 4.0]
EXACT = "activation_checkpointing=on"
TOLERANT = "chunked_cross_entropy=on"
ALLOWED = techniques()["chunked_cross_entropy"].tolerance or 0.0


def plan(*overrides: str) -> Plan:
    found = Plan(model="tiny", workload=Workload(steps=3, sequence_length=32))
    for text in overrides:
        found = override(found, text)
    return found


def a_run(
    *overrides: str,
    losses: Sequence[float] = LOSSES,
    outcome: str = "done",
    device: Device = CPU,
    weights: str = "random",
    script: str = "",
) -> Summary:
    started = Started("1", device, "tiny", weights, 10, 3, (1, 2), script)
    recorder = runs.record(plan(*overrides), started)
    recorder.event(Ended("1", outcome, losses=list(losses)))
    recorder.close()
    return recorder.summary


def chosen(run: Summary) -> int | None:
    found = baseline_for(run, runs.list_runs())
    return found.run if found is not None else None


def test_an_exact_technique_owes_identical_losses() -> None:
    a_run()
    run = a_run(EXACT)
    found = baseline_for(run, runs.list_runs())
    assert found is not None
    assert (found.run, found.name, found.allowed) == (1, "plain", 0.0)
    assert found.differing == ("activation_checkpointing",)
    assert compare(run.losses, found) == guard.verdict_on(run, runs.list_runs())
    verdict = compare(run.losses, found)
    assert verdict is not None and verdict.within and verdict.step == 0
    verdict = compare([6.0, 5.0, math.nextafter(4.0, 5.0)], found)
    assert verdict is not None and not verdict.within and verdict.step == 3


def test_tolerances_of_the_techniques_that_differ_add_up() -> None:
    a_run()
    run = a_run(EXACT, TOLERANT, "attention.implementation=eager")
    found = baseline_for(run, runs.list_runs())
    attention = techniques()["attention"].tolerance
    assert found is not None and attention is not None
    assert found.allowed == ALLOWED + attention


def test_a_technique_that_differs_in_its_parameters_counts_once() -> None:
    one, other = (plan(f"chunked_cross_entropy.chunk_size={size}") for size in (8, 16))
    assert owed(one, other) == guard.Owed(("chunked_cross_entropy",), ALLOWED)
    one, other = (plan(f"activation_checkpointing.every={every}") for every in (1, 2))
    assert owed(one, other) == guard.Owed(("activation_checkpointing",), 0.0)


def test_defaults_that_are_named_are_the_plain_run() -> None:
    assert owed(plan("fp32=on", "adamw=on"), plan()) == guard.Owed((), 0.0)


@pytest.mark.parametrize(
    "change",
    [
        "packing=on",
        "packing.window=8",
        "batch_size=2",
        "gradient_accumulation=2",
        "sequence_length=16",
        "learning_rate=1e-3",
        "schedule=cosine",
        "warmup_steps=1",
        "seed=1",
        "text_field=other",
        # The rows that are drawn, and their order, depend on how many are wanted.
        "steps=4",
    ],
)
def test_other_rows_or_another_workload_are_not_compared(change: str) -> None:
    a_run()
    assert chosen(a_run(change)) is None
    assert chosen(a_run(change, EXACT)) == 2, "but with the same on both sides it is"


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ("lora=on", "lora"),
        ("bf16=on", "bf16"),
        ("adamw_8bit=on", "adamw_8bit"),
        ("sgd=on", "sgd"),
        ("adamw.weight_decay=0.1", "adamw"),
        ("gradient_clipping=on", "gradient_clipping"),
    ],
)
def test_where_no_curve_is_owed_the_plainest_is_compared_with(change: str, free: str) -> None:
    a_run()
    a_run(EXACT)
    run = a_run(change, losses=[6.0, 3.0, 1.0])
    found = baseline_for(run, runs.list_runs())
    assert found is not None
    assert (found.run, found.allowed, found.free) == (1, None, (free,))
    verdict = compare(run.losses, found)
    assert verdict is not None and verdict.within
    assert (verdict.largest, verdict.step, verdict.allowed) == (0.75, 3, None)
    assert chosen(a_run(change, EXACT)) == 3, "but with the same on both sides one is owed"


def test_a_run_that_names_the_defaults_is_plain() -> None:
    a_run("adamw=on", "fp32=on")
    a_run("sgd=on")
    assert chosen(a_run("lora=on")) == 1


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (["adamw_8bit=on"], 0.0),
        (["sgd=on", EXACT, TOLERANT], ALLOWED),
        (["adamw.weight_decay=0.1"], 0.0),
        (["gradient_clipping=on"], 0.0),
        (["lora=on"], None),
        (["bf16=on"], None),
        (["sgd=on", "lora=on"], None),
    ],
)
def test_other_steps_begin_after_the_first_loss(changes: list[str], first: float | None) -> None:
    a_run()
    run = a_run(*changes, losses=[6.01, 3.0, 1.0])
    verdict = guard.verdict_on(run, runs.list_runs())
    assert verdict is not None and verdict.first == first
    assert verdict.held == (0 if first is None else 1)
    assert verdict.within == (first is None)
    assert verdict.step == (3 if first is None else 1)


def test_a_tolerance_is_held_for_ten_steps_and_identity_for_all() -> None:
    a_run(losses=[1.0] * 20)
    for step, within in ((10, False), (11, True)):
        losses = [1.0] * 20
        losses[step - 1] = 2.0
        verdict = guard.verdict_on(a_run(TOLERANT, losses=losses), runs.list_runs())
        assert verdict is not None
        assert (verdict.within, verdict.held, verdict.steps) == (within, 10, 20)
        assert (verdict.largest, verdict.step) == (1.0, step)
        verdict = guard.verdict_on(a_run(EXACT, losses=losses), runs.list_runs())
        assert verdict is not None and not verdict.within
        assert (verdict.held, verdict.step) == (20, step)


def test_runs_that_are_outside_are_found_and_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a_run()
    wrong = a_run(EXACT, losses=[6.0, 5.0, 4.5])
    a_run(EXACT)
    late = a_run("sgd=on", losses=[6.5, 5.0, 4.0])
    a_run("lora=on", losses=[6.5, 5.0, 4.0])
    a_run("steps=2", losses=[])
    judged: list[int] = []

    def count(run: Summary, *among: Any) -> bool:
        judged.append(run.run)
        return found(run, *among)

    found = guard._beyond
    monkeypatch.setattr(guard, "_beyond", count)
    assert guard.outside(runs.list_runs()) == {wrong.folder, late.folder}
    assert judged == [5, 4, 3, 2, 1]
    assert guard.outside(runs.list_runs()) == {wrong.folder, late.folder}
    assert len(judged) == 5
    again = a_run(EXACT, losses=[6.0, 5.0, 4.5])
    assert guard.outside(runs.list_runs()) == {wrong.folder, late.folder, again.folder}
    assert judged[5:] == [7]
    shutil.rmtree(runs.find_run("1").folder)
    assert wrong.folder not in guard.outside(runs.list_runs()), "there is none before it now"


def test_no_curve_is_owed_by_other_weights_or_on_another_device() -> None:
    a_run()
    assert chosen(a_run(weights="pretrained")) is None
    assert chosen(a_run(device=GPU)) is None
    assert chosen(a_run(device=Device("cpu", "another CPU", 8))) is None
    assert chosen(a_run(EXACT)) == 1


def test_adapters_with_other_parameters_are_other_models() -> None:
    a_run("lora.rank=4")
    other = baseline_for(a_run("lora.rank=8"), runs.list_runs())
    assert other is not None and (other.allowed, other.free) == (None, ("lora",))
    same = baseline_for(a_run("lora.rank=4", TOLERANT), runs.list_runs())
    assert same is not None and (same.run, same.allowed) == (1, ALLOWED)


def test_the_plainest_is_preferred_then_the_latest_that_is_done() -> None:
    a_run(EXACT)
    a_run()
    a_run()
    a_run(outcome="stopped", losses=LOSSES[:1])
    a_run(outcome="failed")
    a_run(outcome="oom", losses=[])
    a_run(EXACT)
    assert chosen(a_run(TOLERANT)) == 3
    first = runs.find_run("1")
    assert baseline_for(first, runs.list_runs()) is None, "nothing stands before it"


def test_thousands_of_runs_are_ranked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(12):
        a_run()
    ranked, plain = [], guard._richness
    monkeypatch.setattr(guard, "_richness", lambda run: ranked.append(run) or plain(run))
    guard._judged.clear()
    assert guard.outside(runs.list_runs()) == frozenset()
    assert len(ranked) == 12, "once each, not once for every other"


def test_a_stopped_run_serves_as_far_as_it_came() -> None:
    a_run(outcome="stopped", losses=[6.0, 5.5])
    run = a_run(EXACT)
    verdict = guard.verdict_on(run, runs.list_runs())
    assert verdict is not None and (verdict.steps, verdict.step) == (2, 2)
    assert verdict.largest == pytest.approx(0.5 / 5.5)
    assert not verdict.within


def test_a_loss_that_is_no_number_on_one_side_only_is_outside() -> None:
    nan = math.nan
    assert deviation([1.0, nan], [1.0, nan]) == (0.0, 0)
    assert deviation([1.0, nan], [1.0, 2.0]) == (math.inf, 2)
    assert deviation([1.0, 2.0], [1.0, nan]) == (math.inf, 2)
    assert deviation([1.0, 2.0], [0.0, 2.0]) == (math.inf, 1)
    assert deviation([], [1.0]) == (0.0, 0)
    a_run(losses=[6.0, nan])
    verdict = guard.verdict_on(a_run(TOLERANT, losses=[6.0, 5.0]), runs.list_runs())
    assert verdict is not None and not verdict.within


def test_before_the_first_step_there_is_no_verdict() -> None:
    a_run()
    found = baseline_for(a_run(EXACT, losses=[]), runs.list_runs())
    assert found is not None and compare([], found) is None


def test_a_gpu_may_add_in_another_order() -> None:
    a_run(device=GPU)
    found = baseline_for(a_run(EXACT, device=GPU), runs.list_runs())
    assert found is not None and found.allowed == guard.REORDERED


def test_other_versions_of_the_packages_owe_nothing() -> None:
    text = script(plan(), resolve("tiny"))
    versions = guard._versions(a_run(script=text).folder)
    assert {"Python", "torch", "transformers", "memwb"} <= versions.keys()
    newer = text.replace(f"torch {versions['torch']}", "torch 99.0")
    assert newer != text
    assert chosen(a_run(EXACT, script=newer)) is None
    assert chosen(a_run(EXACT, script=text)) == 1


def test_a_data_file_that_was_changed_meanwhile_owes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("words " * 100)
    os.utime(data, (1e9, 1e9))
    a_run(f"data={data}")
    run = a_run(f"data={data}", EXACT)
    assert chosen(run) == 1
    os.utime(data, (1e10, 1e10))
    assert chosen(run) is None
    data.unlink()
    assert chosen(run) is None


def test_a_plan_that_cannot_be_read_is_passed_over() -> None:
    for _ in range(2):
        a_run()
    run = a_run(EXACT)
    plans = [Path(run.folder).with_name(f"{number:04}") / runs.PLAN for number in (2, 1)]
    plans[0].write_text('model = "tiny"\n[techniques.gone]\n')
    assert chosen(run) == 1
    plans[1].unlink()
    assert chosen(run) is None


def test_plans_are_read_only_until_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        a_run(EXACT)
        a_run("seed=1")
    a_run()
    run = a_run(TOLERANT)
    read: list[str] = []

    def count(folder: str) -> Plan:
        read.append(Path(str(folder)).name)
        return runs.read_plan(folder)

    monkeypatch.setattr(guard, "read_plan", count)
    assert chosen(run) == 41
    assert read == ["0042", "0041"]
    assert chosen(run) == 41
    assert len(read) == 2, "and once only"


def test_a_verdict_is_plain_data() -> None:
    a_run()
    verdict = guard.verdict_on(a_run(EXACT, losses=[math.nan]), runs.list_runs())
    found = msgspec.json.decode(msgspec.json.encode(verdict))
    assert found["largest"] is None and found["within"] is False
    assert found["differing"] == ["activation_checkpointing"]


def test_every_technique_alone_owes_what_it_declares() -> None:
    for name, technique in techniques().items():
        found = owed(toggle(plan(), name, True), plan())
        if technique.exact or technique.tolerance is not None:
            assert found is not None and found.allowed == (technique.tolerance or 0.0), name
            assert found.free == ()
        elif technique.group == "sequence":
            assert found is None, name
        else:
            assert found is not None and found.free == (name,), name
            assert found.allowed is None
            assert (found.first == 0.0) == (technique.group in ("optimizer", "step")), name


def test_a_pinned_run_takes_the_place_of_the_baseline_where_it_can(home: Path) -> None:
    a_run()
    bent = a_run(EXACT, losses=[6.0, 5.0, 4.5])
    run = a_run(EXACT)
    other = a_run("steps=2")

    def shown(run: Summary) -> int | None:
        found = guard.reference_for(run, runs.list_runs())
        return found.run if found is not None else None

    assert shown(run) == 1
    keeping.pin_run(bent)
    assert shown(run) == bent.run
    assert shown(runs.find_run("1")) == bent.run, "one before it, too"
    assert shown(bent) == 1, "it is not its own"
    assert shown(other) is None, "other rows"
    verdict = guard.verdict_on(run, runs.list_runs())
    assert verdict is not None and not verdict.within
    assert guard.outside(runs.list_runs()) == {bent.folder}, "a pin makes no other run wrong"
