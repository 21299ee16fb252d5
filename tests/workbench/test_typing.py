"""Values that are typed into: keys ahead of the screen, clicks elsewhere, other windows."""

from __future__ import annotations

from typing import Any

import pytest
from textual import events
from textual.widgets import Input

from memwb.workbench.panels.rows import SAID

SIZE = (120, 40)


def rows(app: Any) -> Any:
    return app.main.plan_panel.rows


def text(row: Any) -> str:
    return "".join(piece for piece, _ in row.left)


async def test_keys_typed_ahead_go_where_they_belong(bench: Any, waiting: Any) -> None:
    """Every key arrives before the first is handled, as from a fast hand or a paste."""
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        rows(app).select("value:workload.steps")
        keys = [
            "enter",
            "9",
            "ctrl+u",
            "6",
            "enter",
            "down",
            "down",
            "space",
            "escape",
            "1",
            "slash",
            *"sgd",
        ]
        for key in [*keys, "enter", "down", "space", "r"]:
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await waiting(pilot, lambda: app.scripted.commands)
        plan = app.scripted.commands[0].plan
        assert plan["workload"]["steps"] == 6
        assert plan["workload"]["schedule"] == "cosine"
        assert "sgd" in plan["techniques"]


async def test_a_burst_that_starts_leaves_the_field_that_is_typed_into(
    bench: Any, waiting: Any, play: Any
) -> None:
    app = bench([])
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        rows(app).select("value:workload.steps")
        await pilot.press("r", "enter", "ctrl+u", "1")
        app.scripted.emit(*play("full")[:-1])
        await waiting(pilot, lambda: app.live and app.live.steps and app.session.shown)
        await pilot.press(*"024", "enter")
        await pilot.pause()
        assert app.session.plan.workload.steps == 1024
        assert app.is_running and app.focused is rows(app)


async def test_a_burst_that_starts_is_shown_in_a_small_terminal(bench: Any, waiting: Any) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.main.panel == "memory")


@pytest.mark.parametrize("elsewhere", ["#runs-rows", "#peak", "#plan-rows"])
async def test_an_open_value_is_closed_by_a_click_elsewhere(bench: Any, elsewhere: str) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        app.main.memory.chart.display = True
        rows(app).select("value:workload.steps")
        await pilot.press("enter", "r")
        await pilot.pause()
        assert app.main.query_one("Editor").display
        await pilot.click(elsewhere, offset=(2, 1))
        await pilot.pause()
        assert not app.main.query_one("Editor").display
        assert not isinstance(app.focused, Input)


async def test_an_open_value_waits_while_another_window_has_the_focus(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("value:workload.steps")
        await pilot.press("enter", "7")
        app.post_message(events.AppBlur())
        await pilot.pause()
        app.post_message(events.AppFocus())
        await pilot.pause()
        assert app.main.query_one("Editor").display
        await pilot.press("enter")
        assert app.session.plan.workload.steps == 7


async def test_an_open_value_stays_on_its_row_when_the_terminal_changes(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=(120, 32)) as pilot:
        rows(app).select("value:workload.seed")
        await pilot.press("enter")
        await pilot.pause()
        for size in ((200, 50), (120, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.05)
            editor = app.main.query_one("Editor")
            line = rows(app).line_of("value:workload.seed")
            assert editor.region.y == rows(app).region.y + line
            assert editor.region.right == rows(app).scrollable_content_region.right


async def test_a_mistyped_choice_is_answered_with_the_choices(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("value:workload.schedule")
        await pilot.press("enter", *"cosin")
        await pilot.pause()
        note = " ".join(text(row).strip() for row in rows(app).rows if row.id == SAID)
        assert "constant | cosine | linear" in note and "did you mean 'cosine'?" in note
