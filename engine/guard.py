"""The numerics guard: a run's losses against an earlier run that owes it the same curve.

Each technique says how far it may bend the loss curve. When two runs differ only by techniques
that say so, their curves can be held to it: this is how one learns that a technique is safe here.
Nothing is stored: verdicts are made from the run folders whenever they are asked for, so they
hold for runs that were recorded before there was a guard.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, active
from memwb.engine.runs import PLAN, SCRIPT, Summary, read_plan
from memwb.engine.technique import techniques

REORDERED = 2**-10
"""What even a repetition may deviate on a GPU, where some kernels (attention's backward, scattered
additions) add atomically, in whichever order threads arrive: the bound of a technique that only
adds in another order."""


class Owed(msgspec.Struct, frozen=True):
    """By which techniques two plans differ, and how far their losses may be apart for it."""

    differing: tuple[str, ...]
    allowed: float
    """Largest relative deviation."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier run whose loss curve another one owes, within ``allowed``."""

    run: int
    folder: str
    name: str
    """Its techniques, or plain."""
    losses: tuple[float, ...]
    differing: tuple[str, ...]
    """The techniques that one of the two has and the other has not, or has otherwise."""
    allowed: float
    """Largest relative deviation that these techniques may cause."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run's losses are from its baseline's."""

    run: int
    """The baseline's number."""
    name: str
    differing: tuple[str, ...]
    steps: int
    """How many steps both have."""
    largest: float
    """Largest relative deviation; infinite where only one of the two is a number."""
    step: int
    """Where it is; 0 when the losses are identical."""
    allowed: float
    within: bool


def owed(ours: Plan, theirs: Plan) -> Owed | None:
    """What two plans owe each other; None when their losses need not agree.

    The whole workload must be the same. Even the number of steps decides which rows are drawn
    and in which order, so another number of steps trains on other data from the first step on.
    """
    if (ours.model, ours.workload) != (theirs.model, theirs.workload):
        return None
    a, b = active(ours), active(theirs)
    known = techniques()
    differing = tuple(name for name in known if a.get(name) != b.get(name))
    allowed = 0.0
    for name in differing:
        technique = known[name]
        # The plain optimizer with other parameters (decay, moments) takes other steps.
        if name in a and name in b and technique.group == "optimizer":
            return None
        if not technique.exact and technique.tolerance is None:
            return None
        allowed += 0.0 if technique.exact else technique.tolerance or 0.0
    return Owed(differing, allowed)


def between(run: Summary, other: Summary) -> Baseline | None:
    """``other`` as the baseline of ``run``; None when it owes no curve, or has none."""
    if other.folder == run.folder or not other.losses or _setting(run) != _setting(other):
        return None
    ours, theirs = plan_of(run.folder), plan_of(other.folder)
    if ours is None or theirs is None:
        return None
    found = owed(ours, theirs)
    if found is None or not _same_ground(run, other, ours):
        return None
    floor = REORDERED if run.device == "cuda" else 0.0
    return Baseline(
        run=other.run,
        folder=other.folder,
        name=" + ".join(other.techniques) or "plain",
        losses=tuple(other.losses),
        differing=found.differing,
        allowed=max(found.allowed, floor),
    )


def baseline_for(run: Summary, runs: Iterable[Summary]) -> Baseline | None:
    """The run among ``runs`` that this one is held against, or None where no curve is owed.

    Of the earlier ones that are done or were stopped: the one with the fewest techniques named,
    one that is done before one that was stopped, the latest. A plan is read only when its turn
    comes.
    """
    earlier = [
        other for other in runs if other.outcome in ("done", "stopped") and _age(other) < _age(run)
    ]
    earlier.sort(key=_age, reverse=True)
    earlier.sort(key=lambda other: (len(other.techniques), other.outcome != "done"))
    found = (between(run, other) for other in earlier)
    return next((baseline for baseline in found if baseline is not None), None)


def compare(losses: Sequence[float], baseline: Baseline) -> Verdict | None:
    """The verdict on these losses; None before there is a step to compare."""
    steps = min(len(losses), len(baseline.losses))
    if not steps:
        return None
    largest, step = deviation(losses, baseline.losses)
    return Verdict(
        run=baseline.run,
        name=baseline.name,
        differing=baseline.differing,
        steps=steps,
        largest=largest,
        step=step,
        allowed=baseline.allowed,
        within=largest <= baseline.allowed,
    )


def verdict_on(run: Summary, runs: Iterable[Summary]) -> Verdict | None:
    """The verdict on a recorded run, its baseline being among ``runs``; None where none is."""
    baseline = baseline_for(run, runs) if run.losses else None
    return compare(run.losses, baseline) if baseline is not None else None


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


def _same_ground(run: Summary, other: Summary, plan: Plan) -> bool:
    """Whether both ran with the same packages on files that are still those of the earlier run.

    An exact technique owes identical losses, and another version of torch or an edited data file
    would be taken for its fault.
    """
    ours, theirs = _versions(run.folder), _versions(other.folder)
    if any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
        return False
    model, data = Path(plan.model).expanduser(), Path(plan.workload.data).expanduser()
    try:
        # Moments of runs are whole seconds.
        until = datetime.fromisoformat(other.created).timestamp() + 1
        changed = [entry.stat().st_mtime for entry in os.scandir(model)] if model.is_dir() else []
        changed += [] if plan.workload.data == "builtin" else [data.stat().st_mtime]
    except (OSError, ValueError):
        return False
    return max(changed, default=0.0) <= until


def plan_of(folder: str) -> Plan | None:
    """The plan of a run's folder, read once; None when it cannot be read."""
    try:
        return _plan(folder, os.stat(Path(folder) / PLAN).st_mtime_ns)
    except (OSError, MemwbError):
        return None


@functools.lru_cache(maxsize=4096)
def _plan(folder: str, written: int) -> Plan:
    return read_plan(folder)


def _versions(folder: str) -> dict[str, str]:
    """Packages and versions that the head of a run's script names; empty if it names none."""
    try:
        with (Path(folder) / SCRIPT).open(encoding="utf-8") as lines:
            head = " ".join(line.strip("# \n") for line, _ in zip(lines, range(40), strict=False))
    except (OSError, UnicodeDecodeError):
        return {}
    ours = head.partition("Written by ")[2].partition(";")[0]
    beside = head.partition("Written beside ")[2].partition(". ")[0]
    pairs = [part.rsplit(" ", 1) for part in [*beside.split(", "), ours]]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
