"""How far a run is from its baseline, as it is told: on the screen, and by the command line."""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from memwb.engine.guard import Verdict
from memwb.engine.plan import Plan, override
from memwb.engine.presets import load_plan
from memwb.engine.protocol import Ended, Event, Step
from memwb.engine.runs import find_run
from memwb.engine.technique import techniques
from memwb.workbench.cli import main
from memwb.workbench.deviation import gap, share, verdict_line
from memwb.workbench.headless.burst import burst, engine
from memwb.workbench.panels import texts
from memwb.workbench.trace import trace_of

SIZE = (120, 40)
EXACT = "activation_checkpointing=on"
FAKE = Path(__file__).with_name("fake_engine.py")
Out = pytest.CaptureFixture[str]


def verdict(largest: float, step: int, allowed: float) -> Verdict:
    return Verdict(
        run=3,
        name="plain",
        differing=("attention",),
        steps=8,
        largest=largest,
        step=step,
        allowed=allowed,
        within=largest <= allowed,
    )


def bent(events: Sequence[Event], step: int, factor: float) -> list[Event]:
    """The events of a burst whose loss at a step is another one."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, Step) and event.step == step:
            event = replace(event, loss=event.loss * factor)
        if isinstance(event, Ended):
            losses = list(event.losses)
            losses[step - 1] *= factor
            event = replace(event, losses=losses)
        found.append(event)
    return found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0.0, 0, 0.0), "= #3, identical"),
        ((0.000204, 5, 0.008), "≤ 2.1e-4 from #3 (8e-3 allowed)"),
        ((0.032, 5, 2**-7), "✗ outside: 3.2e-2 from #3 at step 5, 7.8e-3 allowed"),
        ((1e-7, 2, 0.0), "✗ outside: 1e-7 from #3 at step 2, none allowed"),
        ((math.inf, 2, 0.1), "✗ outside: a number in only one of this and #3 at step 2"),
    ],
)
def test_the_line(given: tuple[float, int, float], words: str) -> None:
    assert verdict_line(verdict(*given)) == words


@pytest.mark.parametrize(
    ("free", "words"),
    [
        (("adamw_8bit",), "2.1e-5 from #3 (AdamW 8-bit takes other steps: need not match)"),
        (("lora",), "2.1e-5 from #3 (LoRA trains another model: need not match)"),
        (("lora", "sgd"), "2.1e-5 from #3 (LoRA + SGD: need not match)"),
    ],
)
def test_the_line_where_curves_need_not_match(free: tuple[str, ...], words: str) -> None:
    told = replace(verdict(2.1e-5, 3, 1.0), allowed=None, free=free)
    assert verdict_line(told) == words
    assert verdict_line(replace(told, largest=0.0, step=0)) == "= #3, identical"
    first = replace(told, largest=0.01, step=1, within=False, first=0.0, held=1)
    assert verdict_line(first) == "✗ outside: 1e-2 from #3 at step 1, none allowed"


def test_the_line_beyond_where_a_tolerance_holds() -> None:
    told = replace(verdict(0.02, 400, 0.008), within=True, held=10)
    assert verdict_line(told) == "≤ 2e-2 from #3 (8e-3 allowed in steps 1–10)"


@pytest.mark.parametrize("allowed", [0.0, 1e-3])
def test_what_is_outside_fits_beside_the_loss_and_the_speed(play: Any, allowed: float) -> None:
    trace = trace_of(play("full"), "#5")
    whole = texts.loss_line(trace).plain
    for room in (74, 68, 48):
        line = texts.loss_line(trace, verdict(1.2e-2, 2, allowed), room)
        assert line.plain.startswith("✗") and line.plain.endswith(whole)
        assert line.cell_length <= room
        assert "1.2e-2 from #3" in line.plain
        within = texts.loss_line(trace, verdict(1.2e-4, 2, 7.8e-3), room)
        assert within.cell_length <= room and "≤ 1.2e-4 from #3" in within.plain


def test_the_curve_behind_is_called_as_the_history_calls_it() -> None:
    behind = SimpleNamespace(run=1, name="lora + gradient_clipping")
    trace: Any = SimpleNamespace(label="#2", baseline=behind)
    assert texts.loss_behind(trace) == " · #2, dotted #1 LoRA + gradient clipping"


def test_a_gap_that_nothing_bounds_cannot_be_taken_for_a_loss() -> None:
    told = [gap(value) for value in (0.0, 2.14e-4, 9.9e-3, 0.01, 0.0224, 0.2245, 3.0, math.inf)]
    assert told == ["0", "2.1e-4", "9.9e-3", "1 %", "2.2 %", "22 %", "300 %", "inf"]


def test_a_share_is_rounded_up_where_it_is_a_bound() -> None:
    assert [share(value, up=True) for value in (1e-4, 1.01e-4, 9.95e-4, 1.0)] == [
        "1e-4",
        "1.1e-4",
        "1e-3",
        "1e0",
    ]
    assert share(1.04e-4) == "1e-4" and share(0.0) == "0"


def test_what_is_outside_comes_first_and_in_the_style_of_errors(play: Any) -> None:
    trace = trace_of(play("full"), "#5")
    within = texts.loss_line(trace, verdict(1e-4, 2, 1e-3))
    outside = texts.loss_line(trace, verdict(1e-2, 2, 1e-3))
    assert within.plain.endswith("≤ 1e-4 from #3 (1e-3 allowed)")
    assert outside.plain.startswith("✗ outside: 1e-2 from #3 at step 2, 1e-3 allowed")
    assert not any("error" in str(span.style) for span in within.spans)
    assert any("$text-error" in str(span.style) for span in outside.spans)
    assert "from #3" not in texts.loss_line(trace).plain


def loss_panel(app: Any) -> tuple[str, str, dict[str, Any]]:
    panel = app.screen_stack[0].loss
    return panel.border_title, panel.border_subtitle, panel.query_one("#loss-chart")._shown


def said_of(app: Any, row: int) -> str:
    found = app.screen_stack[0].runs.rows.rows[row]
    return "".join(text for text, _ in (*found.left, *found.right))


async def test_the_curve_lies_over_its_baseline_while_it_runs(
    bench: Any, waiting: Any, play: Any
) -> None:
    steps = len(play("full")[-1].losses)
    app = bench("full", bent(play("full"), 2, 1.5), plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        title, subtitle, shown = loss_panel(app)
        assert title == "3 Loss" and "#" not in subtitle and list(shown) == [""]
        app.change_plan(override(app.session.plan, "activation_checkpointing=on"))
        app.scripted.hold = True
        await pilot.press("r")
        await waiting(pilot, lambda: "✗" in loss_panel(app)[1])
        title, subtitle, shown = loss_panel(app)
        assert app.engine_state == "running"
        assert title == "3 Loss · #2, dotted #1 plain"
        assert "none allowed" in subtitle and "$text-error" in subtitle
        assert shown["#1"].overlay and len(shown["#1"].points) == steps
        assert not shown["#2"].overlay
        assert not app.main.notice.display
        app.scripted.emit(bent(play("full"), 2, 1.5)[-1])
        await waiting(pilot, lambda: app.main.notice.display)
        told = str(app.main.notice.render())
        assert "#2 does not follow #1 plain" in told and "activation checkpointing" in told
        await waiting(pilot, lambda: "✗ loss" in said_of(app, 0))
        assert "✗ loss" not in said_of(app, 1)


async def test_an_identical_run_is_said_to_be_and_another_model_is_not_judged(
    bench: Any, waiting: Any
) -> None:
    app = bench("full", "full", "lora", plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for count, override_ in enumerate(("bf16=off", "activation_checkpointing=on", "lora=on")):
            app.change_plan(override(app.session.plan, override_))
            await pilot.press("r")
            await waiting(
                pilot,
                lambda n=count: len(app.recorded) == n + 1 and app.recorded[0].outcome == "done",
            )
            if count == 1:
                await waiting(pilot, lambda: "identical" in loss_panel(app)[1])
                assert not app.main.notice.display
        await waiting(pilot, lambda: "from #1" in loss_panel(app)[1])
        title, subtitle, shown = loss_panel(app)
        assert title == "3 Loss · #3, dotted #1 plain" and shown["#1"].overlay
        assert "need not match" in subtitle and "✗" not in subtitle
        assert not app.main.notice.display
        first, second = app.recorded[2].folder, app.recorded[1].folder
        app.keep(replace(app.session, marks=(first, second)))
        app.show_runs()
        await waiting(pilot, lambda: "B #2 = #1, identical" in app.main.peak.text)
        app.show_run(second)
        await waiting(pilot, lambda: "= #1, identical" in loss_panel(app)[1])
        assert loss_panel(app)[2]["#1"].overlay


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMWB_ENGINE", f"'{sys.executable}' -P '{FAKE}' done")


def document(out: Out) -> Any:
    return json.loads(out.readouterr().out)


def test_the_command_line_tells_and_flags(fake: None, capsys: Out) -> None:
    run = ["run", "tiny-demo", "-o", "workload.steps=2"]
    assert main([*run, "--json"]) == 0
    assert document(capsys)["baseline"] is None
    assert main([*run, "-o", EXACT]) == 0
    assert "        = #1, identical\n" in capsys.readouterr().out
    assert main([*run, "-o", EXACT, "--json"]) == 0
    assert document(capsys)["baseline"] == {
        "run": 1,
        "name": "plain",
        "differing": ["activation_checkpointing"],
        "steps": 2,
        "largest": 0.0,
        "step": 0,
        "allowed": 0.0,
        "within": True,
        "held": 2,
        "free": [],
        "first": None,
    }
    perturb("2", 1.25)
    words = "✗ outside: 2.5e-1 from #1 at step 2, none allowed"
    assert main(["runs", "show", "2"]) == 0
    assert words in capsys.readouterr().out
    assert main(["runs", "compare", "1", "2"]) == 0
    assert words in capsys.readouterr().out
    assert main(["runs", "list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if "✗" in line] == ["2", "✗"]
    assert main(["runs", "show", "2", "--json"]) == 0
    assert document(capsys)["baseline"]["within"] is False
    assert main(["runs", "compare", "1", "2", "--json"]) == 0
    assert document(capsys)["baseline"][0]["step"] == 2


def test_two_runs_that_owe_nothing_are_only_measured(fake: None, capsys: Out) -> None:
    run = ["run", "tiny-demo", "-o", "workload.steps=2"]
    assert main(run) == 0
    assert main([*run, "-o", "lora=on"]) == 0
    perturb("2", 1.25)
    capsys.readouterr()
    assert main(["runs", "compare", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "25 % at step 2" in out and "allowed" not in out
    words = "25 % from #1 (LoRA trains another model: need not match)"
    assert words in out
    assert main(["runs", "show", "2"]) == 0
    assert words in capsys.readouterr().out
    assert main(["runs", "list"]) == 0
    assert "✗" not in capsys.readouterr().out


def test_real_bursts_keep_to_what_their_techniques_allow(
    warm: Any, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMWB_ENGINE", shlex.join(warm.python("-m", "memwb.engine")))
    tolerant = "chunked_cross_entropy.chunk_size=16"
    plans = [
        load_plan("tiny-demo", ["steps=3", "batch_size=1", "sequence_length=64", *more])
        for more in ((), (EXACT,), (EXACT, tolerant))
    ]

    async def all_of_them() -> None:
        async with engine() as running:
            for count, plan in enumerate(plans):
                done = await burst(running, plan, lambda *_: None, "cpu", warm=count > 0)
                assert done.ended.outcome == "done"

    asyncio.run(all_of_them())
    assert main(["runs", "show", "2"]) == 0
    assert "= #1, identical" in capsys.readouterr().out
    assert main(["runs", "show", "3", "--json"]) == 0
    found = document(capsys)["baseline"]
    assert (found["run"], found["differing"]) == (
        1,
        ["activation_checkpointing", "chunked_cross_entropy"],
    )
    assert found["within"] and found["allowed"] == techniques()["chunked_cross_entropy"].tolerance
    perturb("2", 1 + 1e-6)
    assert main(["runs", "show", "2"]) == 0
    assert "✗ outside: 1e-6 from #1 at step 3, none allowed" in capsys.readouterr().out


def perturb(run: str, factor: float) -> None:
    """Write the summary of a run as if its last loss had been another."""
    summary = find_run(run)
    file = Path(summary.folder) / "summary.json"
    data = json.loads(file.read_text())
    data["losses"][-1] *= factor
    file.write_text(json.dumps(data))
