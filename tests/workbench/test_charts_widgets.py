"""The chart widgets in an application: sizes, cursor, freezing, partial redraws, no colours."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.strip import Strip

from memwb.engine.protocol import Categories, Sample
from memwb.workbench.charts.lines import LineChart
from memwb.workbench.charts.palette import HATCHES, LETTERS
from memwb.workbench.charts.stacked import StackedChart

GIB = 2**30
SIZES = [(30, 8), (80, 24), (200, 50)]


def burst(per: int = 200, steps: tuple[int, ...] = (0, 1, 2)) -> list[Sample]:
    """A full fine-tune: weights load, activations rise and fall, gradients rise, state stays."""
    found: list[Sample] = []
    state = 0
    for step in steps:
        for index in range(per):
            part = index / per
            if step == 0:
                phase, categories = "load", Categories(weights=int(3 * GIB * part))
            elif part < 0.4:
                phase = "forward"
                categories = Categories(3 * GIB, 0, state, int(4 * GIB * part / 0.4))
            elif part < 0.9:
                phase, rest = "backward", (part - 0.4) / 0.5
                categories = Categories(
                    3 * GIB, int(3 * GIB * rest), state, int(4 * GIB * (1 - rest)), GIB // 8
                )
            else:
                phase, state = "optimizer", 6 * GIB
                categories = Categories(3 * GIB, 3 * GIB, state)
            total = categories.total
            found.append(Sample(len(found) / 100, step, phase, total, total, total, categories))
    return found


class Charts(App[None]):
    """Both charts, and what they said."""

    CSS = (
        "StackedChart { height: 1fr; } LineChart { height: 1fr; } LineChart.-off { display: none; }"
    )

    def __init__(self, lines: bool = False) -> None:
        super().__init__()
        self.lines = lines
        self.told: list[Sample | None] = []

    def compose(self) -> ComposeResult:
        yield StackedChart()
        yield LineChart(classes="" if self.lines else "-off")

    def on_stacked_chart_cursor(self, message: StackedChart.Cursor) -> None:
        self.told.append(message.sample)

    @property
    def chart(self) -> StackedChart:
        return self.query_one(StackedChart)


def screen_of(app: App[None]) -> list[str]:
    return [strip.text for strip in strips_of(app)]


def strips_of(app: App[None]) -> list[Strip]:
    """What the terminal shows."""
    return app.screen._compositor.render_strips()


def fresh(app: Charts) -> list[Strip]:
    """What it would show if nothing had been kept from before."""
    app.chart._rebuild()
    return strips_of(app)


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_on_the_screen(size: tuple[int, int]) -> None:
    app = Charts()
    samples = burst()
    async with app.run_test(size=size) as pilot:
        app.chart.set_samples(samples)
        app.chart.capacity = 16 * GIB
        app.chart.predicted = 13 * GIB
        await pilot.pause()
        rows = screen_of(app)
        text = "\n".join(rows)
        assert len(rows) == size[1] and {len(row) for row in rows} == {size[0]}
        assert "10 GiB┤" in text
        assert "0┼" in text
        assert "capacity" in text and "┈" in text
        if size[0] >= 80:
            assert "step 1" in text and "backward" in text and "capacity 16.0 GiB" in text
            assert "predicted 13.0 GiB" in text
        if size[0] >= 200:
            assert "weights 3.00 GiB" in text and "peak · step 2" in text
        columns = app.chart.columns
        assert any(one is max(samples, key=lambda s: s.allocated) for one in columns)


async def test_heights_on_the_screen_are_the_bytes() -> None:
    app = Charts()
    async with app.run_test(size=(80, 24)) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        await pilot.pause()
        strips = strips_of(app)
        ground = strips[0].crop(79, 80)._segments[0].style
        assert ground is not None
        rows, top = chart.canvas.rows, chart.canvas.top
        for x, one in enumerate(chart.columns):
            assert one is not None
            height = 0
            for y in range(rows):
                ((char, style, _),) = (
                    strips[y].crop(80 - len(chart.columns) + x).crop(0, 1)._segments
                )
                assert style is not None
                if style.bgcolor != ground.bgcolor:
                    height += 8
                elif char in "▁▂▃▄▅▆▇":
                    height += "▁▂▃▄▅▆▇".index(char) + 1
            assert abs(height - one.allocated / top * rows * 8) <= 0.51


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (10, 2), (23, 4), (7, 30), (200, 1), (24, 5)])
async def test_it_shrinks_without_harm(size: tuple[int, int]) -> None:
    app = Charts(lines=True)
    async with app.run_test(size=size) as pilot:
        app.chart.set_samples(burst())
        app.chart.overlay = burst(50)
        lines = app.query_one(LineChart)
        lines.set_series("now", [(1, 5.0), (2, 4.0)])
        app.chart.focus()
        await pilot.press("k", "left", "right", "home", "end", "p", "escape")
        assert {len(row) for row in screen_of(app)} == {size[0]}


async def test_nothing_to_show_is_said() -> None:
    app = Charts()
    async with app.run_test(size=(80, 24)) as pilot:
        app.chart.focus()
        await pilot.press("left", "k", "home")
        assert "no samples yet" in "\n".join(screen_of(app))
        assert app.told == []


async def test_resizes_while_streaming() -> None:
    app = Charts(lines=True)
    rng = random.Random(7)
    samples = burst(300)
    async with app.run_test(size=(80, 24)) as pilot:
        chart, lines = app.chart, app.query_one(LineChart)
        chart.set_samples([], steps=(1, 2))
        for index in range(0, len(samples), 18):
            chart.append(samples[index : index + 18])
            lines.append("now", 1 + index // 18, 10 / (1 + index))
            width, height = rng.randint(1, 220), rng.randint(1, 60)
            await pilot.resize_terminal(width, height)
            rows = screen_of(app)
            assert len(rows) == height and {len(row) for row in rows} == {width}
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert chart.size.width == 120
        assert [one for one in chart.columns if one and one.allocated == 16 * GIB] == []
        assert any(one is chart._shown.peak for one in chart.columns)


async def test_what_is_redrawn_is_what_would_be_drawn_anew() -> None:
    app = Charts()
    samples = burst(300)
    async with app.run_test(size=(90, 26)) as pilot:
        chart = app.chart
        chart.capacity = 16 * GIB
        chart.set_samples([], steps=(1, 2))
        chart.focus()
        for index in range(0, len(samples), 11):
            chart.append(samples[index : index + 11])
            if index % 5 == 0:
                await pilot.press(random.Random(index).choice(["left", "right", "k", "escape"]))
            if index == 11 * 40:
                chart.replace_step(1, [s for s in burst(77) if s.step == 1])
            await pilot.pause()
            kept = [list(strip) for strip in strips_of(app)]
            assert kept == [list(strip) for strip in fresh(app)], index


async def test_a_new_column_redraws_few_cells() -> None:
    app = Charts()
    samples = burst(400)
    async with app.run_test(size=(120, 30)) as pilot:
        chart = app.chart
        chart.set_samples([one for one in samples if one.step < 2], steps=(1, 2))
        second = [one for one in samples if one.step == 2]
        chart.append(second[:40])
        await pilot.pause()
        drawn: list[Region] = []
        plain = chart.again

        def watch(regions: Iterable[Region]) -> None:
            held = list(regions)
            drawn.extend(held)
            plain(held)

        chart.again = watch  # type: ignore[method-assign]
        canvas = chart.canvas
        chart.append(second[40:44])
        await pilot.pause()
        assert chart.canvas is canvas
        assert drawn and sum(region.area for region in drawn) < 120 * 30 / 4


async def test_the_keyboard_cursor_tells_the_exact_sample() -> None:
    app = Charts()
    samples = burst()
    peak = max(samples, key=lambda one: one.allocated)
    async with app.run_test(size=(100, 24)) as pilot:
        chart = app.chart
        chart.set_samples(samples)
        chart.focus()
        await pilot.press("k")
        assert chart.cursor is peak and app.told[-1] is peak
        assert "cursor · step 2" in "\n".join(screen_of(app))
        here = list(chart.columns).index(peak)
        await pilot.press("left")
        assert app.told[-1] is chart.columns[here - 1]
        await pilot.press("home")
        assert app.told[-1] is chart.columns[0]
        await pilot.press("left")
        assert chart.cursor is chart.columns[0]
        await pilot.press("end", "right")
        assert app.told[-1] is chart.columns[-1]
        count = len(app.told)
        await pilot.press("right")
        assert len(app.told) == count, "no message without a change"
        await pilot.press("escape")
        assert app.told[-1] is None and chart.cursor is None


async def test_the_mouse_points_and_leaves() -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)) as pilot:
        chart = app.chart
        chart.set_samples(burst())
        await pilot.pause()
        gutter = 100 - len(chart.columns)
        for x in (gutter, gutter + 1, 50, 83, 99):
            await pilot.hover(StackedChart, offset=(x, 5))
            assert chart.cursor is chart.columns[x - gutter]
            assert app.told[-1] is chart.columns[x - gutter]
        await pilot.hover(StackedChart, offset=(60, 23))
        assert chart.cursor is None and app.told[-1] is None
        await pilot.click(StackedChart, offset=(60, 5))
        await pilot.hover(StackedChart, offset=(60, 23))
        assert chart.cursor is chart.columns[60 - gutter]


async def test_the_cursor_stays_at_its_moment_when_samples_change() -> None:
    app = Charts()
    samples = burst(100)
    async with app.run_test(size=(100, 24)) as pilot:
        chart = app.chart
        chart.set_samples(samples)
        chart.focus()
        await pilot.press("k")
        await pilot.resize_terminal(60, 20)
        assert chart.cursor is max(samples, key=lambda one: one.allocated)
        exact = [msgspec.structs.replace(one) for one in samples if one.step == 2]
        chart.replace_step(2, exact)
        await pilot.pause()
        assert any(chart.cursor is one for one in exact)
        assert app.told[-1] is chart.cursor


async def test_frozen_holds_still_and_catches_up() -> None:
    app = Charts()
    samples = burst()
    async with app.run_test(size=(100, 24)) as pilot:
        chart = app.chart
        chart.set_samples(samples[:300], steps=(1, 2))
        chart.append(samples[300:310])
        chart.focus()
        await pilot.press("p")
        await pilot.pause()
        before = screen_of(app)
        assert "frozen" in "\n".join(before)
        chart.append(samples[310:])
        await pilot.pause()
        assert screen_of(app) == before
        await pilot.resize_terminal(60, 20)
        await pilot.resize_terminal(100, 24)
        await pilot.pause()
        assert screen_of(app) == before, "another size shows the same moment"
        await pilot.press("p")
        await pilot.pause()
        assert any(one is samples[-1] or one.step == 2 for one in chart.columns if one)
        assert screen_of(app) != before


async def test_totals_alone_are_one_neutral_band() -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)) as pilot:
        app.chart.set_samples([msgspec.structs.replace(one, categories=None) for one in burst()])
        await pilot.pause()
        text = "\n".join(screen_of(app))
        assert "not attributed" in text and "weights" not in text


async def test_another_run_is_an_outline() -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)) as pilot:
        app.chart.set_samples(burst())
        await pilot.pause()
        plain = "".join(screen_of(app))
        assert not any("\u2800" < char <= "\u28ff" for char in plain)
        half = [msgspec.structs.replace(one, allocated=one.allocated // 2) for one in burst()]
        app.chart.overlay = half
        await pilot.pause()
        drawn = [
            x for row in screen_of(app) for x, char in enumerate(row) if "\u2800" < char <= "\u28ff"
        ]
        assert len(set(drawn)) >= len(app.chart.columns) - 12


async def test_a_capacity_out_of_reach_is_noted() -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)) as pilot:
        app.chart.set_samples(burst())
        app.chart.capacity = 141 * GIB
        await pilot.pause()
        rows = screen_of(app)
        assert rows[0].rstrip().endswith("capacity 141 GiB ↑") and "╌" not in "".join(rows)


async def test_without_colours_bands_are_hatches_and_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Charts()
    async with app.run_test(size=(100, 30)) as pilot:
        app.chart.set_samples(burst())
        await pilot.pause()
        plot = "".join(screen_of(app)[: app.chart.canvas.rows])
        for band in range(4):
            assert HATCHES[band] in plot and LETTERS[band] in plot
        assert not set("▁▂▃▄▅▆▇") & set(plot)
        assert f"{HATCHES[0]} W weights" in screen_of(app)[-1] or "W 3" in screen_of(app)[-1]


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark", "ansi-light"])
async def test_themes_have_their_own_colours(theme: str) -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)) as pilot:
        app.chart.set_samples(burst())
        await pilot.pause()
        app.theme = theme
        await pilot.pause()
        grounds = {
            segment.style.bgcolor
            for strip in strips_of(app)[: app.chart.canvas.rows]
            for segment in strip
            if segment.style is not None and segment.style.bgcolor is not None
        }
        names = {colour.name for colour in grounds}
        expected = {
            "textual-dark": {"#5b9bea", "#c4446a"},
            "textual-light": {"#346baa", "#f0807f"},
            "ansi-dark": {"blue", "magenta"},
            "ansi-light": {"blue", "magenta"},
        }
        assert expected[theme] <= names


async def test_the_loss_grows_and_freezes() -> None:
    app = Charts(lines=True)
    async with app.run_test(size=(100, 24)) as pilot:
        lines = app.query_one(LineChart)
        lines.steps = 8
        lines.append("now", 1, 11.92)
        lines.append("now", 2, 7.314)
        await pilot.pause()
        assert "7.314" in "\n".join(screen_of(app))
        lines.frozen = True
        lines.append("now", 3, 5.5)
        await pilot.pause()
        assert "5.5" not in "\n".join(screen_of(app))
        lines.frozen = False
        await pilot.pause()
        assert "5.5" in "\n".join(screen_of(app))
        lines.clear()
        await pilot.pause()
        assert "5.5" not in "\n".join(screen_of(app))


@pytest.mark.parametrize("width", range(70, 130, 7))
async def test_the_name_of_a_run_and_the_capacity_do_not_share_cells(width: int) -> None:
    app = Charts()
    async with app.run_test(size=(width, 14)) as pilot:
        app.chart.set_samples(burst())
        app.chart.lay_over([("#2", burst())])
        app.chart.capacity = 141 * GIB
        await pilot.pause()
        drawn = "\n".join(screen_of(app))
        assert "#2" in drawn
        assert "capacity 141 GiB ↑" in drawn or "141 GiB ↑" in drawn, drawn


async def test_an_empty_chart_is_not_zoomed() -> None:
    app = Charts()
    async with app.run_test(size=(100, 24)):
        app.chart.zoom(2)
        assert app.chart.window.whole
