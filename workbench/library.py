"""What the workbench asks of the engine's light face, imported when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.guard import Baseline, Verdict
    from memwb.engine.protocol import Device, Event, Peak, Predict
    from memwb.engine.runs import Summary
    from memwb.workbench.panels.compared import Compared
    from memwb.workbench.pump import Engine
    from memwb.workbench.settings import Settings


def engine() -> Engine:
    """A new engine process, not yet started: MEMWB_ENGINE names another command for it."""
    import shlex

    from memwb.engine import paths
    from memwb.engine.client import Engine as Client

    command = shlex.split(os.environ.get("MEMWB_ENGINE", ""))
    return Client(command or None, log=paths.home() / "engine.log")


def resolve(plan: Plan, settings: Settings) -> Model:
    """The plan's model as this machine has it. Raises MemwbError."""
    from memwb.engine import catalog

    return catalog.resolve(
        plan.model, plan.weights, settings.allow_pickle, settings.trust_remote_code
    )


def models() -> list[Model]:
    """Every model that is known here."""
    from memwb.engine import catalog

    return catalog.models()


def runs() -> list[Summary]:
    """The recorded runs, newest first."""
    from memwb.engine.runs import list_runs

    return list_runs()


def trace(folder: str, label: str) -> Trace:
    """A recorded run as its events tell it, what of them can be read, with its baseline."""
    told = events(folder)
    if not told:
        return Trace(label)
    found = empty_trace(folder, label)
    for event in told:
        found.apply(event)
    return found


def events(folder: str) -> list[Event]:
    """The events of a recorded run; none where they cannot be read."""
    from memwb.engine.runs import read_events

    try:
        return list(read_events(Path(folder)))
    except (MemwbError, OSError):
        return []


def empty_trace(folder: str, label: str) -> Trace:
    """The trace of a run before its first event: what it is held against is known already."""
    from memwb.engine.runs import read_summary

    found = Trace(label)
    found.predicted = read_summary(Path(folder)).predicted
    found.baseline = baseline(folder)
    return found


def baseline(folder: str) -> Baseline | None:
    """The pinned or an earlier run that a run's losses are held against; None where none can be."""
    from memwb.engine.guard import reference_for
    from memwb.engine.runs import list_runs, read_summary

    try:
        return reference_for(read_summary(Path(folder)), list_runs())
    except MemwbError:  # the folder of the runs cannot be read, which the history says
        return None


def verdict(trace: Trace) -> Verdict | None:
    """The losses so far against those of the baseline; None where there is none."""
    if trace.baseline is None:
        return None
    from memwb.engine.guard import compare

    return compare(trace.losses, trace.baseline)


def compared(runs: Sequence[Summary], traces: Sequence[Trace]) -> Compared:
    """What differs between runs, each held against the first of them."""
    from memwb.engine.guard import between, compare, plan_of
    from memwb.workbench.comparing import side_of
    from memwb.workbench.panels.compared import Compared

    pairs = zip(runs, traces, strict=True)
    sides = tuple(side_of(run, plan_of(run.folder), trace) for run, trace in pairs)
    verdicts = []
    for run in runs[1:]:
        found = between(run, runs[0])
        verdicts.append(compare(run.losses, found) if found is not None else None)
    return Compared(sides, tuple(verdicts))


def describe(folder: str, name: str | None = None, note: str | None = None) -> None:
    """Keep a name or a note of a run; None leaves what there is. Raises MemwbError."""
    from memwb.engine import remarks

    if name is not None:
        remarks.rename(folder, name)
    if note is not None:
        remarks.annotate(folder, note)


def pin(run: Summary) -> None:
    """Make a run the baseline, or no longer if it is. Raises MemwbError."""
    from memwb.engine.keeping import pin_run, unpin_runs
    from memwb.engine.runs import list_runs, pinned

    known = list_runs()
    now = pinned(known)
    if now is not None and now.folder == run.folder:
        unpin_runs(known)
    else:
        pin_run(run)


def delete(run: Summary) -> None:
    """Delete a run's folder. Raises MemwbError."""
    from memwb.engine.keeping import delete_run

    delete_run(run)


def assumed_device() -> Device:
    """The device that a burst would most likely run on, told without torch."""
    from memwb.engine.devices import assumed

    return assumed("auto")


def recalled(question: Predict, here: Device | None) -> list[Event]:
    """What is kept of the answers to a question, on the device that a burst would run on."""
    from memwb.engine.question import recalled

    return recalled(question, here or assumed_device())


class Target(NamedTuple):
    """A GPU that a plan can be predicted for; ``capacity`` is what a process can get of it."""

    id: str
    name: str
    capacity: int
    local: bool


def targets() -> list[Target]:
    """The GPUs that a plan can be predicted for, those of this machine first."""
    from memwb.engine import gpus

    return [Target(gpu.id, gpu.name, gpu.capacity, gpu.local) for gpu in gpus.gpus()]


def outside(runs: Sequence[Summary]) -> frozenset[str]:
    """The folders of those runs whose losses are outside what their techniques allow."""
    from memwb.engine.guard import outside

    return outside(runs)


def not_here(plan: Plan, device: Device | None) -> str:
    """Why the plan's script cannot run on this device; empty if it can, or nothing is known."""
    from memwb.workbench.headless.export import not_here as lack

    return lack(plan, device) if device else ""


def script(
    plan: Plan, settings: Settings, merge: bool = False, predicted: tuple[str, Peak] | None = None
) -> str:
    """The text of the plan's train.py, with what was measured or predicted of it.

    Raises MemwbError.
    """
    from memwb.engine.script import script as text
    from memwb.workbench.headless.export import evidence

    model = resolve(plan, settings)
    return text(plan, model, evidence(plan, model, predicted), merge)


def export(
    plan: Plan,
    settings: Settings,
    folder: str,
    replace: bool,
    merge: bool = False,
    predicted: tuple[str, Peak] | None = None,
) -> Path:
    """Write the script and the plan into a folder and return it. Raises MemwbError."""
    from memwb.workbench.headless.export import write

    return write(plan, resolve(plan, settings), Path(folder), replace, merge, predicted)


def first_plan(preset: str, model: str) -> Plan:
    """The plan of a first start. A preset that is gone gives a plain plan."""
    from memwb.engine.presets import load_plan

    overrides = (f"model={model}",) if model else ()
    try:
        return load_plan(preset, overrides)
    except MemwbError:
        return Plan(model=model or "tiny")
