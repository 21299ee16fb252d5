"""The numerics guard: a run's losses against an earlier run, and what the two owe each other.

Each technique says how far it may bend the loss curve. When two runs differ only by techniques
that say so, their curves can be held to it: this is how one learns that a technique is safe here.
Where one of them owes no curve (another optimizer, an adapter) the deviation is told, not judged.
Nothing is stored: verdicts are made from the run folders whenever they are asked for, so they
hold for runs that were recorded before there was a guard.
"""

from __future__ import annotations

import bisect
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, Workload, active
from memwb.engine.runs import PLAN, SCRIPT, SUMMARY, Summary, pinned, read_plan
from memwb.engine.technique import GROUPS, OTHER_ROWS, OTHER_STEPS, group_of, techniques

HELD = 10
"""For how many steps a tolerance holds. After that two runs that differ in one bit drift apart,
each as good as the other; equal ones stay equal for as long as they go on."""

REORDERED = 2**-10
"""What even a repetition may deviate on a GPU, where some kernels (attention's backward, scattered
additions) add atomically, in whichever order threads arrive: the bound of a technique that only
adds in another order."""

_DEFAULTS = frozenset(group.default for group in GROUPS)


class Owed(msgspec.Struct, frozen=True):
    """By which techniques two plans differ, and how far their losses may be apart for it."""

    differing: tuple[str, ...]
    allowed: float | None
    """Largest relative deviation; None when no curve is owed."""
    free: tuple[str, ...] = ()
    """Those of ``differing`` that owe no curve."""
    first: float | None = None
    """Of the first loss alone, where these act after it only; None when they do not."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier run that another one is compared with, and held to within ``allowed``."""

    run: int
    folder: str
    name: str
    """Its techniques, or plain."""
    losses: tuple[float, ...]
    differing: tuple[str, ...]
    """The techniques that one of the two has and the other has not, or has otherwise."""
    allowed: float | None
    """Largest relative deviation that these techniques may cause; None when no curve is owed."""
    free: tuple[str, ...] = ()
    """The techniques by which none is owed."""
    first: float | None = None
    """Largest relative deviation of the first loss, where it alone is owed."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run's losses are from its baseline's."""

    run: int
    """The baseline's number."""
    name: str
    differing: tuple[str, ...]
    steps: int
    """How many steps both have."""
    largest: float
    """Largest relative deviation, of the steps that are held when these are outside, else of all;
    infinite where only one of the two is a number."""
    step: int
    """Where it is; 0 when the losses are identical."""
    allowed: float | None
    """None when no curve is owed."""
    within: bool
    held: int = 0
    """How many steps are held to anything, from the first on: all of them to be identical, HELD to
    a tolerance, one where only the first loss is owed, none where nothing is."""
    free: tuple[str, ...] = ()
    """The techniques by which no curve is owed."""
    first: float | None = None
    """What is allowed of the first loss where it alone is owed."""


def owed(ours: Plan, theirs: Plan) -> Owed | None:
    """What two plans owe each other; None when their losses cannot be compared.

    The whole workload must be the same, and the rows. Even the number of steps decides which rows
    are drawn and in which order, so another number trains on other data from the first step on.
    """
    if (ours.model, ours.workload) != (theirs.model, theirs.workload):
        return None
    return _owed(active(ours), active(theirs))


def _owed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Owed | None:
    known = techniques()
    named = ours.keys() | theirs.keys()
    differing = tuple(
        name for name in known if name in named and ours.get(name) != theirs.get(name)
    )
    free = [
        name
        for name in differing
        # The plain optimizer with other parameters (decay, moments) takes other steps.
        if _owes_none(name)
        or (name in ours and name in theirs and known[name].group == "optimizer")
    ]
    allowed = sum(known[name].tolerance or 0.0 for name in differing)
    if not free:
        return Owed(differing, allowed)
    reasons = {group_of(known[name].group).instead for name in free}
    if OTHER_ROWS in reasons:
        return None
    first = allowed if reasons == {OTHER_STEPS} else None
    return Owed(differing, None, tuple(free), first)


def _owes_none(name: str) -> bool:
    technique = techniques()[name]
    return not technique.exact and technique.tolerance is None


def between(run: Summary, other: Summary) -> Baseline | None:
    """``other`` as the baseline of ``run``; None when they cannot be compared."""
    if other.folder == run.folder or not _alike(run, other):
        return None
    ours, theirs = _acting_in(run.folder), _acting_in(other.folder)
    if ours is None or theirs is None or ours.trained != theirs.trained:
        return None
    found = _owed(ours.techniques, theirs.techniques)
    return _baseline(run, other, found) if found and _same_ground(run, other) else None


def baseline_for(run: Summary, runs: Iterable[Summary]) -> Baseline | None:
    """The run among ``runs`` that this one is compared with, or None where none can be.

    Of the earlier ones that are done or were stopped: one that is owed a curve before one that is
    not, then the one with the fewest techniques named, one that is done before one that was
    stopped, the latest. A plan is read only when its turn comes.
    """
    return _first_of(run, _ranked(other for other in runs if _alike(run, other)), _acting_in)


Ranked = list[tuple[tuple[str, int], "Summary"]]


def _ranked(runs: Iterable[Summary]) -> Ranked:
    """Runs with their ages, in the order in which they are looked at as a baseline."""
    found = [(_age(run), run) for run in runs if run.outcome in ("done", "stopped")]
    found.sort(key=lambda pair: pair[0], reverse=True)
    found.sort(key=lambda pair: (*_richness(pair[1]), pair[1].outcome != "done"))
    return found


def _first_of(run: Summary, ranked: Ranked, look_up: ActingIn) -> Baseline | None:
    free: Baseline | None = None
    ours, own = look_up(run.folder), _age(run)
    if ours is None:
        return None
    for age, other in ranked:
        if age >= own or not _alike(run, other):
            continue
        theirs = look_up(other.folder)
        if theirs is None or ours.trained != theirs.trained:
            continue
        # Once there is one that owes nothing, only one that owes something is of interest.
        if free and ours.bound != theirs.bound:
            continue
        found = _owed(ours.techniques, theirs.techniques)
        if found is None or (free and found.allowed is None) or not _same_ground(run, other):
            continue
        if found.allowed is not None:
            return _baseline(run, other, found)
        free = _baseline(run, other, found)
    return free


def _richness(run: Summary) -> tuple[int, int]:
    """How far from plain: the techniques named, those first that are no group's default."""
    named = run.techniques
    return sum(name not in _DEFAULTS for name in named), len(named)


def _alike(run: Summary, other: Summary) -> bool:
    return bool(other.losses) and _setting(run) == _setting(other)


def _baseline(run: Summary, other: Summary, found: Owed) -> Baseline:
    floor = REORDERED if run.device == "cuda" else 0.0
    return Baseline(
        run=other.run,
        folder=other.folder,
        name=" + ".join(other.techniques) or "plain",
        losses=tuple(other.losses),
        differing=found.differing,
        allowed=None if found.allowed is None else max(found.allowed, floor),
        free=found.free,
        first=None if found.first is None else max(found.first, floor),
    )


def compare(losses: Sequence[float], baseline: Baseline) -> Verdict | None:
    """The verdict on these losses; None before there is a step to compare."""
    steps = min(len(losses), len(baseline.losses))
    if not steps:
        return None
    bound, held = baseline.allowed, steps
    if bound is None:
        bound, held = baseline.first, 0 if baseline.first is None else 1
    elif bound:
        held = min(steps, HELD)
    largest, step = deviation(losses[:held], baseline.losses)
    within = bound is None or largest <= bound
    if within:
        largest, step = deviation(losses, baseline.losses)
    return Verdict(
        run=baseline.run,
        name=baseline.name,
        differing=baseline.differing,
        steps=steps,
        largest=largest,
        step=step,
        allowed=baseline.allowed,
        within=within,
        held=held,
        free=baseline.free,
        first=baseline.first,
    )


def reference_for(run: Summary, runs: Sequence[Summary]) -> Baseline | None:
    """The run that this one is shown against: the pinned one where the two can be compared,
    else that of ``baseline_for``."""
    chosen = pinned(runs)
    found = between(run, chosen) if chosen is not None else None
    return found or baseline_for(run, runs)


def verdict_on(run: Summary, runs: Sequence[Summary]) -> Verdict | None:
    """The verdict on a recorded run, its reference being among ``runs``; None where none is."""
    baseline = reference_for(run, runs) if run.losses else None
    return compare(run.losses, baseline) if baseline is not None else None


def _beyond(run: Summary, ranked: Ranked, acting_in: ActingIn) -> bool:
    baseline = _first_of(run, ranked, acting_in)
    verdict = compare(run.losses, baseline) if baseline is not None else None
    return verdict is not None and not verdict.within


_judged: dict[tuple[str, int, int], bool] = {}


def outside(runs: Sequence[Summary]) -> frozenset[str]:
    """The folders of those runs whose losses are outside what they owe.

    Each is judged once, and again only when its summary is written anew or a run before it comes
    or goes: the list of hundreds of runs is drawn after every burst. A pin changes nothing here:
    a run that is outside itself would make all others seem so.
    """
    ages = sorted(_age(run) for run in runs if run.outcome in ("done", "stopped"))
    found: dict[tuple[str, int, int], bool] = {}
    acting_in = functools.cache(_acting_in)
    # Of thousands of runs: each is ranked once, not once for every other.
    ranked = _ranked(runs)
    for run in runs:
        if run.losses and (written := _written(run.folder, SUMMARY)):
            key = (run.folder, written, bisect.bisect_left(ages, _age(run)))
            beyond = _judged.get(key)
            if beyond is None:
                beyond = _beyond(run, ranked, acting_in)
            found[key] = beyond
    _judged.clear()
    _judged.update(found)
    return frozenset(folder for (folder, *_), beyond in found.items() if beyond)


def deviation(losses: Sequence[float], others: Sequence[float]) -> tuple[float, int]:
    """The largest ``|a - b| / |b|`` over the steps that both have, and its step; (0, 0) if none."""
    apart = [_apart(a, b) for a, b in zip(losses, others, strict=False)]
    largest = max(apart, default=0.0)
    return (largest, apart.index(largest) + 1) if largest else (0.0, 0)


def _apart(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)) or b == 0:
        return math.inf
    return abs(a - b) / abs(b)


def _age(run: Summary) -> tuple[str, int]:
    return run.created, run.run


def _setting(run: Summary) -> tuple[str, ...]:
    """What decides a loss beside the plan: which weights were taken, and the arithmetic."""
    return run.model, run.weights, run.device, run.device_name


def _same_ground(run: Summary, other: Summary) -> bool:
    """Whether both ran with the same packages on files that are still those of the earlier one.

    An exact technique owes identical losses, and another version of torch or an edited data file
    would be taken for its fault.
    """
    ours, theirs = _versions(run.folder), _versions(other.folder)
    plan = plan_of(run.folder)
    if plan is None or any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
        return False
    model, data = Path(plan.model).expanduser(), Path(plan.workload.data).expanduser()
    try:
        # Moments of runs are whole seconds.
        first = min(datetime.fromisoformat(each.created) for each in (run, other))
        until = first.timestamp() + 1
        changed = [entry.stat().st_mtime for entry in os.scandir(model)] if model.is_dir() else []
        changed += [] if plan.workload.data == "builtin" else [data.stat().st_mtime]
    except (OSError, ValueError):
        return False
    return max(changed, default=0.0) <= until


def plan_of(folder: str) -> Plan | None:
    """The plan of a run's folder, read once; None when it cannot be read."""
    try:
        written = _written(folder, PLAN)
        return _plan(folder, written) if written else None
    except (OSError, MemwbError):
        return None


class Acting(NamedTuple):
    """What decides whether two runs can be compared, of one of them."""

    trained: tuple[str, Workload]
    techniques: dict[str, msgspec.Struct]
    bound: dict[str, msgspec.Struct]
    """Those that owe no curve: runs owe each other one only where these are the same."""


ActingIn = Callable[[str], Acting | None]


def _acting_in(folder: str) -> Acting | None:
    """What acted in a run; None when its plan is not there."""
    try:
        written = _written(folder, PLAN)
        return _acting(folder, written) if written else None
    except (OSError, MemwbError):
        return None


def _written(folder: str, name: str) -> int:
    """When a file of a run was written, in nanoseconds; 0 if it is not there."""
    try:
        return os.stat(os.path.join(folder, name)).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=4096)
def _plan(folder: str, written: int) -> Plan:
    return read_plan(folder)


@functools.lru_cache(maxsize=4096)
def _acting(folder: str, written: int) -> Acting:
    plan = _plan(folder, written)
    found = active(plan)
    bound = {name: params for name, params in found.items() if _owes_none(name)}
    return Acting((plan.model, plan.workload), found, bound)


def _versions(folder: str) -> dict[str, str]:
    """Packages and versions that the head of a run's script names; empty if it names none."""
    return _versions_in(folder, _written(folder, SCRIPT))


@functools.lru_cache(maxsize=4096)
def _versions_in(folder: str, written: int) -> dict[str, str]:
    try:
        with (Path(folder) / SCRIPT).open(encoding="utf-8") as lines:
            head = " ".join(line.strip("# \n") for line, _ in zip(lines, range(40), strict=False))
    except (OSError, UnicodeDecodeError):
        return {}
    ours = head.partition("Written by ")[2].partition(";")[0]
    beside = head.partition("Written beside ")[2].partition(". ")[0]
    pairs = [part.rsplit(" ", 1) for part in [*beside.split(", "), ours]]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
