"""The charts' arithmetic: ticks, labels, which sample a column stands for, exact stacking."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from memwb.engine.protocol import Categories, Sample
from memwb.workbench.charts import axis, bands, legend, outline, scale
from memwb.workbench.charts.palette import ANSI, DARK, LIGHT, palette
from memwb.workbench.charts.plot import Line, bounds, picture
from memwb.workbench.charts.strips import joined, ranges
from memwb.workbench.charts.timeline import Timeline, merge, peaks, slots

GIB, MIB = 2**30, 2**20


def sample(time: float, step: int = 1, phase: str = "forward", *parts: int) -> Sample:
    categories = Categories(*parts)
    return Sample(time, step, phase, categories.total, 0, 0, categories)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (int(9.97 * GIB), "9.97 GiB"),
        (GIB - 1, "1.00 GiB"),
        (512 * MIB, "512 MiB"),
        (int(12.34 * GIB), "12.3 GiB"),
        (2000 * GIB, "2,000 GiB"),
        (-512 * MIB, "-512 MiB"),
    ],
)
def test_bytes_as_text(size: int, text: str) -> None:
    assert scale.gib(size) == text


def test_difference_as_text() -> None:
    assert scale.delta(int(1.2 * GIB)) == "+1.20 GiB"
    assert scale.delta(-512 * MIB) == "−512 MiB"
    assert scale.delta(0) == "±0 B"


def test_ticks_are_round_and_inside() -> None:
    rng = random.Random(0)
    for _ in range(500):
        low = rng.uniform(-1e4, 1e4)
        high = low + 10 ** rng.uniform(-6, 6)
        most = rng.randint(2, 12)
        found = scale.ticks(low, high, most)
        step = scale.step_of(high - low, most)
        digits = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(digits - digit) for digit in (1, 2, 5)) < 1e-6
        assert len(found) <= most + 1
        slack = step * 1e-6
        assert all(low - slack <= tick <= high + slack for tick in found)
    assert scale.ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert scale.ticks(math.nan, 1, 4) == []


def test_byte_ticks_are_round_in_their_unit() -> None:
    assert scale.byte_ticks(16 * GIB, 4) == [
        (0, "0 GiB"),
        (5 * GIB, "5 GiB"),
        (10 * GIB, "10 GiB"),
        (15 * GIB, "15 GiB"),
    ]
    assert [label for _, label in scale.byte_ticks(900 * MIB, 5)][1] == "200 MiB"
    assert [value for value, _ in scale.byte_ticks(int(1.2 * GIB), 3)][1] == GIB // 2
    assert scale.byte_ticks(3, 8)[-1] == (3, "3 B")


def test_the_top_is_above_the_peak_and_moves_in_strides() -> None:
    tops = set()
    for peak in range(GIB, 3 * GIB, 5 * MIB):
        top = scale.byte_top(peak, 20)
        assert peak < top <= peak * 1.3
        tops.add(top)
    assert len(tops) < 30
    assert scale.byte_top(0, 20) >= 1


def test_a_spike_never_vanishes() -> None:
    rng = random.Random(1)
    for _ in range(200):
        count, columns = rng.randint(1, 400), rng.randint(1, 60)
        times = sorted(rng.uniform(5, 6) for _ in range(count))
        samples = [sample(time, 1, "forward", rng.randrange(100)) for time in times]
        spike = sample(times[rng.randrange(count)], 1, "backward", 10**6)
        samples = sorted([*samples, spike], key=lambda one: one.time)
        found = peaks(samples, columns, samples[-1].time - samples[0].time, closed=True)
        assert len(found) == columns
        assert any(one is spike for one in found)
        assert all(one is not None for one in found)


def test_each_column_is_the_largest_of_its_time() -> None:
    samples = [sample(index / 100, 1, "forward", (index * 37) % 101) for index in range(100)]
    found = peaks(samples, 10, 0.99, closed=True)
    for column, one in enumerate(found):
        part = [s for s in samples if int(s.time / 0.99 * 10 * (1 - 1e-9)) == column]
        assert one is max(part, key=lambda s: s.allocated)


def test_memory_holds_its_level_between_events() -> None:
    low, peak, after = (sample(t, 1, "forward", size) for t, size in ((0, 5), (0.01, 9), (0.02, 7)))
    end = sample(1.0, 1, "forward", 1)
    found = peaks([low, peak, after, end], 10, 1.0, closed=True)
    assert found[0] is peak
    # What holds afterwards is the last level, not the peak.
    assert all(one is after for one in found[1:9])
    assert found[9] is end
    # A step that is going on has no level after its last sample.
    assert peaks([low, peak, after], 10, 1.0, closed=False)[1:] == [None] * 9


def test_steps_share_the_width_and_loading_gets_little() -> None:
    layout = slots([0, 1, 2], 100)
    assert [slot.step for slot in layout] == [0, 1, 2]
    assert layout[0].columns == 12
    assert layout[1].columns == layout[2].columns == 44
    assert layout[0].first + sum(slot.columns for slot in layout) == 100
    assert slots([0], 50)[0].columns == 50
    assert slots([], 50) == () and slots([1], 0) == ()
    for width, count in itertools.product((1, 7, 30, 199), (1, 2, 9, 500)):
        covered = {
            column
            for slot in slots(range(count), width)
            for column in range(slot.first, slot.first + slot.columns)
        }
        assert set(range(width)) <= covered


def test_more_steps_than_columns_keep_the_peak() -> None:
    samples = [sample(step, step, "forward", 10**6 if step == 333 else 5) for step in range(1, 501)]
    timeline = Timeline(samples)
    layout = slots(timeline.steps(), 40)
    columns = merge(layout, [timeline.columns(slot) for slot in layout], 40)
    assert sum(one is not None and one.allocated == 10**6 for one in columns) == 1
    assert all(columns)


def test_appending_is_the_same_as_setting() -> None:
    samples = [sample(i / 50, 1 + i // 100, "forward", i * 7 % 90) for i in range(300)]
    whole = Timeline(samples)
    grown = Timeline()
    for index in range(0, 300, 7):
        grown.append(samples[index : index + 7])
    assert grown.by_step == whole.by_step and grown.peak is whole.peak
    for slot in slots([1, 2], 80):
        assert grown.columns(slot) == whole.columns(slot)


def test_a_live_step_does_not_move_what_was_drawn() -> None:
    timeline = Timeline(steps=(1, 2))
    samples = [sample(i / 1000, 1, "forward", i) for i in range(90)]
    (_, slot, _) = slots(timeline.steps(), 112)
    before: list[Sample | None] = []
    for one in samples:
        timeline.append([one])
        now = timeline.columns(slot)
        held = [column for column in before if column is not None]
        settled = held[:-1] if held else []
        # Only the newest column may change, unless the step outlasts its guess.
        assert now[: len(settled)] == settled
        before = now


def test_replacing_a_step_forgets_its_live_peak() -> None:
    timeline = Timeline()
    timeline.append([sample(0, 1, "forward", 99), sample(1, 2, "forward", 50)])
    exact = [sample(0, 1, "forward", 10), sample(0.5, 1, "backward", 60)]
    timeline.replace(1, exact)
    assert timeline.peak is exact[1] and timeline.open == 2
    timeline.replace(1, [])
    assert timeline.peak is not None and timeline.peak.step == 2


def test_stacking_is_exact() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        rows = rng.randint(1, 50)
        parts = [rng.choice((0, 0, rng.randrange(1, 10**9))) for _ in range(6)]
        top = max(1, sum(parts), rng.randrange(1, 4 * 10**9))
        edges = bands.bounds(parts, top, rows)
        for index, edge in enumerate(edges):
            assert abs(edge - sum(parts[: index + 1]) / top * rows * 8) <= 0.5 + 1e-6
        cells = bands.stack(edges, rows)
        assert len(cells) == rows
        # The height of what is drawn is the total, to an eighth.
        height = sum(e if upper < 0 else 8 for e, lower, upper in cells if lower >= 0)
        assert height == edges[-1]
        shown = [band for e, lower, upper in cells for band in (lower, upper) if e and band >= 0]
        assert shown == sorted(shown), "bands keep their order"


def test_an_edge_between_two_bands_is_at_its_eighth() -> None:
    assert bands.stack([12, 20, 20, 20, 20, 20], 4) == [
        (8, 0, 0),
        (4, 0, 1),
        (4, 1, -1),
        (0, -1, -1),
    ]


def test_bytes_beyond_the_categories_are_a_band_of_their_own() -> None:
    assert bands.values(Sample(0, 1, "forward", 100, 0, 0, None)) == (0, 0, 0, 0, 0, 100)
    assert bands.values(Sample(0, 1, "forward", 100, 0, 0, Categories(60, 30))) == (
        60,
        30,
        0,
        0,
        0,
        10,
    )


def test_joined_keeps_every_character() -> None:
    looks = palette()
    rng = random.Random(3)
    codes = [(rng.randint(0, 8), rng.randint(0, 4), rng.randint(-1, 4)) for _ in range(300)]
    cells = looks.cells([code for code in codes for _ in range(rng.randint(1, 3))])
    segments = joined(cells)
    flat = [(char, segment.style) for segment in segments for char in segment.text]
    assert flat == cells
    assert all(a.style is not b.style for a, b in itertools.pairwise(segments))


def test_ranges_cover_every_change() -> None:
    blank, full = (0, -1, -1), (8, 0, 0)
    changes = [
        (3, [blank] * 5, [full, blank, blank, blank, blank]),
        (4, [blank] * 5, [blank, blank, full, blank, blank]),
        (9, [blank] * 5, [blank, blank, blank, blank, full]),
    ]
    assert list(ranges(changes, 5)) == [(3, 2, 2, 3), (9, 0, 1, 1)]


def test_the_strip_of_phases() -> None:
    samples = [sample(0, 1, "forward", 1)] * 12 + [sample(1, 1, "backward", 1)] * 5
    (slot,) = slots([1], 17)
    assert axis.phases(samples, [slot]) == "┴──forward──┴bwd─"
    many = slots(range(1, 201), 40)
    line = axis.steps(many, 40)
    assert len(line) == 40 and line.split() == ["50", "100", "150"]
    assert "step 1" in axis.steps(slots([0, 1, 2], 60), 60)


def test_the_gutter_is_even_and_its_labels_at_their_heights() -> None:
    for rows, top in itertools.product((1, 3, 8, 40), (1, 1000, 900 * MIB, 16 * GIB)):
        lines, foot = axis.gutter(top, rows)
        assert len(lines) == rows
        assert {len(line) for line in lines} == {len(foot)}
    lines, _ = axis.gutter(16 * GIB, 16)
    ticked = [index for index, line in enumerate(lines) if line.endswith("┤")]
    assert [lines[row].strip(" ┤") for row in ticked] == ["15 GiB", "10 GiB", "5 GiB"]
    assert all(abs((16 - row - 0.5) - (15 - 5 * i)) <= 0.5 for i, row in enumerate(ticked))


def test_the_legend_fits_and_says_the_bytes() -> None:
    one = sample(0, 2, "backward", 3 * GIB, GIB, 2 * GIB, 4 * GIB, 100 * MIB)
    for width in range(1, 140):
        for hatched in (False, True):
            assert legend.length(legend.categories(one, width, hatched)) <= width
        assert legend.length(legend.moment(one, width, "peak")) <= max(width, 1)
    text = "".join(part for part, _, _ in legend.categories(one, 120, False))
    for name, size in (("weights", "3.00"), ("activations", "4.00"), ("optimizer", "2.00")):
        assert f"{name} {size} GiB" in text
    narrow = "".join(part for part, _, _ in legend.categories(one, 30, False))
    assert "3" in narrow and "GiB" in narrow


def test_the_outline_is_unbroken() -> None:
    columns = [sample(i, 1, "forward", size) for i, size in enumerate((10, 90, 20, 20, 100))]
    rows = outline.trace(columns, 100, 5)
    seen = {column for line in rows.values() for column in line}
    assert seen == set(range(5))
    # The jump to column 1 passes through every row between.
    assert all(1 in rows[row] for row in range(1, 5))


def lab(colour: str, matrix: tuple[tuple[float, ...], ...] | None) -> tuple[float, float, float]:
    """A colour in Oklab (Ottosson 2020) as someone with that matrix of sight sees it."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    if matrix:
        rgb = [min(1, max(0, sum(m * c for m, c in zip(row, rgb, strict=True)))) for row in matrix]
    r, g, b = rgb
    l = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)  # noqa: E741
    m = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    s = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
    )


SIGHTS = {
    # Machado, Oliveira, Fernandes 2009, severity 1.0.
    "normal": None,
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize(("colours", "ground"), [(DARK, "#1e1e1e"), (LIGHT, "#e0e0e0")])
def test_bands_are_told_apart_by_every_eye(
    colours: tuple[str, ...], ground: str, sight: str
) -> None:
    seen = [lab(colour, SIGHTS[sight]) for colour in colours[:5]]
    assert min(math.dist(a, b) for a, b in itertools.pairwise(seen)) >= 0.16
    assert min(math.dist(a, b) for a, b in itertools.combinations(seen, 2)) >= 0.10
    assert min(abs(one[0] - lab(ground, None)[0]) for one in seen) >= 0.1
    assert len(set(ANSI)) == len(ANSI)


def text_of(chart: object) -> list[str]:
    return ["".join(char for char, _ in row) for row in chart.rows]  # type: ignore[attr-defined]


def test_lines_at_any_size() -> None:
    lines = [
        Line("now", tuple((step, 12 - step / 5) for step in range(1, 31))),
        Line("#6", tuple((step, 11.0) for step in range(1, 41)), overlay=True),
    ]
    for width, height in itertools.product((0, 1, 2, 5, 23, 24, 30, 80, 200), (0, 1, 3, 4, 8, 50)):
        rows = text_of(picture(lines, 40, width, height))
        assert len(rows) == (height if width else 0)
        assert all(len(row) <= max(width, 1) for row in rows)
    rows = text_of(picture(lines, 40, 80, 12))
    assert any(row.rstrip().endswith("11 #6") for row in rows)
    assert any(row.rstrip().endswith(" 6") for row in rows)


def test_a_falling_line_falls_and_its_axis_stands_still() -> None:
    points = tuple((step, 10.0 - step) for step in range(1, 6))
    early = text_of(picture([Line("now", points[:2])], 100, 60, 10))
    late = text_of(picture([Line("now", points)], 100, 60, 10))
    assert early[-1].split()[:2] == late[-1].split()[:2] == ["step", "1"]
    drawn = [
        (x, y) for y, row in enumerate(late[:-2]) for x, char in enumerate(row) if char > "\u2800"
    ]
    assert max(drawn)[1] > min(drawn)[1]
    # Five of a hundred steps take a twentieth of the width.
    assert max(drawn)[0] - min(drawn)[0] <= 4


def test_values_that_are_not_finite_are_gaps() -> None:
    points = ((1, 5.0), (2, math.nan), (3, math.inf), (4, 6.0))
    rows = text_of(picture([Line("now", points)], 4, 60, 10))
    assert any("6" in row for row in rows)
    nothing = text_of(picture([Line("now", ((1, math.nan),))], 4, 60, 10))
    assert len(nothing) == 10
    diverged = text_of(picture([Line("now", ((1, 5.0), (2, math.nan)))], 4, 60, 10))
    assert any(row.rstrip().endswith("nan") for row in diverged)


def test_the_range_of_values() -> None:
    assert bounds([]) == (0.0, 1.0)
    for values in ([5.0], [5.0, 5.0], [-3.0, 4.0], [7.31, 11.92], [0.0]):
        low, high = bounds(values)
        assert low <= min(values) and max(values) <= high and low < high


def test_without_a_run_there_are_no_axes() -> None:
    for lines in ((), (Line("now"),)):
        assert picture(lines, 0, 60, 10).rows == ()
    assert picture((), 8, 60, 10).rows, "a burst that has no loss yet has its axis"
