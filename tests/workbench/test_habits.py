"""Sizes that stay, letters to jump to, the clipboard, the palette of every screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.segment import Segment
from textual.widgets import Static

from memwb.engine.plan import plan_toml
from memwb.workbench import sizes
from memwb.workbench.charts.looks import contrast
from memwb.workbench.screens.jump import labels

SIZE = (120, 40)


def heights(app: Any) -> list[int]:
    return [app.main.query_one(f"#{name}").outer_size.height for name in sizes.RIGHT]


def test_shares_always_make_the_lines_that_there_are() -> None:
    given = sizes.as_shares({}, [16, 8, 9, 5])
    for lines in range(16, 120):
        found = sizes.heights(given, lines)
        assert found and sum(found) == lines and min(found) >= sizes.FEWEST
    assert sizes.heights(given, 15) is None
    assert sizes.heights({**given, "loss": -1.0}, 38) is None, "a session file may say anything"
    assert sizes.width({"plan": 0.99}, 120) == 90 and sizes.width({"plan": 9.0}, 120) is None


def test_a_moved_border_takes_from_the_next_who_has() -> None:
    now = [16, 8, 6, 8]
    assert sizes.moved(now, 0, 7) == [23, 4, 4, 7]
    assert sizes.moved(now, 2, -9) == [13, 4, 4, 17]
    assert sizes.grown(now, 3, 2) == [16, 8, 4, 10], "the lowest panel has only an upper border"
    for by in range(-60, 60):
        for border in range(3):
            found = sizes.moved(now, border, by)
            assert sum(found) == sum(now) and min(found) >= sizes.FEWEST


def test_no_label_begins_another() -> None:
    for count in (1, 26, 27, 60, 300):
        found = labels(count)
        assert len(set(found)) == count
        assert not any(a != b and b.startswith(a) for a in found for b in found[:50])


async def test_sizes_are_changed_by_keys_and_the_mouse_and_kept(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        usual = app.main.plan_panel.outer_size.width, heights(app)
        await pilot.press("right_curly_bracket")
        await pilot.pause()
        assert app.main.plan_panel.outer_size.width == usual[0] + 4
        await pilot.press("3", "right_parenthesis", "right_parenthesis")
        await pilot.pause()
        assert heights(app)[1] == usual[1][1] + 4 and sum(heights(app)) == sum(usual[1])
        # The border below the memory chart, dragged up by five lines.
        y = app.main.memory.region.bottom - 1
        before = heights(app)
        await pilot.mouse_down(offset=(80, y))
        await pilot._post_mouse_events([_move()], offset=(80, y - 5), button=1)
        await pilot.mouse_up(offset=(80, y - 5))
        await pilot.pause()
        assert heights(app)[0] == before[0] - 5 and heights(app)[1] == before[1] + 5
        kept, width = heights(app), app.main.plan_panel.outer_size.width
        # In a small terminal and back, and with a panel maximised and back.
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert app.main.loss.region.width == 80
        await pilot.press("right_curly_bracket", "left_parenthesis")
        await pilot.resize_terminal(*SIZE)
        await pilot.press("m", "m")
        await pilot.pause()
        assert heights(app) == kept
    again = bench()
    async with again.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert heights(again) == kept and again.main.plan_panel.outer_size.width == width
        await pilot.press("backslash")
        await pilot.pause()
        assert (again.main.plan_panel.outer_size.width, heights(again)) == usual
        assert again.session.sizes == {}


def _move() -> Any:
    from textual.events import MouseMove

    return MouseMove


async def test_a_letter_leads_to_every_panel_and_row(bench: Any, waiting: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        await pilot.press("1", "J")
        await pilot.pause()
        shown = {
            str(each.render()).strip(): each.region.offset for each in app.screen.query(Static)
        }
        assert len(shown) == len(app.screen._found) > 30
        ids = {target.widget.id for target in app.screen._found.values()}
        assert {"plan-rows", "memory-chart", "loss-chart", "peak", "runs-rows"} <= ids
        label = next(
            key for key, target in app.screen._found.items() if target.row == "technique:lora"
        )
        assert len(label) == 2
        await pilot.press(*label)
        await pilot.pause()
        assert app.main.plan_panel.row.id == "technique:lora"
        for widget, panel in (("loss-chart", "loss"), ("peak", "peak"), ("runs-rows", "runs")):
            await pilot.press("J")
            await pilot.pause()
            key = next(k for k, t in app.screen._found.items() if t.widget.id == widget)
            await pilot.press(key)
            await pilot.pause()
            assert app.main.panel == panel == app.session.tab
        await pilot.press("J", "escape")
        await pilot.pause()
        assert app.screen is app.main and app.main.panel == "runs"
        # Where the other panels are only tabs, and in a screen with a field.
        await pilot.resize_terminal(80, 24)
        await pilot.press("J")
        await pilot.pause()
        key = next(k for k, t in app.screen._found.items() if t.panel == "memory")
        await pilot.press(key, "o")
        await pilot.pause()
        assert app.session.tab == "memory"
        await pilot.press("ctrl+g")
        await pilot.pause()
        rows = [t.row for t in app.screen._found.values() if t.row]
        assert rows, "every model in sight has a letter"
        await pilot.press("escape", "escape")


async def test_y_copies_what_the_panel_shows(bench: Any, waiting: Any, play: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for panel in "235":
            await pilot.press(panel, "y")
            assert app.clipboard == "", "nothing has run yet"
        await pilot.press("1", "r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        await pilot.press("1", "y")
        assert app.clipboard == plan_toml(app.session.plan).rstrip()
        peak = play("full")[-1].peak
        await pilot.press("2", "k", "y")
        assert f"{peak.allocated:,} B" in app.clipboard
        assert f"{peak.categories.weights:,} B" in app.clipboard
        await pilot.press("escape", "3", "y")
        assert len(app.clipboard.splitlines()) == 1 + len(app.live.losses)
        await pilot.press("home", "y")
        assert app.clipboard == f"step\tloss\n1\t{app.live.losses[0]}"
        await pilot.press("4", "y")
        assert app.clipboard == app.main.peak.text.rstrip() and "45.8" in app.clipboard
        await pilot.press("5", "y")
        assert app.clipboard.startswith("run") and app.recorded[0].folder in app.clipboard


async def test_the_palette_of_another_screen_has_its_actions(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await pilot.pause()
        screen = app.screen
        titles = [command.title for command in app.get_system_commands(screen)]
        for wanted in ("write  (w)", "copy  (y)", "folder  (t)", "merge adapters  (m)"):
            assert wanted in titles
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"folder")
        await pilot.pause(0.4)
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert app.screen is screen and screen._typing, "the palette did it in that screen"


async def test_sixteen_colours_get_the_terminals_own_unless_a_theme_is_set(
    bench: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, theme in (("", "ansi-dark"), ('theme = "nord"\n', "nord")):
        home.mkdir(exist_ok=True)
        (home / "settings.toml").write_text(settings)
        app = bench()
        app.console = Console(file=io.StringIO(), color_system="standard")
        monkeypatch.setattr(type(app), "is_headless", False)
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause()
            assert app.theme == theme


async def test_keys_have_their_colour_also_while_text_is_selected(bench: Any) -> None:
    app = bench("full")
    async with app.run_test(size=(120, 40)):
        footer = app.screen.query_one("#footer")

        def drawn() -> list[tuple[str, str]]:
            footer._styles_cache.clear()
            line = footer.render_lines(footer.size.region)[0]
            return [(part.text, str(part.style and part.style.color)) for part in line]

        before = drawn()
        app.screen._selecting = True
        assert drawn() == before
        colours = {colour for text, colour in before if text.strip() in ("space", "toggle")}
        assert len(colours) == 2, "a key differs from its word"


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
async def test_no_colour_is_drawn_where_the_terminal_s_own_are_not_known(
    theme: str, bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = bench("full")

    def drawn() -> list[Segment]:
        update = app.screen._compositor.render_update(full=True)
        return [part for strip in update.strips for line in strip for part in line]

    async with app.run_test(size=SIZE) as pilot:
        app.theme = theme
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and any(app.main.memory.chart.columns))
        await pilot.press("ctrl+p")
        await waiting(pilot, lambda: app.screen.query_one("CommandList").option_count > 9)
        await pilot.press("down")
        await pilot.pause()
        styles = [part.style for part in drawn() if part.style is not None]
        colours = [colour for style in styles for colour in (style.color, style.bgcolor)]
        assert {colour.name for colour in colours if colour is not None} == {"default"}
        # The command at the cursor is known all the same.
        lined = [part.text for part in drawn() if part.style and part.style.underline]
        assert "choose a model" in "".join(lined)


async def test_without_colours_the_command_at_the_cursor_stands_out(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("ctrl+p")
        await waiting(pilot, lambda: app.screen.query_one("CommandList").option_count > 9)
        listed = app.screen.query_one("CommandList")
        here, other = (
            listed.get_visual_style("option-list--option", *name)
            for name in (["option-list--option-highlighted"], [])
        )
        assert contrast(here.background, other.background) > 4.5
        assert contrast(here.background, here.foreground) > 4.5
