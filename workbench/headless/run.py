"""``memwb run``: a burst without the workbench."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from memwb.engine.guard import Verdict, verdict_on
from memwb.engine.presets import load_plan
from memwb.engine.protocol import CATEGORIES, Event, Loaded, Peak, Ready, Started, Step, encode
from memwb.engine.runs import Recorder, list_runs
from memwb.workbench.deviation import verdict_line
from memwb.workbench.headless.burst import EXIT_CODES, Result, Trust, burst, checked, engine
from memwb.workbench.headless.output import (
    loss,
    narrate,
    print_error,
    print_json,
    rate,
    size,
    table,
)
from memwb.workbench.waste import waste


def run(arguments: argparse.Namespace) -> int:
    """Run a plan's burst; the result goes to standard output, what happens to standard error."""
    trust = Trust(arguments.allow_pickle, arguments.trust_remote_code)
    plan = checked(load_plan(arguments.plan, arguments.overrides), trust)

    def on_event(event: Event, recorder: Recorder | None) -> None:
        if arguments.jsonl:
            sys.stdout.buffer.write(encode(event))
            sys.stdout.buffer.flush()
        line = narration(event, plan.workload.steps)
        if line:
            narrate(line)

    async def once() -> Result:
        narrate("starting the engine")
        async with engine() as running:
            return await burst(running, plan, on_event, arguments.device, trust, arguments.name)

    result = asyncio.run(once())
    ended = result.ended
    if ended.title:
        print_error(ended.title, ended.what, ended.fix)
    if arguments.json:
        print_json(document(result))
    elif not arguments.jsonl:
        print(report(result))
    return EXIT_CODES.get(ended.outcome, 1)


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
        "predicted": None,
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
        lines += ["", peak_table(ended.peak), ""]
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


def peak_table(peak: Peak) -> str:
    """The peak by category, then the three totals."""
    parts = [(name, getattr(peak.categories, name)) for name in CATEGORIES]
    whole = max(peak.allocated, 1)
    rows = [(f"  {name}", size(value), f"{value / whole:.0%}") for name, value in parts]
    rows += [("allocated", size(peak.allocated), f"at its peak, in {peak.phase}")]
    rows += [("reserved", size(peak.reserved), "held by the allocator")]
    rows += [("device", size(peak.device), "as the driver or the system counts")]
    return table(rows, right="1")


def narration(event: Event, steps: int) -> str:
    """An event in a line, or an empty string for those that come too often."""
    match event:
        case Ready():
            return f"engine ready: {event.device.kind}, {event.device.name}"
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
