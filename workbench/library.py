"""What the workbench asks of the engine's light face, imported when it is first needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.prediction import Prediction
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.guard import Baseline, Verdict
    from memwb.engine.protocol import Device, Event, Peak, Predict, Unpredicted
    from memwb.engine.runs import Summary
    from memwb.workbench.panels.compared import Compared
    from memwb.workbench.pump import Engine
    from memwb.workbench.settings import Settings

FOLDERS = 100
"""So many of a folder's folders are listed while a path is typed."""


def engine() -> Engine:
    """A new engine process, not yet started: MEMWB_ENGINE names another command for it."""
    from memwb.engine import paths
    from memwb.engine.client import Engine as Client
    from memwb.engine.client import named

    return Client(named(), log=paths.home() / "engine.log")


def resolve(plan: Plan, settings: Settings) -> Model:
    """The plan's model as this machine has it. Raises MemwbError."""
    from memwb.engine import catalog

    return catalog.resolve(
        plan.model, plan.weights, settings.allow_pickle, settings.trust_remote_code
    )


def models(used: Sequence[str] = (), settings: Settings | None = None) -> list[Model]:
    """Every model that is known here; then those that were used before and are still to be had."""
    from memwb.engine import catalog

    found = catalog.models()
    names = {model.name for model in found}
    trust = (settings.allow_pickle, settings.trust_remote_code) if settings else (False, False)
    for name in used:
        if name not in names:
            with contextlib.suppress(MemwbError):
                found.append(catalog.resolve(name, "auto", *trust))
                names.add(name)
    return found


def folders(text: str) -> list[Model]:
    """The folders that a typed path goes on to, those that hold a model with what it is."""
    from memwb.engine import catalog

    head, prefix = os.path.split(text)
    try:
        place = Path(os.path.expanduser(head or "."))
        names = sorted(each.name for each in place.iterdir() if each.is_dir())
    except OSError:
        return []
    shown = [name for name in names if name.startswith(prefix)]
    shown = [name for name in shown if prefix.startswith(".") or not name.startswith(".")]
    here = os.path.expanduser(text)
    paths = [text] if os.path.isfile(os.path.join(here, "config.json")) else []
    paths += [path for name in shown[:FOLDERS] if (path := os.path.join(head, name)) not in paths]
    found = []
    for path in paths:
        model = catalog.Model(name=f"{path}/", source="folder", location=path, weights="random")
        if os.path.isfile(os.path.join(os.path.expanduser(path), "config.json")):
            # What is wrong with it is told when it is taken.
            with contextlib.suppress(MemwbError):
                model = catalog.resolve(path, "auto", True, True)
        found.append(model)
    return found


def is_hub_id(text: str) -> bool:
    """Whether what was typed can be a hub id with its owner."""
    from memwb.engine import catalog

    return catalog.is_hub_id(text)


def runs() -> list[Summary]:
    """The recorded runs, newest first."""
    from memwb.engine.runs import list_runs

    return list_runs()


def trace(folder: str, label: str, known: Sequence[Summary] | None = None) -> Trace:
    """A recorded run as its events tell it, what of them can be read, with its baseline among
    the runs ``known``."""
    found: Trace | None = None
    for event in events(folder):
        found = found or empty_trace(folder, label, known)
        found.apply(event)
    return found or Trace(label)


def events(folder: str) -> Iterator[Event]:
    """The events of a recorded run one by one, as far as they can be read."""
    from memwb.engine.runs import read_events

    with contextlib.suppress(MemwbError, OSError):
        yield from read_events(Path(folder))


def empty_trace(folder: str, label: str, known: Sequence[Summary] | None = None) -> Trace:
    """The trace of a run before its first event: what it is held against is known already."""
    from memwb.engine.runs import read_summary

    found = Trace(label)
    found.predicted = read_summary(Path(folder)).predicted
    found.baseline = baseline(folder, known)
    return found


def baseline(folder: str, known: Sequence[Summary] | None = None) -> Baseline | None:
    """The pinned or an earlier run that a run's losses are held against; None where none can be.

    Sought among the runs ``known``; without them, among all that there are now.
    """
    from memwb.engine.guard import reference_for
    from memwb.engine.runs import list_runs, read_summary

    try:
        runs = list_runs() if known is None else known
        return reference_for(read_summary(Path(folder)), runs)
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


def plan_of(folder: str) -> Plan | None:
    """The plan of a recorded run; None where it cannot be read."""
    from memwb.engine.guard import plan_of

    return plan_of(folder)


def called(runs: Sequence[Summary]) -> dict[str, tuple[str, str]]:
    """What runs are called by their plans, and their workloads, by folder; of those that can be
    read."""
    from memwb.workbench.comparing import called

    plans = {run.folder: plan_of(run.folder) for run in runs}
    return {folder: called(plan) for folder, plan in plans.items() if plan is not None}


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


def kept(
    plans: Mapping[str, Plan], target: str, here: Device | None
) -> dict[str, Prediction | Unpredicted]:
    """What was predicted of these plans before, by their names."""
    from memwb.engine.plan import plan_data
    from memwb.engine.protocol import Predict, Predicted, Unpredicted

    found: dict[str, Prediction | Unpredicted] = {}
    for name, plan in plans.items():
        for event in recalled(Predict(plan_data(plan), target), here):
            if isinstance(event, Predicted):
                found[name] = event.result
            elif isinstance(event, Unpredicted):
                found[name] = event
    return found


def known_names() -> dict[str, tuple[str, ...]]:
    """The names that settings can have: presets, models of the catalogue, targets."""
    from memwb.engine import catalog, presets

    return {
        "preset": tuple(presets.presets()),
        "model": tuple(catalog.catalogue()),
        "target": ("cpu", *(each.id for each in targets())),
    }


def kept_of_run(folder: str, kind: str, here: Device | None) -> Prediction | None:
    """What was predicted of the plan of a run, for this machine's device of that kind."""
    from memwb.engine.runs import read_plan

    try:
        plan = read_plan(folder)
    except MemwbError:
        return None
    answer = kept({"": plan}, "cpu" if kind == "cpu" else "", here).get("")
    return answer if isinstance(answer, Prediction) else None


class Target(NamedTuple):
    """A GPU that a plan can be predicted for; ``capacity`` is what a process can get of it."""

    id: str
    name: str
    capacity: int
    local: bool
    arch: str
    bandwidth: int | None
    """Bytes a second."""
    bf16: float | None
    """Dense operations a second."""


def targets() -> list[Target]:
    """The GPUs that a plan can be predicted for, those of this machine first."""
    from memwb.engine import gpus

    return [
        Target(gpu.id, gpu.name, gpu.capacity, gpu.local, gpu.arch, gpu.bandwidth, gpu.bf16)
        for gpu in gpus.gpus()
    ]


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
