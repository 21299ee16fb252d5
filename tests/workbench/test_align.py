"""Two runs over each other: phase over phase, whatever each of them took."""

from __future__ import annotations

from msgspec.structs import replace

from memwb.engine.protocol import Sample
from memwb.workbench.charts.align import aligned
from memwb.workbench.charts.timeline import Timeline, seen, slots
from memwb.workbench.charts.view import Overlay, View

PHASES = ("forward", "loss", "backward", "optimizer")


def step(*seconds: float, per: int = 40) -> list[Sample]:
    """One step whose phases take so long; memory follows the place in the phase, not the clock."""
    found: list[Sample] = []
    start = 0.0
    for number, (phase, length) in enumerate(zip(PHASES, seconds, strict=True), 1):
        for index in range(per):
            held = number * 1000 + index * (-1) ** number
            found.append(Sample(start + length * index / per, 1, phase, held, held, held))
        start += length
    return found


def levels(shown: list[Sample], other: list[Sample], width: int = 100) -> tuple[list[int], ...]:
    """What a chart of both draws of each: the height of every column."""
    view = View(Timeline(shown), (Overlay("", Timeline(other)),))
    (part,) = seen(slots(view.steps(), width), 0, width)
    mine, laid = view.columns(part), view.over(view.behind[0], part)
    return tuple([one.allocated if one else 0 for one in part] for part in (mine, laid))


def test_equal_runs_lie_on_each_other_whatever_they_took() -> None:
    shown = step(1.0, 0.2, 2.0, 0.5)
    uneven = [replace(one, time=one.time**1.3 * 7) for one in step(0.3, 0.4, 4.0, 0.1)]
    for other in (shown, step(3.0, 0.1, 1.0, 2.0), uneven):
        mine, laid = levels(shown, other)
        assert mine == laid


def test_phases_begin_together_when_runs_differ() -> None:
    shown, other = step(1.0, 0.5, 2.0, 0.5), step(2.0, 0.1, 1.0, 3.0, per=25)
    moved = aligned(other, shown)
    assert moved is not None and [one.allocated for one in moved] == [o.allocated for o in other]
    for phase in PHASES:
        first = next(one.time for one in shown if one.phase == phase)
        assert abs(next(one.time for one in moved if one.phase == phase) - first) < 1e-9
    assert moved[-1].time <= shown[-1].time + 1e-9
    assert [one.time for one in moved] == sorted(one.time for one in moved)


def test_other_phases_are_laid_over_by_time() -> None:
    shown = step(1.0, 0.5, 2.0, 0.5)
    other = [one for one in step(2.0, 0.5, 1.0, 0.5) if one.phase != "loss"]
    assert aligned(other, shown) is None
    view = View(Timeline(shown), (Overlay("", Timeline(other)),))
    (part,) = seen(slots(view.steps(), 60), 0, 60)
    assert view.over(view.behind[0], part) == view.behind[0].columns(part.slot)


def test_what_is_predicted_of_a_step_that_ended_early_lies_over_its_finished_phases() -> None:
    ran, foretold = step(1.0, 0.5, 2.0, 0.5), step(2.0, 0.1, 1.0, 3.0, per=25)
    cut = [one for one in ran if one.time < 2.5]
    shown = Timeline(cut)
    view = View(shown, foreseen=Timeline(foretold))
    (part,) = seen(slots(view.steps(), 100), 0, 100)
    mine, laid = view.columns(part), view.over(view.behind[0], part)
    for phase in ("forward", "loss"):
        begins = [
            next(place for place, one in enumerate(side) if one and one.phase == phase)
            for side in (mine, laid)
        ]
        assert begins[0] == begins[1]
    backward = next(place for place, one in enumerate(mine) if one and one.phase == "backward")
    assert all(laid[: backward - 2]) and not any(laid[backward + 1 :])
    # Of what ended in its first phase nothing is known to be over; a burst that goes on is guessed.
    first = View(Timeline(one for one in cut if one.phase == "forward"), foreseen=view.foreseen)
    assert not any(first.over(first.behind[0], part))
    shown.open = 1
    assert all(view.over(view.behind[0], part))
