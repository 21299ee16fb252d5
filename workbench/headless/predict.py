"""``memwb predict``: what a plan will need, for a GPU that need not be here."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from typing import Any

from memwb.engine import paths
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.plan import plan_data
from memwb.engine.prediction import Change, Fit, Large, Prediction
from memwb.engine.presets import load_plan
from memwb.engine.protocol import PHASES, AllPredicted, Event, Peak, Predict, Ready, Toggled
from memwb.engine.question import recalled
from memwb.engine.technique import techniques
from memwb.workbench.foresight import capacity_of, exceeds, need
from memwb.workbench.headless.burst import Forecast, engine, foretell, with_answer
from memwb.workbench.headless.output import narrate, print_error, print_json, size, table
from memwb.workbench.headless.run import narration, peak_table
from memwb.workbench.outlook import CURRENT, Outlook
from memwb.workbench.units import delta, parameters

EXCEEDS = 3
"""The exit code of out of memory: what a run there would have ended with."""


def predict(arguments: argparse.Namespace) -> int:
    """Predict a plan; standard output has the prediction, standard error what happens."""
    plan = load_plan(arguments.plan, arguments.overrides)
    question = Predict(
        plan=plan_data(plan),
        target=arguments.target,
        changes=arguments.changes,
        trust_remote_code=arguments.trust_remote_code,
    )
    changes: list[Change] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Toggled):
            changes.append(event.change)
        elif isinstance(event, Ready):
            narrate(narration(event, plan.workload.steps))

    async def ask() -> tuple[Forecast, bool]:
        narrate("starting the engine")
        async with engine() as running:
            return await foretell(running, question, on_event), running.alive

    forecast, alive = remembered(question, on_event), True
    if forecast is None:
        forecast, alive = asyncio.run(ask())
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
    else:
        print(report(result, changes))
    outlook = Outlook(state=CURRENT, target=arguments.target, result=result)
    too_much = exceeds(result.peak, capacity_of(outlook, forecast.device))
    return EXCEEDS if too_much and arguments.fail_if_exceeds else 0


def remembered(question: Predict, on_event: Callable[[Event], None]) -> Forecast | None:
    """The answer of an earlier time, where all of it is kept; None where the engine must be asked.

    An engine that MEMWB_ENGINE names may be that of another machine: it is asked.
    """
    if os.environ.get("MEMWB_ENGINE"):
        return None
    here = device_for("auto")
    events = recalled(question, here)
    if not events or not isinstance(events[-1], AllPredicted):
        return None
    forecast = Forecast(None, here)
    for event in events:
        forecast = with_answer(forecast, event)
        on_event(event)
    narrate("predicted before, and kept")
    return forecast


def document(result: Prediction, changes: list[Change] | None = None) -> dict[str, Any]:
    """What ``predict --json`` prints; ``changes`` is there when they were asked for."""
    found: dict[str, Any] = {name: getattr(result, name) for name in result.__struct_fields__}
    return found if changes is None else {**found, "changes": changes}


def report(result: Prediction, changes: list[Change]) -> str:
    """What ``predict`` prints."""
    trained = f"{parameters(result.parameters.trainable)} trained"
    parts = [f"{parameters(result.parameters.total)} parameters, {trained}"]
    parts += [f"predicted for {result.target} in {result.seconds:.1f} s", "", _peak(result)]
    parts += ["", *result.words]
    parts += ["", "highest in each phase of each step", _phases(result)]
    if result.largest:
        parts += ["", "largest at the peak", table(map(_large, result.largest), right="0")]
    if result.fits:
        parts += ["", f"fits (needed: {size(need(result.peak))})", _fits(result.fits)]
    if changes:
        parts += ["", "what each toggle would change of the peak", _changes(result, changes)]
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


def _large(large: Large) -> tuple[str, ...]:
    shape = " × ".join(map(str, large.shape))
    count = f"{large.count} of " if large.count > 1 else ""
    return (
        f"  {size(large.bytes)}",
        large.category,
        large.module or "–",
        large.op or "–",
        f"{count}{shape}",
        large.dtype,
    )


def _fits(fits: tuple[Fit, ...]) -> str:
    rows = [
        (
            f"  {fit.gpu}",
            fit.verdict,
            size(fit.capacity),
            f"{size(fit.free)} free" if fit.free >= 0 else f"{size(-fit.free)} too little",
        )
        for fit in fits
    ]
    return table(rows, right="2")


def _changes(result: Prediction, changes: list[Change]) -> str:
    known = techniques()
    rows = []
    order = {name: at for at, name in enumerate(known)}
    for change in sorted(changes, key=lambda change: order[change.technique]):
        name = f"  {known[change.technique].name} {'on' if change.on else 'off'}"
        if change.peak is None:
            rows.append((name, "?", "", change.reason))
            continue
        gap = change.peak.allocated - result.peak.allocated
        told = _where(change.peak, result.peak)
        rows.append((name, delta(gap) if gap else "±0", size(change.peak.allocated), told))
    return table(rows, right="12")


def _where(peak: Peak, before: Peak) -> str:
    return f"peak in {peak.phase}" if peak.phase != before.phase else ""
