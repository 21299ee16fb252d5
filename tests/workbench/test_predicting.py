"""Predictions in the workbench: asked on every edit, shown, held against what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from memwb.engine.devices import device_for
from memwb.engine.plan import Plan, override, plan_data
from memwb.engine.prediction import Fit, Prediction
from memwb.engine.prediction_cache import Kept, keep
from memwb.engine.protocol import (
    CATEGORIES,
    AllPredicted,
    Device,
    Event,
    Predict,
    Predicted,
    Started,
    Toggled,
    Unpredicted,
)
from memwb.engine.question import Question
from memwb.workbench import outlook as outlooks
from memwb.workbench import predictor
from memwb.workbench.foresight import capacity_of
from memwb.workbench.panels import forecast as forecasts
from memwb.workbench.panels import toggles as words
from memwb.workbench.panels.forecast import fits_line
from memwb.workbench.panels.forecast_whole import whole
from memwb.workbench.trace import Trace

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


def looks(app: Any, name: str) -> list[str]:
    return [style for _, style in app.main.plan_panel.rows._beside.get(f"technique:{name}", ())]


def silent(question: Predict) -> Sequence[Event]:
    return []


async def test_every_edit_is_predicted_once(
    bench: Any, waiting: Any, forecast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three keys take longer than the usual delay on a busy machine.
    monkeypatch.setattr(predictor, "DELAY", 1.0)
    app = bench(plan=plan_of(), forecast=forecast())
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        assert [question.changes for question in app.scripted.questions] == [True]
        app.main.plan_panel.rows.select("technique:lora")
        # Three edits in a row: the last one is what is asked about.
        await pilot.press("space", "space", "space")
        assert app.predictor.outlook.state == outlooks.WAITING
        assert app.main.peak.text.splitlines()[1].endswith("…")
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        assert len(app.scripted.questions) == 2
        first, second = app.scripted.questions
        assert "lora" in second.plan["techniques"] and first.prediction != second.prediction
        await pilot.press("down")
        assert len(app.scripted.questions) == 2, "moving about is no edit"


async def test_answers_to_earlier_questions_are_dropped(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench(plan=plan_of(), forecast=silent)
    old, new = forecast(base=GIB), forecast()
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: len(app.scripted.questions) == 1)
        app.change_plan(plan_of("lora=on"))
        await waiting(pilot, lambda: len(app.scripted.questions) == 2)
        first, second = (question.prediction for question in app.scripted.questions)
        app.scripted.emit(Predicted(first, old), AllPredicted(first, 1.0))
        app.scripted.emit(Predicted(second, new))
        await waiting(pilot, lambda: app.predictor.outlook.current)
        assert app.predictor.outlook.result == new and not app.predictor.outlook.complete


async def test_old_changes_stay_what_they_were_until_new_ones_come(
    bench: Any, waiting: Any, forecast: Any, changes: Any
) -> None:
    small, large = forecast(), forecast(base=GIB)

    def answer(question: Predict) -> Sequence[Event]:
        name = question.prediction
        if "lora" in question.plan.get("techniques", {}):
            return [Predicted(name, large)]
        told = [Toggled(name, change) for change in changes(small)]
        return [Predicted(name, small), *told, AllPredicted(name, 0.1)]

    app = bench(plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: "MiB" in beside(app, "bf16"))
        before = beside(app, "bf16").strip()
        app.change_plan(plan_of("lora=on"))
        await waiting(pilot, lambda: app.predictor.outlook.result == large)
        assert beside(app, "bf16").split("…")[0].strip() == f"~{before}"
        assert looks(app, "bf16")[0] == "old" and beside(app, "bf16").endswith("… ")
        name = app.scripted.questions[-1].prediction
        told = {change.technique: change for change in changes(large)}
        app.scripted.emit(Toggled(name, told["bf16"]), AllPredicted(name, 0.1))
        await waiting(pilot, lambda: looks(app, "bf16")[0] == "saves")
        assert beside(app, "bf16").strip() != before


def told_of(plan: Plan, result: Prediction, changes: Any) -> outlooks.Outlook:
    outlook = outlooks.asked(outlooks.Outlook(), "1", plan, "")
    for event in (Predicted("1", result), *(Toggled("1", one) for one in changes(result))):
        outlook = outlooks.told(outlook, event)
    return outlook


def test_an_old_change_goes_where_the_row_means_the_opposite(forecast: Any, changes: Any) -> None:
    before, after = plan_of(), plan_of("lora=on")
    aged = outlooks.waiting(told_of(before, forecast(), changes), after, "")

    def old(name: str) -> bool:
        return any(style == "old" for _, style in words.toggle_spans(aged, name, None, after))

    assert not old("lora") and not old("ia3"), "one of its group is on now"
    assert old("sgd") and old("bf16")
    back = outlooks.waiting(aged, before, "")
    assert words.toggle_spans(back, "lora", None, before)[0][1] == "old"
    broken = outlooks.unasked(aged, after, "")
    assert [style for _, style in words.toggle_spans(broken, "sgd", None, after)] == [
        "old",
        "muted",
    ]
    assert "…" not in words.toggle_spans(broken, "sgd", None, after)[1][0], "none is on its way"


def test_nothing_stays_of_another_model_or_target(forecast: Any, changes: Any) -> None:
    outlook = told_of(plan_of(), forecast(), changes)
    assert outlooks.waiting(outlook, plan_of("lora=on"), "").gaps
    for plan, target in ((plan_of("model=smollm2-135m"), ""), (plan_of(), "rtx-4090")):
        for aged in (
            outlooks.waiting(outlook, plan, target),
            outlooks.asked(outlook, "2", plan, target),
        ):
            assert not aged.gaps and aged.result is None
            assert words.toggle_spans(aged, "sgd", None, plan) == ((" …  ", "muted"),)
    changed = plan_of("lora=on")
    assert "✓" not in forecasts.one_line(outlooks.waiting(outlook, changed, ""), None)
    # Rounded against the plan that it was told of, not against a larger one that came later.
    larger = outlooks.asked(outlook, "2", changed, "")
    larger = outlooks.told(larger, Predicted("2", forecast(base=91 * GIB)))
    before = words.toggle_spans(outlook, "sgd", None, plan_of())[0][0]
    assert "±0" not in before and words.toggle_spans(larger, "sgd", None, changed)[0][0] == before


async def test_a_plan_with_problems_is_not_asked_about(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench(plan=plan_of(), forecast=forecast())
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        app.change_plan(plan_of("techniques.quantize_4bit={}"))
        await waiting(pilot, lambda: app.main.plan_panel.found)
        await pilot.pause(predictor.DELAY + 0.1)
        assert len(app.scripted.questions) == 1
        assert app.predictor.outlook.state == outlooks.PROBLEMS
        assert "plan has problems" in app.main.peak.text
        assert looks(app, "bf16")[0] == "old", "no toggle is of this plan"
        await pilot.press("u")
        await waiting(pilot, lambda: app.predictor.outlook.current)
        assert "plan has problems" not in app.main.peak.text


@pytest.mark.parametrize("size", [(120, 40), (200, 50)])
async def test_the_peak_panel_tells_predicted_beside_measured(
    bench: Any, waiting: Any, forecast: Any, size: tuple[int, int]
) -> None:
    result = forecast()
    app = bench("full", plan=plan_of(), forecast=result)
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        head, predicted, measured, *rest = app.main.peak.text.splitlines()
        assert len(head.split()) == 9 and predicted.split()[1] == "75.1"
        assert measured.split() == ["measured", "not", "yet", "measured"]
        assert rest[0] == result.words[0] and "✓ rtx-2060-6gb 6" in rest[1]
        assert app.main.peak.border_title == "4 Peak · predicted for cpu"
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert app.recorded[0].predicted == result.peak
        _, _, measured, ratio, *_ = app.main.peak.text.splitlines()
        assert measured.startswith("#1 tiny, cpu ") and measured.split()[3] == "76.0"
        assert ratio.startswith("#1 measured 1.012 × predicted 75.1 MiB")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_maximised_the_peak_panel_tells_everything(
    bench: Any, waiting: Any, forecast: Any, size: tuple[int, int]
) -> None:
    result = forecast()
    app = bench(plan=plan_of(), forecast=result)
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("4", *(() if size[0] < 100 else ("m",)))
        await pilot.pause()
        text = " ".join(app.main.peak.text.split())
        for told in (*result.words, *result.notes, *(fit.gpu for fit in result.fits)):
            assert told in text
        for large in result.largest:
            assert (
                large.op.removeprefix("aten.") in text and "×".join(map(str, large.shape)) in text
            )


async def test_a_small_terminal_tells_the_most_useful_line_with_the_plan(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench(plan=plan_of(), forecast=forecast("rtx-4080"))
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        line = str(app.main.plan_panel.border_subtitle)
        assert line.startswith("predicted 75.1 MiB · ✓ fits rtx-4080 · peak in backward: fp32")


def test_gpus_of_another_architecture_are_marked(forecast: Any) -> None:
    result = forecast("rtx-4070")
    assert "~" not in whole(outlook_of(result), None, None, 120).plain
    fits = tuple(msgspec.structs.replace(f, same_kernels=f.gpu == "rtx-4070") for f in result.fits)
    result = msgspec.structs.replace(result, fits=fits)
    assert "✓ rtx-4070" in fits_line(result, 120).plain
    assert "✓ ~rtx-4090" in fits_line(result, 120).plain
    shown = whole(outlook_of(result), None, None, 120).plain
    assert "~rtx-4090" in shown and "~ another architecture" in shown


def outlook_of(result: Prediction) -> outlooks.Outlook:
    return outlooks.Outlook(state=outlooks.CURRENT, result=result)


async def test_a_small_terminal_says_why_a_plan_is_not_predicted(bench: Any, waiting: Any) -> None:
    app = bench(plan=plan_of("lora=on"), forecast=silent)
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.main.plan_panel
        await waiting(pilot, lambda: app.scripted.questions)
        assert str(panel.border_subtitle) == "predicting …"
        name = app.scripted.questions[-1].prediction
        told = Unpredicted(name, "The plan cannot be predicted", "lora: reads data", "", "lora")
        app.scripted.emit(told, AllPredicted(name, 0.1))
        await waiting(pilot, lambda: app.predictor.outlook.settled)
        assert str(panel.border_subtitle) == "not predicted: LoRA: reads data"
        assert beside(app, "lora").strip() == "?"


async def test_what_each_toggle_would_change_stands_beside_it(
    bench: Any, waiting: Any, forecast: Any, changes: Any
) -> None:
    result = forecast("rtx-4070")
    peak = result.peak
    tight = Fit("rtx-4070", peak.allocated + peak.device - peak.reserved, "tight", 0)
    result = msgspec.structs.replace(result, fits=(tight, *result.fits))
    told = {change.technique: change for change in changes(result)}

    def answer(question: Predict) -> Sequence[Event]:
        name = question.prediction
        return [Predicted(name, result), *(Toggled(name, told[key]) for key in ("lora", "packing"))]

    app = bench(plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: "MiB" in beside(app, "packing"))
        assert beside(app, "lora").strip().startswith("\N{MINUS SIGN}")
        assert looks(app, "lora")[0] == "saves"
        assert beside(app, "packing").strip().startswith("+")
        assert beside(app, "packing").endswith(" ! "), "it would not fit any more"
        assert beside(app, "bf16").strip() == "…", "not told yet"
        name = app.scripted.questions[-1].prediction
        app.scripted.emit(Toggled(name, told["torch_compile"]), Toggled(name, told["sgd"]))
        app.scripted.emit(AllPredicted(name, 1.0))
        await waiting(pilot, lambda: beside(app, "torch_compile").strip() == "?")
        assert beside(app, "bf16") == "", "it never will be"
        reason = words.toggle_words(app.predictor.outlook, "torch_compile", app.device)
        assert told["torch_compile"].reason in reason


def test_a_change_too_small_to_matter_stands_there_as_none(forecast: Any, changes: Any) -> None:
    result = forecast(base=GIB)
    change = changes(result)[0]
    switched = f"{change.technique}=on"

    def told(gap: int, *along: str) -> tuple[str, str]:
        peak = msgspec.structs.replace(result.peak, allocated=result.peak.allocated + gap)
        outlook = outlooks.Outlook(
            state=outlooks.CURRENT,
            result=result,
            changes={
                change.technique: msgspec.structs.replace(
                    change, peak=peak, overrides=(switched, *along)
                )
            },
            fresh=frozenset({change.technique}),
        )
        spans = words.toggle_spans(outlook, change.technique, None)
        text = "".join(text for text, _ in spans)
        return text.strip(), words.toggle_words(outlook, change.technique, None)

    assert told(2**20)[0] == "±0" and "+1.00 MiB" in told(2**20)[1]
    assert told(-(2**21))[0] == "\N{MINUS SIGN}2.00 MiB"
    text, long = told(-(2**21), "lora=on")
    assert text.endswith(" MiB +") and ", and LoRA on, " in long, "not its own doing alone"


async def test_a_toggle_that_makes_the_plan_fit_is_marked(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    result = forecast("rtx-4070")
    small = Fit("rtx-4070", result.fits[1].capacity // 1000, "exceeds", -1)
    need = result.peak.allocated + result.peak.device - result.peak.reserved
    small = msgspec.structs.replace(small, capacity=need - 1)
    app = bench(plan=plan_of(), forecast=msgspec.structs.replace(result, fits=(small,)))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete and beside(app, "lora"))
        await waiting(pilot, lambda: beside(app, "lora").endswith(" ✓ "))
        assert not beside(app, "packing").strip().endswith(("✓", "!"))


async def test_the_reason_is_told_where_the_technique_is_explained(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench(plan=plan_of(), forecast=forecast())
    async with app.run_test(size=(200, 50)) as pilot:
        await waiting(pilot, lambda: beside(app, "torch_compile").strip() == "?")
        app.main.plan_panel.rows.select("technique:torch_compile")
        await pilot.pause()
        about = str(app.main.plan_panel.query_one("#about").render())
        assert "compiled code allocates past the dispatcher" in about
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.pause()
        assert "turning it on" in str(app.main.plan_panel.query_one("#about").render())


async def test_the_chart_shows_what_is_predicted_alone_and_then_behind(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    result = forecast()
    app = bench("full", plan=plan_of(), forecast=result)
    async with app.run_test(size=SIZE) as pilot:
        chart = app.main.memory.chart
        await waiting(pilot, lambda: chart.display and any(chart.columns))
        assert chart.foretold and not chart.foreseen
        assert app.main.memory.border_title == "2 Memory · predicted"
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert not chart.foretold and len(chart.foreseen) == len(result.timeline)
        assert chart.predicted == result.peak.allocated
        assert app.main.memory.border_title.startswith(
            "2 Memory · #1 · dotted: the plan, predicted"
        )
        assert "× predicted" in app.main.peak.text
        assert chart.canvas._outlines


async def test_another_target_is_chosen_kept_and_predicted(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    def answer(question: Predict) -> Sequence[Event]:
        name = question.prediction
        return [Predicted(name, forecast(question.target or "cpu")), AllPredicted(name, 0.1)]

    app = bench(plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("t")
        await waiting(pilot, lambda: app.screen is not app.main)
        rows = app.screen.query_one("Rows")
        assert rows.current.id == "here"
        await pilot.press(*"nothing")
        assert not rows.current.id
        await pilot.press("enter", *["backspace"] * 7)
        assert rows.current.id == "here"
        await pilot.press(*"4090")
        assert rows.current.id == "rtx-4090"
        await pilot.press("enter")
        await waiting(pilot, lambda: "rtx-4090" in app.main.peak.border_title)
        assert app.scripted.questions[-1].target == "rtx-4090"
    again = bench(plan=plan_of(), forecast=answer)
    async with again.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: again.predictor.outlook.complete)
        assert again.scripted.questions[0].target == "rtx-4090"


async def test_what_cannot_be_predicted_says_why(bench: Any, waiting: Any) -> None:
    def answer(question: Predict) -> Sequence[Event]:
        return [
            Unpredicted(question.prediction, "It cannot be predicted", "galore: reads data"),
            AllPredicted(question.prediction, 0.1),
        ]

    app = bench("full", plan=plan_of(), forecast=answer)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: "galore: reads data" in app.main.peak.text)
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert app.recorded[0].predicted is None


def test_a_capacity_is_that_of_the_target(forecast: Any) -> None:
    card = Device("cuda", "a card", 8 * GIB)
    outlook = outlooks.Outlook(state=outlooks.CURRENT, result=forecast("rtx-4090"))
    aimed = msgspec.structs.replace(outlook, target="rtx-4090")
    assert capacity_of(aimed, card) == 24 * GIB, "as the list of GPUs has it"
    unlisted = msgspec.structs.replace(outlook, result=forecast("a-card"))
    assert capacity_of(unlisted, card) == 8 * GIB, "this machine's own"
    abroad = msgspec.structs.replace(unlisted, target="a-card")
    assert capacity_of(abroad, card) is None, "nobody knows it"
    assert capacity_of(outlooks.Outlook(), card) is None


def remember(plan: Plan, result: Prediction, changes: bool = True) -> None:
    """Keep this as the prediction of the plan and of each of its toggles."""
    question = Question(Predict(plan=plan_data(plan), changes=changes), device_for("auto"))
    for job in question.waiting:
        keep(job.key, Kept(result=result))


async def test_what_is_kept_is_shown_before_there_is_an_engine(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    remember(plan_of(), forecast())
    app = bench(plan=plan_of(), ready=False, forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        assert app.engine_state == "starting" and app.predictor.outlook.current
        assert app.main.peak.text.splitlines()[1].split()[1] == "75.1"
        assert beside(app, "lora").strip() == "±0"
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.pause(predictor.DELAY + 0.1)
        assert not app.scripted.questions, "nothing is left to ask"


async def test_undo_brings_back_what_was_predicted_without_asking(
    bench: Any, waiting: Any, forecast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than it takes to look up what is kept, however busy this machine is.
    monkeypatch.setattr(predictor, "DELAY", 0.6)
    remember(plan_of(), forecast())
    app = bench(plan=plan_of(), forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        before = len(app.scripted.questions)
        app.change_plan(plan_of("lora.rank=3"))
        await waiting(pilot, lambda: len(app.scripted.questions) == before + 1)
        assert app.predictor.outlook.state == outlooks.WAITING
        await pilot.press("u")
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        assert app.predictor.outlook.current and len(app.scripted.questions) == before + 1
        # A toggle's change was its prediction: the plan that it makes is known too.
        app.change_plan(plan_of("lora=on"))
        await waiting(pilot, lambda: app.predictor.outlook.current)
        await waiting(pilot, lambda: len(app.scripted.questions) == before + 2)
        await pilot.press("u")
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        # What was asked about meanwhile was not waited for: it is asked for again.
        await pilot.press("U")
        await waiting(pilot, lambda: len(app.scripted.questions) == before + 3)


async def test_what_is_not_kept_is_asked_for_what_is_seen_first(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    remember(plan_of(), forecast(), changes=False)
    app = bench(plan=plan_of(), ready=False, forecast=silent)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.current)
        assert app.main.plan_panel.rows.select("technique:lora")
        await pilot.pause()
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.scripted.questions)
        question = app.scripted.questions[0]
        assert question.changes and question.first[0] == "lora"
        assert app.predictor.outlook.current, "what is known stays"


@pytest.mark.parametrize("state", [outlooks.WAITING, outlooks.PROBLEMS])
def test_what_is_of_an_earlier_plan_bears_a_mark_without_colours(forecast: Any, state: str) -> None:
    result = forecast()
    known = outlooks.Outlook(state=outlooks.CURRENT, plan=plan_of(), result=result)
    old = outlooks.replace(known, state=state)
    cpu = Device("cpu", "a CPU", 16 * 2**30)
    now, before = (
        forecasts.lines(each, None, 90, None, cpu, "~").plain.split("\n") for each in (known, old)
    )
    assert not any("~" in line.replace("~rtx", "") for line in now)
    assert before[1].count("~") == 7 and "~–" not in before[1], before[1]
    fits = next(line for line in before if line.startswith("fits"))
    assert fits[11] == "~" and any(line.startswith("~") for line in before[3:-1])
    assert [len(line) for line in before if "fits" in line] == [len(now[-1])]
    whole_before = whole(old, None, None, 90, cpu, "~").plain
    assert whole_before.count("~") - whole_before.count("~rtx") >= 7
    assert "~" not in forecasts.lines(old, None, 90, None, cpu).plain.replace("~rtx", "")


async def test_the_charts_stay_put_whatever_is_predicted(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench(plan=plan_of(), forecast=forecast())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        heights = [app.main.peak.size.height]
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        heights.append(app.main.peak.size.height)
        for size in ((200, 50), (80, 24), SIZE):
            # What was written for a wide panel is wrapped in a narrow one, until it is anew.
            await pilot.resize_terminal(*size)
            await waiting(pilot, lambda: app.main.peak.size.height in (0, forecasts.ROWS))
        heights.append(app.main.peak.size.height)
        app.change_plan(plan_of("quantize_4bit=on"))
        await pilot.pause()
        assert "plan has problems" in app.main.peak.text
        heights.append(app.main.peak.size.height)
        app.aim("rtx-4090")
        app.change_plan(plan_of("model=smollm2-135m"))
        await pilot.pause()
        heights.append(app.main.peak.size.height)
        assert set(heights) == {forecasts.ROWS}


@pytest.mark.parametrize("scale", [1, 8, 400, 30_000])
@pytest.mark.parametrize("model", ["tiny", "some-organisation/a-model-with-a-long-name"])
@pytest.mark.parametrize("current", [True, False])
def test_at_no_width_do_two_cells_of_the_peak_touch_or_is_a_line_broken(
    forecast: Any, play: Any, scale: int, model: str, current: bool
) -> None:
    trace = Trace("#1234")
    for event in play("full"):
        named = isinstance(event, Started)
        trace.apply(msgspec.structs.replace(event, model=model) if named else event)
    state = outlooks.CURRENT if current else outlooks.WAITING
    told = outlooks.Outlook(state=state, result=forecast(scale=scale))
    assert trace.peak is not None
    grown = {name: getattr(trace.peak, name) * scale for name in forecasts.TOTALS}
    peak = msgspec.structs.replace(trace.peak, **grown)
    names = ("predicted", forecasts.measured(trace), trace.label)
    for width in range(48, 130):
        head, *figures = (line.plain for line in forecasts.table(told, peak, width, trace, "~"))
        columns = len(head.split()) - 1
        assert columns in (3, 8) and len(head) <= width, width
        for line in (each.rstrip("… ") for each in figures):
            cells = line.removeprefix(next(name for name in names if line.startswith(name)))
            assert cells.startswith(" ") and len(cells.split()) == columns, (width, line)
            assert len(line) == len(head), (width, line)
        page = whole(told, peak, trace, width, None, "~").plain.split("\n")
        assert all(len(line) <= width for line in page[: 1 + len(CATEGORIES) + 3]), width
