"""What differs between two to four runs: the first is what the others are held against.

The plan's differences come first, since they explain the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from memwb.engine.memory import Large
from memwb.engine.plan import Plan, plan_data
from memwb.engine.protocol import CATEGORIES, Alive, Peak
from memwb.engine.technique import techniques
from memwb.workbench.deviation import gap
from memwb.workbench.units import delta, gib, loss, padding, rate, seconds
from memwb.workbench.waste import waste

if TYPE_CHECKING:
    from memwb.engine.runs import Summary
    from memwb.workbench.trace import Trace

MINUS = "\N{MINUS SIGN}"
LETTERS = "ABCD"
"""What the compared runs are called, in the order in which they were marked."""


class Side(NamedTuple):
    """One of the compared runs."""

    run: int
    outcome: str
    device: str
    techniques: Sequence[str]
    plan: dict[str, Any]
    """Its values by dotted path; empty where the plan cannot be read."""
    peak: Peak | None
    predicted: Peak | None
    losses: Sequence[float]
    tokens_per_second: float | None
    padding: float | None
    seconds: float | None
    """How long the burst took; None while it is not over."""
    alive: Alive | None = None
    """What was alive at the peak, where it was recorded."""


class Line(NamedTuple):
    """A row of the table: a value of each run, and how those after the first differ from it."""

    name: str
    values: tuple[str, ...]
    gaps: tuple[str, ...]
    """One less than the values; empty texts where a difference has no measure."""
    plan: bool = False
    """Whether it is a value of the plan, by which the rest is explained."""


def side(run: Summary, plan: Plan | None) -> Side:
    """A recorded run to compare."""
    return Side(
        run.run,
        run.outcome,
        run.device,
        run.techniques,
        values_of(plan) if plan is not None else {},
        run.peak,
        run.predicted,
        run.losses,
        run.tokens_per_second,
        run.padding,
        run.seconds or None,
    )


def side_of(run: Summary, plan: Plan | None, trace: Trace) -> Side:
    """A run to compare as its events tell it: one that still goes on, or was interrupted, too."""
    ended = trace.ended
    return side(run, plan)._replace(
        peak=trace.peak,
        losses=trace.losses,
        tokens_per_second=trace.tokens_per_second,
        padding=ended.padding if ended is not None else None,
        seconds=ended.seconds if ended is not None else None,
    )


def values_of(plan: Plan) -> dict[str, Any]:
    """A plan's values by dotted path; a technique without parameters is ``on``."""
    return dict(_flat(plan_data(plan)))


def plan_differences(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """The values that are not the same in all plans, by path; None where a plan has none."""
    if not all(each.plan for each in sides):
        return {}
    paths = dict.fromkeys(path for each in sides for path in each.plan)
    found = {path: [each.plan.get(path) for each in sides] for path in paths}
    return {path: values for path, values in found.items() if any(v != values[0] for v in values)}


def plan_lines(sides: Sequence[Side]) -> list[Line]:
    """What the plans differ by, as a person would say it: a line a value of the workload, and one
    a technique, with those of its parameters that are not usual, or not the same."""
    differing = plan_differences(sides)
    found: dict[str, tuple[str, ...]] = {}
    for path, values in differing.items():
        head, _, rest = path.partition(".")
        if head != "techniques":
            found[path] = tuple(map(value_text, values))
            continue
        name = rest.partition(".")[0]
        found[f"{head}.{name}"] = tuple(_technique(name, each.plan, differing) for each in sides)
    return [Line(path, values, _none(sides), plan=True) for path, values in found.items()]


def called(plan: Plan) -> tuple[str, str]:
    """Its techniques, with those of their parameters that are not usual, and its workload."""
    values, known, work = values_of(plan), techniques(), plan.workload
    names = []
    for name in sorted(plan.techniques, key=list(known).index):
        told = _technique(name, values, {})
        names.append(known[name].title + ("" if told == "on" else f" {told}"))
    more = f" × {work.gradient_accumulation}" if work.gradient_accumulation > 1 else ""
    return " + ".join(names) or "plain", f"{work.batch_size} × {work.sequence_length}{more}"


def apart_by(one: Side, other: Side) -> str:
    """Why the losses of two runs cannot be held against each other, as far as it is known."""
    found = [path for path in plan_differences([one, other]) if not path.startswith("techniques.")]
    names = [path.removeprefix("workload.").replace("_", " ") for path in found]
    if not names and one.device != other.device:
        names = ["device"]
    for side in (one, other):
        if side.outcome == "running":
            return f"#{side.run} has not ended"
    if not one.losses or not other.losses:
        return "no losses"
    return f"another {', '.join(names)}" if names else "other versions"


def _technique(name: str, values: dict[str, Any], differing: dict[str, list[Any]]) -> str:
    """A technique as a plan has it: a dash where it is off."""
    whole = f"techniques.{name}"
    mine = {path: value for path, value in values.items() if path.startswith(f"{whole}.")}
    if whole not in values and not mine:
        return "–"
    known = techniques().get(name)
    usual = msgspec.to_builtins(known.params()) if known is not None else {}
    told = []
    for path, value in mine.items():
        field = path.removeprefix(f"{whole}.")
        having = {repr(value) for value in differing.get(path, ()) if value is not None}
        if value != usual.get(field) or len(having) > 1:
            told.append(f"{field} {value_text(value)}")
    return ", ".join(told) or "on"


def figures(sides: Sequence[Side]) -> dict[str, list[int | None]]:
    """The bytes of each run's peak: by category, then the totals; None where there is no peak."""
    names = (*CATEGORIES, "allocated", "reserved", "device")
    return {name: [_bytes(each.peak, name) for each in sides] for name in names}


def apart(sides: Sequence[Side]) -> list[tuple[float, int] | None]:
    """The largest relative deviation of each loss curve from the first, and its step (0: equal)."""
    from memwb.engine.guard import deviation

    first = sides[0].losses
    return [deviation(each.losses, first) if first and each.losses else None for each in sides[1:]]


def lines(sides: Sequence[Side], brief: bool = False) -> list[Line]:
    """The whole table; a brief one leaves out what is rarely asked for."""
    found = plan_lines(sides)
    if not brief or len({each.outcome for each in sides}) > 1:
        found.append(Line("outcome", tuple(each.outcome for each in sides), _none(sides)))
    if not brief or len({each.device for each in sides}) > 1:
        found.append(Line("device", tuple(each.device for each in sides), _none(sides)))
    known = figures(sides)
    totals = ("allocated",) if brief else ("allocated", "reserved", "device")
    order = (*totals, *CATEGORIES) if brief else (*CATEGORIES, *totals)
    found += [_sizes(f"peak {name}", known[name]) for name in order]
    if any(each.alive for each in sides) and not brief:
        found.append(Line("largest at the peak", tuple(map(_largest, sides)), _none(sides)))
    if any(each.predicted for each in sides) and not brief:
        told = [each.predicted.allocated if each.predicted else None for each in sides]
        found.append(_sizes("predicted allocated", told))
        found.append(Line("measured / predicted", tuple(map(_ratio, sides)), _none(sides)))
    found.append(_numbers("speed", [each.tokens_per_second for each in sides], rate))
    found.append(_numbers("time", [each.seconds for each in sides], seconds))
    if any(waste(each.padding, each.techniques) for each in sides):
        shares = tuple(padding(each.padding) or "–" for each in sides)
        found.append(Line("waste", shares, _none(sides)))
    if any(each.losses for each in sides):
        last = tuple(loss(each.losses[-1]) if each.losses else "–" for each in sides)
        found.append(Line("last loss", last, tuple(_less(sides[0], each) for each in sides[1:])))
        found.append(Line("largest loss gap", ("",) * len(sides), tuple(map(_apart, apart(sides)))))
    return found


def largest(side: Side) -> Large | None:
    """The kind of tensors that took the most at the peak; None where that was not recorded."""
    return side.alive.largest[0] if side.alive is not None and side.alive.largest else None


def _largest(side: Side) -> str:
    """The tensors that took the most at the peak, in a few words; a dash where they are unknown."""
    large = largest(side)
    if large is None:
        return "–"
    made = large.module.rpartition("layers.*.")[2] or large.op
    return f"{gib(large.bytes)} {made}"


def value_text(value: Any) -> str:
    """A value of a plan as it is typed; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _none(sides: Sequence[Side]) -> tuple[str, ...]:
    return ("",) * (len(sides) - 1)


def _sizes(name: str, sizes: Sequence[int | None]) -> Line:
    first, *others = sizes
    gaps = (
        "" if None in (first, other) else delta((other or 0) - (first or 0)) for other in others
    )
    return Line(name, tuple("–" if size is None else gib(size) for size in sizes), tuple(gaps))


def _numbers(name: str, values: Sequence[float | None], text: Any) -> Line:
    """Figures whose differences are told in hundredths of the first."""
    first, *others = values
    gaps = (f"{percent(other / first)}" if first and other else "" for other in others)
    return Line(name, tuple(text(value) for value in values), tuple(gaps))


def percent(ratio: float) -> str:
    """A ratio as a change: ``+12 %``, ``−3 %``, ``±0 %``."""
    change = round((ratio - 1) * 100)
    sign = "±" if change == 0 else "+" if change > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(change):,} %"


def _less(one: Side, other: Side) -> str:
    """By how much the last loss of another run is above or below."""
    if not one.losses or not other.losses or len(one.losses) != len(other.losses):
        return ""
    change = other.losses[-1] - one.losses[-1]
    text = loss(abs(change))
    if not change:
        return f"±{text}"
    return f"{'+' if change > 0 else MINUS}{text}" if change == change else ""


def _apart(found: tuple[float, int] | None) -> str:
    if found is None:
        return "–"
    largest, step = found
    return f"{gap(largest)} at step {step}" if step else "identical"


def _ratio(each: Side) -> str:
    if each.peak is None or each.predicted is None or not each.predicted.allocated:
        return "–"
    return f"{each.peak.allocated / each.predicted.allocated:.3f}"


def _bytes(peak: Peak | None, name: str) -> int | None:
    if peak is None:
        return None
    value: int = getattr(peak.categories if name in CATEGORIES else peak, name)
    return value


def _flat(data: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted path; an empty table is a value too."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        elif value == {} and path:
            yield f"{path}{key}", "on"
        elif value != {}:
            yield f"{path}{key}", value
