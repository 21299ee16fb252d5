"""Cursors, zoom, panning and legends of the charts, by keys and by mouse."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.strip import Strip

from memwb.engine.plan import Plan
from memwb.engine.protocol import Categories, Sample
from memwb.workbench.charts.lines import LineChart
from memwb.workbench.charts.stacked import StackedChart
from memwb.workbench.charts.window import WHOLE, extent

GIB = 2**30
SIZE = (110, 24)


def burst(per: int = 120, steps: tuple[int, ...] = (0, 1, 2)) -> list[Sample]:
    """Weights load; activations rise and fall; gradients rise; the optimizer's state stays."""
    found: list[Sample] = []
    state = 0
    for step in steps:
        for index in range(per):
            part = index / per
            phase, parts = "load", Categories(weights=int(3 * GIB * part))
            if step and part < 0.4:
                phase, parts = "forward", Categories(3 * GIB, 0, state, int(4 * GIB * part / 0.4))
            elif step and part < 0.9:
                rest = (part - 0.4) / 0.5
                kept = int(4 * GIB * (1 - rest))
                phase, parts = "backward", Categories(3 * GIB, int(3 * GIB * rest), state, kept)
            elif step:
                phase, state = "optimizer", 6 * GIB
                parts = Categories(3 * GIB, 3 * GIB, state)
            total = parts.total
            more = (total + GIB // 8, total + GIB)
            found.append(Sample(len(found) / 100, step, phase, total, *more, parts))
    return found


class Charts(App[None]):
    """One chart of each kind."""

    CSS = "StackedChart { height: 1fr; } LineChart { height: 12; } LineChart.-off {display: none;}"

    def __init__(self, lines: bool = False) -> None:
        super().__init__()
        self.lines = lines

    def compose(self) -> ComposeResult:
        yield StackedChart()
        yield LineChart(classes="" if self.lines else "-off")

    @property
    def chart(self) -> StackedChart:
        return self.query_one(StackedChart)

    @property
    def line(self) -> LineChart:
        return self.query_one(LineChart)


def strips_of(app: App[None]) -> list[Strip]:
    return app.screen._compositor.render_strips()


def text_of(app: App[None]) -> str:
    return "\n".join(strip.text for strip in strips_of(app))


def mouse(kind: type[events.MouseEvent], widget: Any, x: int, y: int, **how: Any) -> Any:
    """A mouse event as a terminal sends it, at a place of the widget."""
    x, y = widget.region.x + x, widget.region.y + y
    plain = {"delta_x": 0, "delta_y": 0, "button": 0, "shift": False, "meta": False, "ctrl": False}
    return kind(widget, x, y, **(plain | how), screen_x=x, screen_y=y)


async def test_the_box_tells_the_moment_to_the_byte() -> None:
    app = Charts()
    samples = burst()
    peak = max(samples, key=lambda one: one.allocated)
    before = samples[samples.index(peak) - 1]
    async with app.run_test(size=SIZE) as pilot:
        app.chart.set_samples(samples)
        app.chart.focus()
        await pilot.press("k")
        text = text_of(app)
        assert peak.categories is not None and before.categories is not None
        for name in ("weights", "gradients", "optimizer", "activations", "temporary"):
            assert re.search(rf"{name} .* {getattr(peak.categories, name):,} │", text)
        for name in ("allocated", "reserved", "device"):
            assert re.search(rf"{name} .* {getattr(peak, name):,} │", text)
        assert f"step 2 · backward · {peak.time:.4f} s" in text
        grown = peak.categories.activations - before.categories.activations
        assert f"just now +{grown / 2**20:.1f} MiB activations" in text
        await pilot.press("escape")
        assert "╭" not in text_of(app)


@pytest.mark.parametrize("height", range(2, 7))
async def test_where_there_is_no_room_for_a_legend_the_cursor_has_one(height: int) -> None:
    app = Charts()
    async with app.run_test(size=(28, height)) as pilot:
        app.chart.set_samples(burst())
        app.chart.focus()
        before = text_of(app)
        assert "GiB" not in before.splitlines()[-1]
        await pilot.press("k")
        shown = text_of(app)
        assert "■W 3 ■G 0 ■O 6 ■A 4 ■T 0 GiB" in shown and "backward  13.0 GiB" in shown
        await pilot.press("left")
        assert text_of(app) != shown, "another moment"
        await pilot.press("escape")
        assert text_of(app) == before


@pytest.mark.parametrize("x", [15, 40, 62, 90, 108])
async def test_the_mouse_tells_it_too_and_the_box_keeps_off(x: int) -> None:
    app = Charts()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        await pilot.hover(StackedChart, offset=(x, 6))
        assert chart.cursor is chart.columns[x - chart.canvas.left]
        assert chart.cursor is not None
        box = [row.text for row in strips_of(app)[:9] if "│" in row.text[7:]]
        inside = [m.span() for row in box for m in re.finditer(r"[╭│╰][^│╭╰]{28,43}[│╮╯]", row)]
        assert inside and all(not start < x < end - 1 for start, end in inside)
        assert f" {chart.cursor.allocated:,} " in text_of(app)


async def test_what_is_predicted_has_no_clock_but_its_largest_tensors() -> None:
    app = Charts()
    async with app.run_test(size=(110, 30)) as pilot:
        chart = app.chart
        chart.foretold = True
        chart.words = ("4.00 GiB  2 × fp32 lm_head",)
        chart.set_samples(burst())
        chart.focus()
        await pilot.press("k")
        assert "2 × fp32 lm_head" in text_of(app) and " s ─" not in text_of(app)
        await pilot.press("left")
        assert "lm_head" not in text_of(app), "they are those of the peak alone"


async def test_keys_go_by_phases_and_steps() -> None:
    app = Charts()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        chart.focus()
        await pilot.press("home")
        seen = []
        for _ in range(8):
            await pilot.press("full_stop")
            assert chart.cursor is not None
            seen.append((chart.cursor.step, chart.cursor.phase))
        order = [(step, name) for step in (1, 2) for name in ("forward", "backward", "optimizer")]
        # At the last of them it stays.
        assert seen == [*order, order[-1], order[-1]]
        await pilot.press("shift+left", "comma")
        assert (chart.cursor.step, chart.cursor.phase) == (2, "forward")
        await pilot.press("right", "left_square_bracket")
        assert (chart.cursor.step, chart.cursor.phase) == (2, "forward")
        await pilot.press("left_square_bracket")
        assert chart.cursor.step == 1 and chart.cursor.phase == "forward"
        await pilot.press("right_square_bracket", "end")
        assert chart.cursor.step == 2 and chart.cursor.phase == "optimizer"


async def test_zoomed_the_cursor_takes_the_chart_along() -> None:
    app = Charts()
    samples = burst()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples(samples)
        chart.focus()
        await pilot.press("k")
        for _ in range(5):
            chart.zoom(2)
        assert chart.window.zoom == 32 and chart.canvas.column(chart.cursor) is not None
        told = []
        for _ in range(15):
            await pilot.press("right")
            told.append(chart.cursor)
            assert chart.canvas.column(chart.cursor) is not None
        assert [one.time for one in told if one] == sorted(one.time for one in told if one)
        assert len({id(one) for one in told}) > 5
        for key, wanted in (("home", samples[0]), ("end", samples[-1]), ("k", chart._shown.peak)):
            await pilot.press(key)
            assert chart.cursor is not None and chart.cursor.step == wanted.step
            assert chart.canvas.column(chart.cursor) is not None
            assert abs(chart.cursor.time - wanted.time) < 0.05
        # At this zoom every sample can be reached.
        await pilot.press("end")
        reached = set()
        for _ in range(len([one for one in samples if one.step == 2])):
            reached.add(id(chart.cursor))
            chart.action_move(-1)
        late = [one for one in samples if one.step == 2]
        assert {id(one) for one in late} <= reached


async def test_the_wheel_zooms_at_the_mouse_and_shift_pans() -> None:
    app = Charts()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        await pilot.hover(StackedChart, offset=(80, 5))
        held = chart.cursor
        for _ in range(4):
            chart.post_message(mouse(events.MouseScrollUp, chart, 80, 5))
            await pilot.pause()
        assert chart.window.zoom == pytest.approx(1.5**4)
        column = chart.canvas.column(held)
        assert column is not None and column + chart.canvas.left == 80
        assert "zoom 5.06×" in text_of(app) and "◂" in text_of(app) and "▸" in text_of(app)
        first = chart.canvas.first
        chart.post_message(mouse(events.MouseScrollDown, chart, 80, 5, shift=True))
        await pilot.pause()
        assert chart.canvas.first > first
        chart.post_message(mouse(events.MouseScrollUp, chart, 80, 5, shift=True))
        await pilot.pause()
        assert chart.canvas.first == first
        for _ in range(5):
            chart.post_message(mouse(events.MouseScrollDown, chart, 80, 5))
            await pilot.pause()
        assert chart.window == WHOLE and "zoom" not in text_of(app)


async def test_dragging_pans_and_is_no_click() -> None:
    app = Charts()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        chart.zoom(4)
        await pilot.pause()
        first = chart.canvas.first
        await pilot.mouse_down(StackedChart, offset=(60, 5))
        await pilot.hover(StackedChart, offset=(50, 5))
        assert chart.canvas.first == first + 10
        await pilot.hover(StackedChart, offset=(75, 9))
        assert chart.canvas.first == first - 15
        await pilot.mouse_up(StackedChart, offset=(75, 9))
        assert app.mouse_captured is None and chart._pointer.key is None
        await pilot.hover(StackedChart, offset=(50, 5))
        assert chart.canvas.first == first - 15, "let go is let go"
        await pilot.click(StackedChart, offset=(50, 5))
        assert chart._pointer.key is chart.columns[50 - chart.canvas.left]


async def test_a_name_in_the_legend_is_a_switch() -> None:
    app = Charts()
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.capacity, chart.predicted = 16 * GIB, 13 * GIB
        chart.set_samples(burst())
        await pilot.pause()
        whole = chart.canvas.top
        row = strips_of(app)[-1].text
        await pilot.click(StackedChart, offset=(row.index("weights"), SIZE[1] - 1))
        assert chart.hidden == {0} and chart.canvas.top < whole
        text = text_of(app)
        assert "□ weights" in text and "without W" in text
        # Totals say nothing of a part.
        assert "capacity" not in text and "predicted" not in text
        await pilot.click(StackedChart, offset=(row.index("weights"), SIZE[1] - 1))
        assert chart.hidden == frozenset() and chart.canvas.top == whole
        chart.toggle_band(3)
        chart.zoom(2)
        chart.show_all()
        assert chart.window == WHOLE and chart.hidden
        chart.show_all()
        assert not chart.hidden
        chart.toggle_band(5)
        assert not chart.hidden, "what is of no category stays"


async def test_a_burst_that_goes_on_keeps_the_zoom() -> None:
    app = Charts()
    samples = burst(200)
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.set_samples([], steps=(1, 2))
        chart.append(samples[:250])
        await pilot.pause()
        chart.zoom(4, 60)
        kept = chart.window
        for index in range(250, 600, 25):
            chart.append(samples[index : index + 25])
            await pilot.pause()
            assert chart.window == kept
        chart.replace_step(1, [one for one in samples if one.step == 1])
        chart.set_samples(samples)
        assert chart.window == kept, "its end is the same burst"
        chart.set_samples(burst(50, (0, 1, 2, 3)))
        assert chart.window == WHOLE, "other steps are another axis"


async def test_what_is_redrawn_is_what_would_be_drawn_anew() -> None:
    app = Charts()
    samples = burst(150)
    half = [msgspec.structs.replace(one, allocated=one.allocated // 2) for one in burst(60)]
    rng = random.Random(3)
    async with app.run_test(size=SIZE) as pilot:
        chart = app.chart
        chart.capacity, chart.predicted = 16 * GIB, 12 * GIB
        chart.foreseen = burst(40)
        chart.set_samples([], steps=(1, 2))
        chart.focus()
        for index in range(0, len(samples), 15):
            chart.append(samples[index : index + 9])
            what = rng.randrange(9)
            if what == 0:
                chart.zoom(rng.choice((2, 0.5)))
            elif what == 1:
                chart.pan(rng.choice((-1, 1)))
            elif what == 2:
                chart.toggle_band(rng.randrange(5))
            elif what == 3:
                chart.lay_over([("#1", half), ("#2", half[:200])][: rng.randrange(3)])
            else:
                await pilot.press(rng.choice(["left", "right", "k", "escape", "comma", "home"]))
            if index == 15 * 20:
                chart.replace_step(1, [s for s in burst(77) if s.step == 1])
            await pilot.pause()
            kept = [list(strip) for strip in strips_of(app)]
            chart._rebuild()
            assert kept == [list(strip) for strip in strips_of(app)], index


async def test_four_outlines_have_names_and_marks_without_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Charts()
    runs = [
        (
            f"#{at}",
            [msgspec.structs.replace(one, allocated=one.allocated * at // 8) for one in burst(90)],
        )
        for at in (2, 4, 6, 9, 5)
    ]
    async with app.run_test(size=(160, 40)) as pilot:
        app.chart.set_samples(burst())
        app.chart.lay_over(runs)
        app.chart.focus()
        await pilot.press("k", "right")
        text = text_of(app)
        for name, _ in runs[:4]:
            assert text.count(name) == 2, "at its line and in the box"
        assert "#5" not in text


async def test_the_loss_has_a_cursor_a_zoom_and_a_grip() -> None:
    app = Charts(lines=True)
    async with app.run_test(size=SIZE) as pilot:
        line = app.line
        line.steps = 100
        line.set_series("#3", [(step, 9 - step / 50) for step in range(1, 101)], overlay=True)
        line.set_series("now", [(step, 8 - step / 20) for step in range(1, 61)])
        line.focus()
        await pilot.press("left")
        assert line.cursor == 100 and "step 100 · – now · 7 #3" in text_of(app)
        await pilot.press("home", "right")
        assert "step 2 · 7.9 now · 8.96 #3" in text_of(app)
        await pilot.press("full_stop")
        assert line.cursor == 12
        line.zoom(4)
        await pilot.pause()
        axis = line.drawn.axis
        assert axis is not None and axis.sees(12) and not axis.sees(100)
        assert "▸" in text_of(app)
        await pilot.press("end")
        assert line.drawn.axis is not None and line.drawn.axis.sees(100)
        await pilot.press("escape")
        assert line.cursor is None
        at = line.window
        await pilot.mouse_down(LineChart, offset=(50, 4))
        await pilot.hover(LineChart, offset=(70, 4))
        await pilot.mouse_up(LineChart, offset=(70, 4))
        assert line.window.middle < at.middle and line._key is None
        await pilot.hover(LineChart, offset=(40, 4))
        assert line.cursor is not None
        line.post_message(mouse(events.MouseScrollUp, line, 40, 4))
        await pilot.pause()
        assert line.window.zoom == pytest.approx(6)
        for _ in range(9):
            line.zoom(2)
        assert line.window.zoom == pytest.approx(33), "four steps are seen at least"
        line.pan(-1)
        line.show_all()
        assert line.window == WHOLE


SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)])


@SIZES
async def test_the_keys_of_the_charts_in_the_workbench(
    bench: Any, waiting: Any, size: tuple[int, int]
) -> None:
    app = bench("full", plan=Plan(model="tiny"))
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("plus", "W")
        main = app.screen_stack[0]
        chart = main.memory.chart
        assert chart.window == WHOLE and not chart.hidden, "in the plan these are not its keys"
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.ended)
        await pilot.press("2", "plus", "plus")
        assert chart.window.zoom == 4 and "zoom 4×" in main.memory.border_title
        total, first = extent(chart.window, len(chart.columns))
        await pilot.press("less_than_sign")
        assert extent(chart.window, len(chart.columns))[1] < first <= total
        await pilot.press("greater_than_sign", "minus", "equals_sign")
        assert chart.window.zoom == 4
        await pilot.press("0")
        assert chart.window == WHOLE and "zoom" not in main.memory.border_title
        for band, key in enumerate("WGOAT"):
            await pilot.press(key)
            assert chart.hidden == {band}
            await pilot.press("0")
            assert not chart.hidden
        await pilot.press("3", "plus")
        assert main.loss.chart.window.zoom > 1 and chart.window == WHOLE
        await pilot.press("left")
        assert main.loss.chart.cursor is not None
        await pilot.press("escape", "0")
        assert main.loss.chart.cursor is None and main.loss.chart.window == WHOLE
        # From the palette they act wherever the focus is.
        await pilot.press("1")
        for command in app.get_system_commands(app.screen):
            if command.title.startswith(("zoom in", "hide or show weights")):
                command.callback()
        await waiting(pilot, lambda: chart.window.zoom == 2 and chart.hidden == {0})
        assert main.memory.region.area
        found = [one.title for one in app.get_system_commands(app.screen)]
        assert "cursor to the phase after  (.)" in found
        peak = next(
            one for one in app.get_system_commands(app.screen) if "to the peak" in one.title
        )
        peak.callback()
        await waiting(pilot, lambda: chart.cursor is chart.shown.peak and chart.has_focus)


async def test_another_run_of_the_plan_is_seen_where_the_last_one_was(
    bench: Any, waiting: Any
) -> None:
    app = bench("full", "full", plan=Plan(model="tiny"))
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        main = app.screen_stack[0]
        for number in (1, 2):
            await pilot.press("r")
            await waiting(pilot, lambda at=number: app.bursts.folder.endswith(f"{at:04}") or at)
            await waiting(pilot, lambda: app.live and app.live.ended)
            if number == 1:
                await pilot.press("2", "k", "plus")
                kept = main.memory.chart.window
        assert main.memory.chart.window == kept != WHOLE
