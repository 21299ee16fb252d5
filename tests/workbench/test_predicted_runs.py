"""A run beside predictions: it waits for its own, asks where it will not fit, and goes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from textual.widgets import Static

from memwb.engine.client import DIED
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import (
    AllPredicted,
    Event,
    Predict,
    Predicted,
    Start,
    Stop,
    Toggled,
    Unpredicted,
)
from memwb.engine.runs import list_runs
from memwb.workbench import predictor
from memwb.workbench.screens.ask import AskScreen

SIZE = (120, 40)


GIB = 2**30


def plan_of(*overrides: str) -> Plan:
    plan = Plan(model="tiny")
    for text in overrides:
        plan = override(plan, text)
    return plan


def beside(app: Any, name: str) -> str:
    spans = app.main.plan_panel.rows._beside.get(f"technique:{name}", ())
    return "".join(text for text, _ in spans)


def silent(question: Predict) -> Sequence[Event]:
    return []


def too_large(forecast: Callable[..., Any]) -> Any:
    return forecast(base=91 * GIB)


@pytest.mark.parametrize("sure", [True, False])
async def test_a_plan_that_will_not_fit_is_asked_about(
    bench: Any, waiting: Any, forecast: Any, sure: bool
) -> None:
    app = bench("full", plan=plan_of(), forecast=too_large(forecast))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        text = app.screen._text.plain
        assert "Predicted 91.1 GiB, this machine has 16.0 GiB" in text
        assert "would save the most" in text and "amp bf16" in text
        assert not app.scripted.commands
        await pilot.press("y" if sure else "n")
        await waiting(pilot, lambda: app.screen is app.main)
        if sure:
            await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        else:
            assert not app.scripted.commands and app.engine_state == "ready"


async def test_space_then_r_waits_a_moment_for_what_is_predicted(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    def answer(question: Predict) -> Sequence[Event]:
        large = "lora" in question.plan.get("techniques", {})
        result = too_large(forecast) if large else forecast()
        return [Predicted(question.prediction, result), AllPredicted(question.prediction, 0.1)]

    app = bench("full", plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.press("space", "r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        assert not app.scripted.commands


async def test_a_run_waits_for_what_is_predicted(
    bench: Any, waiting: Any, forecast: Any, changes: Any
) -> None:
    app = bench("full", plan=plan_of(), forecast=silent)
    result = too_large(forecast)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.scripted.questions)
        await pilot.press("r")
        await pilot.pause(1.2)
        assert not app.scripted.commands and app.screen is app.main, "no moment is long enough"
        assert "takes it back" in app.main.query_one("#header").render().plain
        name = app.scripted.questions[-1].prediction
        app.scripted.emit(Predicted(name, result))
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "What would save is still being predicted" in app.screen._text.plain
        # Enter, which opens and accepts everywhere else, is no leave to run.
        assert "esc" in app.screen._text.plain
        await pilot.press("enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert not app.scripted.commands
        app.scripted.emit(Toggled(name, changes(result)[0]))
        await waiting(pilot, lambda: app.predictor.outlook.fresh)
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "of what is predicted so far" in app.screen._text.plain


async def test_an_edit_takes_a_waiting_run_back(bench: Any, waiting: Any, forecast: Any) -> None:
    app = bench("full", plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.scripted.questions)
        await pilot.press("r")
        app.change_plan(plan_of("lora=on"))
        await waiting(pilot, lambda: len(app.scripted.questions) == 2)
        for question in app.scripted.questions:
            app.scripted.emit(Predicted(question.prediction, forecast()))
        await waiting(pilot, lambda: app.predictor.outlook.current)
        assert not app.scripted.commands and not app.bursts.wanted


async def test_a_run_that_waits_does_not_outlive_the_engine(bench: Any, waiting: Any) -> None:
    app = bench("full", plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.scripted.questions)
        await pilot.press("r")
        name = app.scripted.questions[-1].prediction
        app.scripted.emit(Unpredicted(name, DIED, "its process ended"))
        app.scripted.die()
        await waiting(pilot, lambda: app.engine_state == "dead")
        assert not app.scripted.commands and not app.bursts.wanted
        assert all("…" not in beside(app, name) for name in ("lora", "bf16", "sgd"))


async def test_an_idle_engine_does_not_die_of_an_earlier_burst(
    bench: Any, waiting: Any, short: Any
) -> None:
    app = bench(short("oom", "Out of memory", "in backward"), plan=plan_of())
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.settled)
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "oom")
        app.scripted.die()
        await waiting(pilot, lambda: app.engine_state == "dead")
        told = str(app.main.notice.render())
        assert "process is gone" in told and "in backward" not in told


async def test_a_run_that_has_waited_long_asks(
    bench: Any, waiting: Any, forecast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "PATIENCE", 0.1)
    app = bench("full", plan=plan_of(), forecast=silent, hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "still being predicted: run anyway?" in app.screen._text.plain
        assert not app.scripted.commands
        await pilot.press("y")
        await waiting(pilot, lambda: app.live and app.live.steps)
        assert isinstance(app.scripted.commands[0], Start)
        # It comes while the burst runs, and is kept with it all the same.
        result = forecast()
        assert "× predicted" not in app.main.peak.text, "its peak is not known yet"
        app.scripted.emit(Predicted(app.scripted.questions[-1].prediction, result))
        await waiting(pilot, lambda: app.live.predicted == result.peak)
        await pilot.press("s")
        await waiting(pilot, lambda: [run.outcome for run in list_runs()] == ["stopped"])
        assert isinstance(app.scripted.commands[-1], Stop)
        assert list_runs()[0].predicted == result.peak


@pytest.mark.parametrize("target", ["", "h100-80gb"])
async def test_an_open_question_whether_to_run_learns_of_the_answer(
    bench: Any, waiting: Any, forecast: Any, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(predictor, "PATIENCE", 0.1)
    app = bench("full", plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        app.aim(target)
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        question = app.screen
        box = question.query_one(Static)
        assert box.border_title == "Not predicted yet"
        await pilot.pause(predictor.DELAY)
        assert not app.scripted.questions[-1].target, "what a run waits for comes first"
        asked = [each.prediction for each in app.scripted.questions if not each.target]
        app.scripted.emit(Predicted(asked[-1], forecast()))
        await waiting(pilot, lambda: box.border_title == "This plan fits")
        assert "run it?" in str(box.render()) and "y run anyway" in str(box.render())
        assert app.screen is question and not app.scripted.commands, "it is not answered by itself"
        await pilot.press("y")
        await waiting(pilot, lambda: app.scripted.commands)


async def test_an_open_question_whether_to_run_learns_that_there_is_no_answer(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "PATIENCE", 0.1)
    app = bench("full", plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        app.scripted.emit(Unpredicted(app.scripted.questions[-1].prediction, "Not to be told"))
        box = app.screen.query_one(Static)
        await waiting(pilot, lambda: box.border_title == "Not predicted")


async def test_s_takes_back_a_run_that_waits(bench: Any, waiting: Any, forecast: Any) -> None:
    app = bench("full", plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r", "s")
        await pilot.pause()
        assert not app.bursts.wanted
        app.scripted.emit(Predicted(app.scripted.questions[-1].prediction, forecast()))
        await waiting(pilot, lambda: app.predictor.outlook.current)
        assert not app.scripted.commands


async def test_changes_rest_while_a_burst_is_timed(bench: Any, waiting: Any, forecast: Any) -> None:
    def answer(question: Predict) -> Sequence[Event]:
        told = [Predicted(question.prediction, forecast())]
        done = len(app.scripted.questions) > 2
        return [*told, AllPredicted(question.prediction, 1.0)] if done else told

    app = bench("full", plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.current)
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        assert [each.changes for each in app.scripted.questions] == [True, False, True]


async def test_another_target_does_not_decide_what_runs_here(
    bench: Any, waiting: Any, forecast: Any, home: Any
) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('target = "rtx-4090"\n')

    def answer(question: Predict) -> Sequence[Event]:
        abroad = question.target == "rtx-4090"
        result = forecast("rtx-4090", base=91 * GIB) if abroad else forecast()
        return [Predicted(question.prediction, result), AllPredicted(question.prediction, 0.1)]

    app = bench("full", plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert app.recorded[0].predicted == forecast().peak
        assert [each.target for each in app.scripted.questions] == ["rtx-4090", ""]
        assert app.main.peak.border_title.endswith("predicted for rtx-4090")


async def test_changes_for_another_target_go_on_when_nothing_is_run(
    bench: Any, waiting: Any, forecast: Any, home: Any
) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('target = "rtx-4090"\n')

    def answer(question: Predict) -> Sequence[Event]:
        here = Predicted(question.prediction, too_large(forecast))
        if question.target:
            return [Predicted(question.prediction, forecast("rtx-4090"))]
        return [here, AllPredicted(question.prediction, 0.1)]

    app = bench("full", plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.current)
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        # While the question stands, too: it is said to be predicted.
        await waiting(pilot, lambda: len(app.scripted.questions) == 3)
        await pilot.press("n")
        await pilot.pause()
        told = [(each.target, each.changes) for each in app.scripted.questions]
        assert told == [("rtx-4090", True), ("", False), ("rtx-4090", True)]


async def test_what_waits_for_a_prediction_for_this_machine_says_so(
    bench: Any, waiting: Any, forecast: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('target = "rtx-4090"\n')
    monkeypatch.setattr(predictor, "PATIENCE", 0.05)
    app = bench("full", plan=plan_of(), forecast=lambda question: [])
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.scripted.questions)
        shown = app.main.plan_panel
        assert "predicting …" in str(shown.border_subtitle)
        await pilot.press("r")
        await waiting(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "predicting for this machine first" in str(shown.border_subtitle)
        here, other = app.scripted.questions[-1], forecast("rtx-4090")
        assert not here.target
        app.scripted.emit(Predicted(here.prediction, forecast()))
        await waiting(pilot, lambda: app.scripted.questions[-1].target == "rtx-4090")
        assert "predicting …" in str(shown.border_subtitle)
        app.scripted.emit(Predicted(app.scripted.questions[-1].prediction, other))
        await waiting(pilot, lambda: "predicting" not in str(shown.border_subtitle))


async def test_what_the_hub_is_asked_for_is_said(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    far = Plan(model="someone/some-model")
    app = bench(plan=far, forecast=lambda question: [])
    async with app.run_test(size=(80, 24)) as pilot:
        shown = app.main.plan_panel
        await waiting(pilot, lambda: "asking the hub for its config" in str(shown.border_subtitle))
        told = Unpredicted(app.scripted.questions[-1].prediction, "The hub cannot be reached")
        app.scripted.emit(told)
        await waiting(pilot, lambda: "cannot be reached" in str(shown.border_subtitle))
