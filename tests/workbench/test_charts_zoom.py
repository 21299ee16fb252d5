"""What is true of the charts at every size and every zoom: nothing is lost, nothing is bent."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Size

from memwb.engine.protocol import Categories, Sample
from memwb.workbench.charts import bands, window
from memwb.workbench.charts.canvas import STYLES, Canvas
from memwb.workbench.charts.inset import LEAST, NARROW, Moment
from memwb.workbench.charts.palette import EIGHTHS, palette
from memwb.workbench.charts.plot import Line, picture
from memwb.workbench.charts.timeline import Timeline, peaks, seen, slots
from memwb.workbench.charts.view import Overlay, View
from memwb.workbench.charts.window import WHOLE, Window
from memwb.workbench.units import gib

MIB, GIB = 2**20, 2**30
LOOKS = {name: Style(color="white") for name in STYLES} | {"ground": Style(bgcolor="black")}
PALETTE = palette(ground="black")
PLAIN = palette(colours=False, ground="black")


def burst(rng: random.Random, steps: int, per: int) -> list[Sample]:
    """Random memory: steps of uneven lengths, samples at uneven times, some at the same time."""
    found, time = [], 0.0
    for step in range(steps):
        for index in range(rng.randint(1, per)):
            time += rng.choice((0.0, 1e-6, rng.random() / 50))
            phase = "load" if not step else ("forward", "backward", "optimizer")[index * 3 // per]
            parts = Categories(*(rng.choice((0, rng.randrange(GIB))) for _ in range(5)))
            total = parts.total + rng.choice((0, 0, MIB))
            found.append(Sample(time, step, phase, total, total, total + MIB, parts))
        time += rng.random()
    return found


def somewhere(rng: random.Random) -> Window:
    return Window(max(1.0, 2 ** rng.uniform(-1, 10)), rng.random())


def test_a_part_of_the_columns_is_those_columns_of_the_whole() -> None:
    rng = random.Random(5)
    for _ in range(250):
        samples = [one for one in burst(rng, 2, 150) if one.step == 1]
        columns, closed = rng.randint(1, 3000), rng.random() < 0.7
        span = (samples[-1].time - samples[0].time) * rng.choice((1, 1, 1.5))
        hidden = frozenset(rng.sample(range(5), rng.randint(0, 2)))
        how = {"measure": bands.measure(hidden)}
        whole = peaks(samples, columns, span, closed, **how)
        begin = rng.randrange(columns)
        end = min(columns, begin + rng.randint(1, 220))
        part = peaks(samples, columns, span, closed, part=(begin, end), **how)
        assert len(part) == end - begin
        assert all(a is b for a, b in zip(part, whole[begin:end], strict=True))


def test_a_spike_is_seen_at_any_size_zoom_and_place() -> None:
    """However far one zooms in, wherever its moment is seen the spike has a column of its own."""
    rng = random.Random(6)
    for _ in range(60):
        samples = burst(rng, rng.choice((2, 3, 40)), 60)
        at = rng.randrange(len(samples))
        high = Categories(activations=9 * GIB)
        before = samples[at]
        spike = Sample(before.time, before.step, before.phase, 9 * GIB, 0, 0, high)
        samples[at] = spike
        hidden = frozenset(rng.sample((0, 1, 2, 4), rng.randint(0, 3)))
        size, shown = Size(rng.randint(30, 220), rng.randint(8, 50)), Timeline(samples)
        canvas = Canvas(size, View(shown, hidden=hidden), PALETTE, LOOKS)
        assert any(one is spike for one in canvas.columns)
        for _ in range(rng.randint(1, 10)):
            column = canvas.column(spike)
            assert column is not None, "zooming around a moment keeps it in sight"
            here = canvas.zoomed(rng.choice((1.5, 2.0)), column)
            canvas = Canvas(size, View(shown, hidden=hidden, window=here), PALETTE, LOOKS)
            assert any(one is spike for one in canvas.columns)
            top = canvas.rows - 1 - (9 * GIB * canvas.rows * 8 // canvas.top - 1) // 8
            there = canvas.left + [one is spike for one in canvas.columns].index(True)
            assert canvas.line(top)[there] != (" ", PALETTE.cells([bands.EMPTY])[0][1])


def test_every_moment_is_in_some_window() -> None:
    rng = random.Random(7)
    for _ in range(200):
        steps, width = range(rng.randint(1, 30)), rng.randint(1, 200)
        zoom = 2 ** rng.uniform(0, 7)
        total = max(width, round(width * zoom))
        layout = slots(steps, width, total)
        covered: set[int] = set()
        for first in [*range(0, total - width, width), total - width]:
            parts = seen(layout, first, width)
            here: set[int] = set()
            for part in parts:
                at = part.shown.first
                assert part.shown.columns == part.end - part.begin
                assert at >= 0 and at + part.shown.columns <= width
                assert first + at == part.slot.first + part.begin
                here |= set(range(at, at + part.shown.columns))
            assert here == set(range(width)), "no column is nobody's"
            covered |= {first + column for column in here}
        assert covered == set(range(total))


@pytest.mark.parametrize("looks", [PALETTE, PLAIN], ids=["colours", "hatches"])
def test_any_size_is_drawn_whole(looks: object) -> None:
    rng = random.Random(8)
    for turn in range(130):
        size = Size(30, 8) if turn == 0 else Size(rng.randint(30, 230), rng.randint(8, 60))
        if turn > 115:
            size = Size(rng.randint(1, 30), rng.randint(1, 9))
        shown = Timeline(burst(rng, rng.choice((1, 2, 3, 9)), 60), range(1, 3))
        others = [Overlay(f"#{at}", Timeline(burst(rng, 3, 40))) for at in range(rng.randint(0, 4))]
        view = View(
            shown=shown,
            others=tuple(others),
            capacity=rng.choice((None, GIB, 3 * GIB, 99 * GIB)),
            predicted=rng.choice((None, 2 * GIB)),
            foreseen=Timeline(burst(rng, 3, 40)),
            hidden=frozenset(rng.sample(range(5), rng.choice((0, 0, 1, 5)))),
            window=rng.choice((WHOLE, somewhere(rng))),
        )
        canvas = Canvas(size, view, looks, LOOKS)  # type: ignore[arg-type]
        moments = [one for one in canvas.columns if one is not None]
        sample = rng.choice(moments) if moments and turn % 2 else None
        canvas.say(sample or shown.peak, "cursor" if sample else "peak")
        canvas.point(Moment(sample, shown.before(sample)) if sample else None)
        rows = [canvas.line(y) for y in range(size.height)]
        assert {len(row) for row in rows} == {size.width}
        text = ["".join(char for char, _ in row) for row in rows]
        assert all(cell_len(row) == size.width for row in text), "no character of two columns"
        if size.width < 30 or size.height < 8:
            continue
        assert text[-1].strip(), "the legend is there"
        if not view.window.whole and (size.height >= 12 or sample is None):
            assert "zoom" in "\n".join(text)
        assert (text[-1].count("□") > 0) == bool(view.hidden)
        # The cursor may stand on the mark.
        assert (text[canvas.rows][canvas.left] in "◂▲") >= (canvas.first > 0)
        plot, box = len(canvas.columns), any("╭" in row for row in text)
        roomy = plot // 2 - 1 >= NARROW and canvas.rows >= LEAST
        assert box == (roomy and sample is not None)
        if box and canvas.rows >= 10:
            assert sample is not None
            assert f"{sample.allocated:,}" in "\n".join(text)


def test_any_size_and_zoom_shows_the_bytes_to_an_eighth() -> None:
    rng = random.Random(9)
    for _ in range(60):
        size = Size(rng.randint(30, 220), rng.randint(8, 50))
        hidden = frozenset(rng.sample(range(5), rng.choice((0, 1, 2))))
        view = View(
            Timeline(burst(rng, rng.choice((1, 3)), 80)), hidden=hidden, window=somewhere(rng)
        )
        canvas = Canvas(size, view, PALETTE, LOOKS)
        plot = [canvas.line(y)[canvas.left :] for y in range(canvas.rows)]
        ground = PALETTE.cells([bands.EMPTY])[0][1].bgcolor
        for x, sample in enumerate(canvas.columns):
            cells = [row[x] for row in plot]
            height = sum(
                8 if style.bgcolor != ground else EIGHTHS.index(char) for char, style in cells
            )
            wanted = view.measure(sample) if sample is not None else 0
            assert abs(height - wanted / canvas.top * canvas.rows * 8) <= 0.5 + 1e-6


def test_capacity_and_predicted_peak_are_named_at_any_size() -> None:
    rng = random.Random(10)
    for turn in range(80):
        size = Size(30, 8) if turn == 0 else Size(rng.randint(30, 200), rng.randint(8, 50))
        shown = Timeline(burst(rng, 3, 60))
        peak = shown.peak.allocated if shown.peak else 0
        predicted = round(peak * rng.uniform(0.8, 1.2))
        capacity = round(peak * rng.choice((1.01, 1.3, 40)))
        view = View(shown, capacity=capacity, predicted=predicted, window=somewhere(rng))
        canvas = Canvas(size, view, PALETTE, LOOKS)
        rows = ["".join(char for char, _ in canvas.line(y)) for y in range(canvas.rows)]
        text = "\n".join(rows)
        same = canvas._row_of(capacity) == canvas._row_of(predicted)
        assert "pred" in text or (same and "cap" in text)
        # Beyond the axis it is noted where nothing is drawn, and else in the panel's header.
        assert "cap" in text or "↑" in text or capacity > canvas.top


def test_the_bytes_of_a_line_are_told_rather_than_its_whole_name() -> None:
    rng = random.Random(12)
    told = set()
    for width in range(30, 120):
        shown = Timeline(burst(rng, 3, 60))
        peak = shown.peak.allocated if shown.peak else 0
        view = View(shown, capacity=40 * peak, predicted=peak)
        canvas = Canvas(Size(width, 20), view, PALETTE, LOOKS)
        text = "".join(char for y in range(canvas.rows) for char, _ in canvas.line(y))
        told |= {form for form in (f"predicted {gib(peak)}", f"pred {gib(peak)}") if form in text}
    assert {form.split()[0] for form in told} == {"predicted", "pred"}


def test_a_loss_that_jumps_is_seen_at_any_zoom() -> None:
    rng = random.Random(11)
    for _ in range(60):
        count = rng.randint(5, 3000)
        points = [(step, 5 + rng.random()) for step in range(1, count + 1)]
        at = rng.randrange(count)
        points[at] = (at + 1, 50.0)
        width, height = rng.randint(30, 200), rng.randint(8, 30)
        near = Window(2 ** rng.uniform(0, 5), at / count)
        drawn = picture([Line("now", tuple(points))], count, width, height, near, cursor=at + 1)
        assert drawn.axis is not None
        assert all(len(row) <= width for row in drawn.rows) and len(drawn.rows) == height
        said = "".join(char for char, _ in drawn.rows[-1])
        assert said == f"step {at + 1} · 50 now"
        if not drawn.axis.sees(at + 1):
            continue
        column = drawn.left + drawn.axis.dot(at + 1) // 2
        # The value is the highest of all: its dot is in the upper half of its column.
        upper = [drawn.rows[y][column][0] for y in range((height - 2) // 2 + 1)]
        assert any("\u2800" < char <= "\u28ff" for char in upper)


def test_lines_laid_over_each_other_look_different() -> None:
    points = tuple((step, 10.0 - step / 100) for step in range(1, 400))
    looks = []
    for place in range(4):
        lines = [Line(f"#{n}", points if n == place else (), overlay=True) for n in range(4)]
        rows = picture(lines, 400, 120, 12).rows
        looks.append("\n".join("".join(char for char, _ in row) for row in rows).replace("#", ""))
    assert len({look.replace(str(at), "") for at, look in enumerate(looks)}) == 4


@pytest.mark.parametrize("factor", [1.5, 2.0, 0.5])
def test_what_one_zooms_around_stays_where_it_is(factor: float) -> None:
    rng = random.Random(12)
    for _ in range(300):
        width, here = rng.randint(10, 200), somewhere(rng)
        column = rng.randrange(width)
        total, first = window.extent(here, width)
        share = (first + column + 0.5) / total
        near = window.zoomed(here, factor, width, column)
        total, first = window.extent(near, width)
        assert 0 <= first <= total - width and 1 <= near.zoom <= window.MOST
        if 0 < first < total - width:
            assert abs(share * total - first - column - 0.5) <= 1.0 + factor


def test_panning_ends_at_the_ends() -> None:
    width: int = 80
    steps: list[Callable[[Window], Window]] = [
        lambda one: window.panned(one, -20, width),
        lambda one: window.panned(one, 20, width),
    ]
    for step, end in zip(steps, (0, 160), strict=True):
        here = Window(3.0, 0.5)
        for _ in range(30):
            here = step(here)
        assert window.extent(here, width) == (240, end)
    assert window.panned(WHOLE, 5, width) == WHOLE
    for column in range(0, 240, 7):
        _, first = window.extent(window.showing(Window(3.0, 0.0), column, width), width)
        assert first <= column < first + width
