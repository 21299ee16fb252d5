"""The guided first session, and what a first start says once."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from memwb.engine.plan import Plan
from memwb.workbench import guide
from memwb.workbench.state import GUIDE, Session

SMALL = (80, 24)


def strip(app: Any) -> str:
    line = app.main.query_one("#guide")
    return str(line.render()) if line.display else ""


async def test_each_step_is_done_by_doing_it_and_never_comes_again(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    app = bench("full", "lora", guide=True, ready=False)
    async with app.run_test(size=SMALL) as pilot:
        await waiting(pilot, lambda: app.session.greeted)
        assert "No GPU here" in app.main.notice.render().plain
        assert app.session.folded == ("workload",)
        assert " 1/4 " in strip(app) and "Press r" in strip(app) and "h ends" in strip(app)
        await pilot.press("r")
        footer = app.main.query_one("#footer")
        assert " 1/4  It begins by itself" in strip(app) and "s stop" in str(footer.render())
        await pilot.press("s")
        assert "Press r" in strip(app) and "r run" in str(footer.render())
        app.scripted.become_ready()
        await pilot.press("e", "escape", "u")
        assert " 1/4 " in strip(app), "only its own deed moves it on"
        await pilot.press("r")
        await waiting(pilot, lambda: " 2/4 " in strip(app))
        assert not app.main.notice.display and "1 to the plan" in strip(app)
        await pilot.press("1")
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.press("space")
        assert " 3/4 " in strip(app) and "Press r again" in strip(app)
        await pilot.press("r")
        await waiting(pilot, lambda: "5 goes to the runs" in strip(app) and len(app.recorded) == 2)
        await pilot.press("5")
        assert " 3/4  c marks" in strip(app)
        await pilot.press("c", "down")
        assert "↓ to the other run" in strip(app)
        await pilot.press("c")
        assert " 4/4 " in strip(app) and "shows the script" in strip(app)
        # Where one panel is seen at a time, a run that is shown or replayed comes to the front.
        await pilot.press("enter")
        assert app.session.tab == "memory"
        await pilot.press("5", "R")
        assert app.session.tab == "memory" and app.replay.folder
        await pilot.press("s")
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        app.screen._retarget(str(tmp_path / "out"))
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert " ✓ " in strip(app) and app.main.query_one("#guide").region.height == 1
    app = bench(guide=True)
    async with app.run_test(size=SMALL) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        assert not strip(app) and not app.main.notice.display


async def test_it_is_ended_by_a_key_and_begun_again_by_it(
    bench: Any, waiting: Any, play: Any
) -> None:
    app = bench("full", "full", guide=True)
    async with app.run_test(size=SMALL) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        # What was switched while the burst ran need not be switched again.
        app.scripted.hold = True
        await pilot.press("r")
        await waiting(pilot, lambda: app.busy and "It trains" in strip(app))
        await pilot.press("1")
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.press("space", "h")
        assert not strip(app)
        await pilot.press("h")
        app.scripted.emit(play("full")[-1])
        await waiting(pilot, lambda: " 3/4 " in strip(app))
        # Two that were compared while the second ran need not be compared again.
        await pilot.press("r")
        await waiting(pilot, lambda: app.busy and len(app.recorded) == 2)
        await pilot.press("5", "c", "down", "c")
        assert "2 4 show them" in app.main.runs.border_subtitle
        app.scripted.emit(play("full")[-1])
        await waiting(pilot, lambda: " 4/4 " in strip(app))
        await pilot.press("h")
    assert bench(guide=True).session.guide == ""


async def test_a_switch_that_changes_nothing_or_breaks_the_plan_is_not_run_again(
    bench: Any, waiting: Any
) -> None:
    app = bench("full", "lora", guide=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: " 2/4 " in strip(app))
        rows = app.main.plan_panel.rows
        rows.select("technique:bf16_stochastic_rounding")
        await pilot.press("space")
        assert " 3/4  This plan cannot run" in strip(app) and "f mends it" in strip(app)
        await pilot.press("u")
        assert " 2/4 " in strip(app) and "switches it" in strip(app)
        rows.select("technique:lora")
        await pilot.press("space")
        assert " 3/4  Press r again" in strip(app)
        await pilot.press("space")
        assert " 2/4 " in strip(app)


def test_it_is_told_in_one_line_however_narrow() -> None:
    plan = Plan(model="tiny")
    engines = ("starting", "waiting", "ready", "running", "silent", "dead")
    states = product(GUIDE, ("plan", "runs"), engines, (False, True))
    for deed, tab, engine, broken in states:
        session = Session(plan, guide=deed, tab=tab, marks=("a",))
        for width in (80, 120):
            left, right = guide.line(session, engine, {"run": "F5"}, width, 24, broken=broken)
            assert left.cell_length + 2 + right.cell_length < width, left.plain
            assert engine != "silent" or "E restarts the engine" in left.plain
        assert not guide.line(session, engine, {}, 80, 10)
        assert "$" not in left.plain + right.plain
