"""``memwb predict``: what a plan will need, for a GPU that need not be here."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
from typing import Any

from msgspec.structs import replace

from memwb.engine import paths
from memwb.engine.allocator_settings import settings_of
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.gpus import target_of
from memwb.engine.plan import Plan, active, override, plan_data
from memwb.engine.prediction import Change, Prediction
from memwb.engine.presets import load_plan
from memwb.engine.protocol import (
    PHASES,
    AllPredicted,
    Device,
    Event,
    Peak,
    Predict,
    Predicted,
    Ready,
    Toggled,
)
from memwb.engine.question import recalled
from memwb.workbench.foresight import OTHER_KERNELS, capacity_of, exceeds, need, room_on
from memwb.workbench.headless.burst import Forecast, engine, foretell, with_answer
from memwb.workbench.headless.output import (
    columns,
    narrate,
    print_error,
    print_json,
    progress,
    size,
    table,
)
from memwb.workbench.headless.run import narration, peak_table
from memwb.workbench.headless.tensors import largest_table
from memwb.workbench.outlook import CURRENT, Outlook, fit_of
from memwb.workbench.units import delta, parameters

UNKNOWN = 2**63
"""Where a change stands that is not predicted: last."""
EXCEEDS = 3
"""The exit code of out of memory: what a run there would have ended with."""


def predict(arguments: argparse.Namespace) -> int:
    """Predict a plan; standard output has the prediction, standard error what happens."""
    plan = load_plan(arguments.plan, arguments.overrides)
    if target_of(arguments.target) is not None:
        settings_of(os.environ)  # for its error, before anything is started
    question = Predict(
        plan=plan_data(plan),
        target=arguments.target,
        changes=arguments.changes,
        trust_remote_code=arguments.trust_remote_code,
    )
    earlier = remembered(question)
    kept = any(isinstance(event, Predicted) for event in earlier)
    here: Device | None = None
    changes: list[Change] = []

    def capacity(result: Prediction) -> int | None:
        outlook = Outlook(state=CURRENT, target=arguments.target, result=result)
        return capacity_of(outlook, here)

    def on_event(event: Event) -> None:
        nonlocal here
        match event:
            case Ready():
                here = event.device
                narrate(narration(event, plan.workload.steps))
            case Predicted() if not arguments.json:
                print(report(event.result, capacity(event.result), kept), flush=True)
            case Toggled():
                changes.append(event.change)
                progress(f"{len(changes)} changes predicted …")

    async def ask() -> tuple[Forecast, bool]:
        narrate("starting the engine")
        async with engine() as running:
            return await foretell(running, question, on_event), running.alive

    if earlier and isinstance(earlier[-1], AllPredicted):
        narrate("predicted before, and kept")
        here = device_for("auto")
        forecast, alive = Forecast(None, here), True
        for event in earlier:
            on_event(event)
            forecast = with_answer(forecast, event)
    else:
        forecast, alive = asyncio.run(ask())
    progress("")
    if forecast.failure is not None and alive:
        known = forecast.failure
        raise MemwbError(known.title, known.what, known.fix)
    result = forecast.result
    if result is None:
        fix = f"{paths.log_file()} may say more; `memwb doctor` looks at what is installed."
        print_error("The engine died", "it ended before it had predicted the plan", fix)
        return 1
    if arguments.json:
        print_json(document(result, changes if arguments.changes else None))
    elif arguments.changes:
        found = changes_table(plan, result, changes) or "  nothing else can be switched"
        print(f"\nwhat each toggle would change of the peak\n{found}")
    room = capacity(result)
    if not (arguments.fail_if_exceeds and exceeds(result.peak, room)):
        return 0
    narrate(f"memwb: {verdict(result, room)}; the exit code is {EXCEEDS} (--fail-if-exceeds)")
    return EXCEEDS


def remembered(question: Predict) -> list[Event]:
    """What is kept of the answers from an earlier time; AllPredicted ends it where that is all.

    An engine that MEMWB_ENGINE names may be that of another machine: it is asked.
    """
    return [] if os.environ.get("MEMWB_ENGINE") else recalled(question, device_for("auto"))


def document(result: Prediction, changes: list[Change] | None = None) -> dict[str, Any]:
    """What ``predict --json`` prints; ``changes`` is there when they were asked for."""
    found: dict[str, Any] = {name: getattr(result, name) for name in result.__struct_fields__}
    return found if changes is None else {**found, "changes": changes}


def verdict(result: Prediction, capacity: int | None) -> str:
    """Whether the plan fits its target, in a line; empty where it is not known what there is."""
    room = room_on(result, None, capacity)
    if room is None:
        return ""
    fit = fit_of(result)
    name = fit.gpu if fit is not None else "this machine"
    word = "tight on" if room.verdict == "tight" else room.verdict
    return f"{word} {name}: {_room(room.free)}"


def _room(free: int) -> str:
    return f"{size(free)} free" if free >= 0 else f"{size(-free)} too little"


def report(result: Prediction, capacity: int | None = None, kept: bool = False) -> str:
    """What ``predict`` prints of the plan itself: the verdict on its target comes first."""
    trained = f"{parameters(result.parameters.trainable)} trained"
    parts = [found] if (found := verdict(result, capacity)) else []
    parts += [f"{parameters(result.parameters.total)} parameters, {trained}"]
    when = "before, and kept" if kept else f"in {result.seconds:.1f} s"
    parts += [f"predicted for {result.target} {when}", "", _peak(result)]
    parts += ["", *result.words]
    parts += ["", "highest in each phase of each step", _phases(result)]
    if result.largest:
        parts += ["", "largest at the peak", largest_table(result.largest, columns())]
    if result.fits:
        parts += ["", f"fits (needed: {size(need(result.peak))})", _fits(result)]
    if result.notes:
        parts += ["", *(f"note: {note}" for note in result.notes)]
    return "\n".join(parts)


def _peak(result: Prediction) -> str:
    return peak_table(result.peak, notes=_totals(result))


def _totals(result: Prediction) -> dict[str, str]:
    where = f"step {result.step}" if result.step else "while loading"
    notes = {"allocated": f"at its peak, in {result.peak.phase}, {where}"}
    if result.peak.device == result.peak.allocated:
        notes["device"] = "a process's other memory is not predicted"
    else:
        notes["device"] = "with the context"
    return notes


def _phases(result: Prediction) -> str:
    highest: dict[tuple[int, str], int] = {}
    for point in result.timeline:
        place = (point.step, point.phase)
        highest[place] = max(highest.get(place, 0), point.allocated)
    steps = sorted({step for step, _ in highest})
    phases = [phase for phase in PHASES if any((step, phase) in highest for step in steps)]
    rows = [
        (
            f"  {phase}",
            *(size(highest[step, phase]) if (step, phase) in highest else "" for step in steps),
        )
        for phase in phases
    ]
    names = ("loading", "step 1", "step 2, steady")
    header = ("", *(names[step] if step < len(names) else f"step {step}" for step in steps))
    return table(rows, header, right="".join(str(at + 1) for at in range(len(steps))))


def _fits(result: Prediction) -> str:
    """Every GPU, the target marked with > and those of another architecture with ~."""
    rows = [
        (
            f"{'>' if fit.gpu == result.target else ' '} {fit.gpu}",
            fit.verdict,
            size(fit.capacity),
            f"{_room(fit.free)}{'' if fit.same_kernels else '  ~'}",
        )
        for fit in result.fits
    ]
    text = table(rows, right="2")
    return text if all(fit.same_kernels for fit in result.fits) else f"{text}\n{OTHER_KERNELS}"


def changes_table(plan: Plan, result: Prediction, changes: list[Change]) -> str:
    """What each change would do to the peak: those that save most first, the unknown ones last.

    Not those that leave the plan as it is, as the default of a group that acts already.
    """
    before = result.peak.allocated
    rows: list[tuple[int, tuple[str, ...]]] = []
    for change in changes:
        name = f"{change.technique} {'on' if change.on else 'off'}"
        others = [one for one in change.overrides if one != name.replace(" ", "=")]
        if change.peak is None:
            rows.append((UNKNOWN, (f"  {name}", "?", "", change.reason)))
        elif _acting(functools.reduce(override, change.overrides, plan)) != _acting(plan):
            gap = change.peak.allocated - before
            told = [_where(change.peak, result.peak), f"with {' '.join(others)}" if others else ""]
            cells = (f"  {name}", delta(gap) if gap else "±0", size(change.peak.allocated))
            rows.append((gap, (*cells, ", ".join(filter(None, told)))))
    rows.sort()
    return table((cells for _, cells in rows), right="12")


def _acting(plan: Plan) -> Plan:
    """The plan with every technique that acts, named or not."""
    return replace(plan, techniques=active(plan))


def _where(peak: Peak, before: Peak) -> str:
    return f"peak in {peak.phase}" if peak.phase != before.phase else ""
