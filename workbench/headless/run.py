"""``memwb run``: a burst without the workbench."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from memwb.engine.errors import MemwbError
from memwb.engine.guard import Verdict, verdict_on
from memwb.engine.plan import plan_data
from memwb.engine.presets import load_plan
from memwb.engine.protocol import (
    CATEGORIES,
    Event,
    Loaded,
    Peak,
    Predict,
    Predicted,
    Ready,
    Started,
    Step,
    Unpredicted,
    encode,
)
from memwb.engine.remarks import checked_name
from memwb.engine.runs import Recorder, list_runs
from memwb.workbench.deviation import verdict_line
from memwb.workbench.foresight import capacity_of, exceeds, need
from memwb.workbench.headless.burst import (
    EXIT_CODES,
    LONG_PATIENCE,
    PATIENCE,
    Forecast,
    Result,
    Trust,
    burst,
    checked,
    engine,
    foretell,
)
from memwb.workbench.headless.output import (
    columns,
    loss,
    narrate,
    on_terminal,
    print_error,
    print_json,
    rate,
    size,
    table,
)
from memwb.workbench.headless.tensors import BRIEF, alive_text
from memwb.workbench.outlook import CURRENT, Outlook
from memwb.workbench.waste import waste

GO_ON = "Answer y, or say --yes, to run it anyway; `memwb predict` tells what would make it fit."


def run(arguments: argparse.Namespace) -> int:
    """Run a plan's burst; the result goes to standard output, what happens to standard error."""
    trust = Trust(arguments.allow_pickle, arguments.trust_remote_code)
    plan = checked(load_plan(arguments.plan, arguments.overrides), trust)
    name = checked_name(arguments.name)

    def on_event(event: Event, recorder: Recorder | None) -> None:
        if arguments.jsonl:
            sys.stdout.buffer.write(encode(event))
            sys.stdout.buffer.flush()
        line = narration(event, plan.workload.steps)
        if line:
            narrate(line)

    async def once() -> Result | None:
        narrate("starting the engine")
        async with engine() as running:
            question = Predict(
                plan=plan_data(plan),
                target="cpu" if arguments.device == "cpu" else "",
                trust_remote_code=trust.trust_remote_code,
            )
            asks = on_terminal() and not arguments.yes
            patience = LONG_PATIENCE if asks else PATIENCE

            def waiting(event: Event) -> None:
                on_event(event, None)
                if asks and isinstance(event, Ready):
                    narrate(f"predicting … (for at most {patience:g} s)")

            try:
                forecast = await foretell(running, question, waiting, patience)
                if forecast.result is None and forecast.failure is None and running.alive:
                    narrate(f"not predicted within {patience:g} s: running without it")
            except MemwbError:  # what cannot be predicted may still run
                forecast = Forecast(None, None)
            if not _goes(forecast, arguments.yes):
                return None
            peak = forecast.result.peak if forecast.result is not None else None
            wanted = (arguments.device, trust, name, True, peak)
            return await burst(running, plan, on_event, *wanted)

    result = asyncio.run(once())
    if result is None:
        print_error("Nothing was run", "the plan will probably not fit", GO_ON)
        return EXIT_CODES["stopped"]
    ended = result.ended
    if ended.title:
        print_error(ended.title, ended.what, ended.fix)
    if arguments.json:
        print_json(document(result))
    elif not arguments.jsonl:
        print(report(result))
    return EXIT_CODES.get(ended.outcome, 1)


def _goes(forecast: Forecast, sure: bool) -> bool:
    """Whether to run; a plan that is predicted to exceed the device is asked about on a terminal.

    Elsewhere nobody could answer, and an out-of-memory error is an answer too: it runs, warned.
    """
    if forecast.result is None or forecast.device is None:
        return True
    outlook = Outlook(state=CURRENT, result=forecast.result)
    capacity = capacity_of(outlook, forecast.device)
    peak = forecast.result.peak
    if capacity is None or not exceeds(peak, capacity):
        return True
    what = "this GPU" if forecast.device.kind == "cuda" else "this machine"
    narrate(f"memwb: warning: predicted {size(need(peak))}, {what} has {size(capacity)}")
    for words in forecast.result.words[:1]:
        narrate(f"  {words}")
    if sure or not on_terminal():
        return True
    sys.stderr.write("run anyway? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def document(result: Result) -> dict[str, Any]:
    """What ``run --json`` prints; an ``error`` is added when the burst was not done."""
    ended, summary = result
    found: dict[str, Any] = {
        "run": summary.run if summary else None,
        "folder": summary.folder if summary else None,
        "device": summary.device if summary else None,
        "outcome": ended.outcome,
        "peak": ended.peak,
        "losses": ended.losses,
        "baseline": verdict(result),
        "tokens_per_second": ended.tokens_per_second,
        "padding": ended.padding,
        "predicted": summary.predicted if summary else None,
        "alive": ended.alive,
    }
    if ended.title:
        kind = "warning" if ended.outcome == "done" else "error"
        found[kind] = {"title": ended.title, "what": ended.what, "fix": ended.fix}
    return found


def verdict(result: Result) -> Verdict | None:
    """The losses against those of an earlier run; None where none can be compared."""
    return verdict_on(result.summary, list_runs()) if result.summary else None


def report(result: Result) -> str:
    """What ``run`` prints: the outcome, the peak by category, loss and speed."""
    ended, summary = result
    lines = []
    if summary:
        title = [f"run {summary.run}", summary.outcome, summary.model, summary.name]
        lines.append(" · ".join([*title, f"{summary.weights} weights", summary.device]))
    if ended.peak:
        lines += ["", peak_table(ended.peak, summary.predicted if summary else None), ""]
    if ended.alive:
        lines += [alive_text(ended.alive, columns(), BRIEF), ""]
    losses = ended.losses
    if losses:
        lines.append(f"loss    {loss(losses[0])} → {loss(losses[-1])} in {len(losses)} steps")
        if found := verdict(result):
            lines.append(f"        {verdict_line(found)}")
        lines.append(f"speed   {rate(ended.tokens_per_second)}")
        if shown := waste(ended.padding, summary.techniques if summary else ()):
            lines.append(f"waste   {shown}: positions that train nothing")
    if summary:
        lines.append(f"folder  {summary.folder}")
    return "\n".join(lines)


def peak_table(
    peak: Peak, predicted: Peak | None = None, notes: Mapping[str, str] | None = None
) -> str:
    """The peak by category, then the three totals; beside them what had been predicted.

    ``notes`` says otherwise what a total is.
    """
    whole = max(peak.allocated, 1)
    rows: list[tuple[str, ...]] = []
    for name in CATEGORIES:
        value = getattr(peak.categories, name)
        told = (size(getattr(predicted.categories, name)), "") if predicted else ()
        rows.append((f"  {name}", size(value), *told, f"{value / whole:.0%}"))
    for name, note in (
        ("allocated", f"at its peak, in {peak.phase}"),
        # A CPU's allocator caches nothing.
        ("reserved", "held by the allocator" if peak.reserved != peak.allocated else ""),
        ("device", "as the driver or the system counts"),
    ):
        value, note = getattr(peak, name), (notes or {}).get(name, note)
        told = _foretold(value, predicted, name) if predicted else ()
        rows.append((name, size(value), *told, note))
    if predicted:
        return table(rows, ("", "measured", "predicted", "ratio", ""), right="123")
    return table(rows, right="1")


def _foretold(value: int, predicted: Peak, name: str) -> tuple[str, str]:
    """The predicted figure, and the measured one over it; dashes where it is not predicted."""
    told = getattr(predicted, name)
    if name == "device" and told == predicted.allocated:
        return ("–", "")
    return (size(told), f"{value / told:.3f}" if told else "")


def narration(event: Event, steps: int) -> str:
    """An event in a line, or an empty string for those that come too often."""
    match event:
        case Ready():
            return f"engine ready: {event.device.kind}, {event.device.name}"
        case Predicted():
            peak = event.result.peak
            return (
                f"predicted: {size(peak.allocated)} allocated in {peak.phase}, "
                f"{size(need(peak))} needed"
            )
        case Unpredicted():
            return f"not predicted: {event.title}" + (f" ({event.what})" if event.what else "")
        case Started():
            steps = event.steps
            return f"{event.model}: {event.weights} weights, {steps} steps on {event.device.kind}"
        case Loaded():
            return (
                f"loaded in {event.seconds:.1f} s: {event.parameters:,} parameters, "
                f"{event.trainable:,} trainable, {size(event.weights)} of weights"
            )
        case Step():
            traced = "  traced" if event.traced else ""
            return (
                f"step {event.step}/{steps}  loss {event.loss:.6f}  {event.seconds:.2f} s{traced}"
            )
    return ""
