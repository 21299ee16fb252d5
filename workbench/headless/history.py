"""``memwb runs`` and ``memwb replay``: what was run before."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.guard import Verdict, between, compare, deviation, outside, verdict_on
from memwb.engine.plan import plan_data
from memwb.engine.protocol import (
    CATEGORIES,
    Ended,
    Event,
    Loaded,
    Sample,
    Samples,
    Started,
    Step,
    Timeline,
    encode,
)
from memwb.engine.runs import Summary, find_run, list_runs, read_events, read_plan
from memwb.workbench.deviation import share, verdict_line
from memwb.workbench.headless.output import loss, print_json, rate, size, table
from memwb.workbench.headless.run import narration, peak_table
from memwb.workbench.units import delta, padding
from memwb.workbench.waste import waste

ACTIONS = {"list": 0, "show": 1, "compare": 2}


def runs(arguments: argparse.Namespace) -> int:
    """List the runs, show one, or compare two."""
    if arguments.action not in ACTIONS:
        raise MemwbError(
            f"memwb runs cannot do {arguments.action!r}",
            nearest(arguments.action, ACTIONS),
            "See `memwb runs --help`.",
        )
    wanted = ACTIONS[arguments.action]
    if len(arguments.runs) != wanted:
        raise MemwbError(
            f"memwb runs {arguments.action} takes {('no run', 'one run', 'two runs')[wanted]}",
            f"given: {' '.join(arguments.runs) or 'none'}",
            "A run is a number, latest, or a run's folder.",
        )
    chosen = [find_run(text) for text in arguments.runs]
    if arguments.action == "list":
        return _list(arguments.json)
    if arguments.action == "show":
        return _show(chosen[0], arguments.json)
    return _compare(chosen[0], chosen[1], arguments.json)


def _list(as_json: bool) -> int:
    found = list_runs()
    if as_json:
        print_json(found)
        return 0
    beyond = outside(found)
    header = ("run", "when (UTC)", "model", "what", "device", "outcome", "peak", "loss", "speed")
    rows = [
        (
            run.run,
            run.created[:16].replace("T", " "),
            run.model,
            run.name,
            run.device,
            run.outcome,
            size(run.peak.allocated if run.peak else None),
            f"{loss(run.losses[-1]) if run.losses else '–'}{_mark(run, beyond)}",
            rate(run.tokens_per_second),
        )
        for run in found
    ]
    print(table(rows, header, right="0678") if rows else "No runs yet: memwb run tiny-demo")
    if beyond:
        print("\n✗ a loss outside what its techniques allow: memwb runs show RUN")
    return 0


def _mark(run: Summary, beyond: frozenset[str]) -> str:
    """What stands beside a loss: nothing in a list without a mark, so that digits line up."""
    return "" if not beyond else " ✗" if run.folder in beyond else "  "


def _show(run: Summary, as_json: bool) -> int:
    damaged = run.outcome == "damaged"
    plan = None if damaged else plan_data(read_plan(run.folder))
    shown = waste(run.padding, run.techniques)
    verdict = None if damaged else verdict_on(run, list_runs())
    if as_json:
        summary = {name: getattr(run, name) for name in run.__struct_fields__}
        print_json({**summary, "baseline": verdict, "plan": plan})
        return 0
    rows = [
        ("run", f"{run.run}  {run.name}"),
        ("when", run.created.replace("T", " ").replace("+00:00", " UTC")),
        ("model", f"{run.model}, {run.weights} weights"),
        ("device", f"{run.device}, {run.device_name}"),
        ("outcome", run.outcome),
        *((name, text) for name, text in (("", run.title), ("", run.what), ("", run.fix)) if text),
        ("took", f"{run.seconds:.1f} s"),
        ("speed", rate(run.tokens_per_second)),
        *((("waste", f"{shown}: positions that train nothing"),) if shown else ()),
        ("loss", "  ".join(loss(value) for value in run.losses) or "–"),
        *((("", verdict_line(verdict)),) if verdict else ()),
        ("folder", run.folder),
    ]
    if damaged:
        rows = [row for row in rows if row[0] in ("outcome", "", "folder")]
    print(table(rows))
    if run.peak:
        print("\n" + peak_table(run.peak, run.predicted))
    if plan:
        print("\n" + table([(f"{path} =", value) for path, value in _flat(plan)]))
    return 0


def _compare(a: Summary, b: Summary, as_json: bool) -> int:
    for run in (a, b):
        if run.outcome == "damaged":
            raise MemwbError(f"Run {run.run} cannot be compared", run.what, run.fix)
    plans = [dict(_flat(plan_data(read_plan(run.folder)))) for run in (a, b)]
    differing = {
        path: [plans[0].get(path), plans[1].get(path)]
        for path in dict.fromkeys([*plans[0], *plans[1]])
        if plans[0].get(path) != plans[1].get(path)
    }
    peaks, foretold = _peaks(a, b), _foretold(a, b)
    verdict = _verdict(a, b)
    if as_json:
        found = {"plan": differing, "peak": peaks, "predicted": foretold, "baseline": verdict}
        print_json({"a": a, "b": b, **found})
        return 0
    rows: list[tuple[object, ...]] = [
        (path, _value(left), _value(right), "") for path, (left, right) in differing.items()
    ]
    rows += [("outcome", a.outcome, b.outcome, "")]
    rows += [("device", a.device, b.device, "")]
    for name, (left, right, change) in peaks.items():
        shown = "" if change is None else delta(change)
        rows.append((f"peak {name}", size(left), size(right), shown))
    left, right, change = foretold
    if left is not None or right is not None:
        shown = "" if change is None else delta(change)
        rows.append(("predicted allocated", size(left), size(right), shown))
        rows.append(("measured / predicted", _ratio(a), _ratio(b), ""))
    if a.losses and b.losses:
        rows.append(("last loss", loss(a.losses[-1]), loss(b.losses[-1]), ""))
        rows.append(("loss at its furthest", "", "", _furthest(a, b)))
    rows.append(("speed", rate(a.tokens_per_second), rate(b.tokens_per_second), ""))
    if any(waste(run.padding, run.techniques) for run in (a, b)):
        rows.append(("waste", padding(a.padding) or "–", padding(b.padding) or "–", ""))
    print(table(rows, ("", f"run {a.run}", f"run {b.run}", "difference"), right="123"))
    if verdict:
        print(f"\nrun {b.run}: {verdict_line(verdict)}")
    return 0


def _verdict(a: Summary, b: Summary) -> Verdict | None:
    """The second run held against the first; None where they cannot be compared."""
    baseline = between(b, a)
    return compare(b.losses, baseline) if baseline is not None else None


def _furthest(a: Summary, b: Summary) -> str:
    largest, step = deviation(b.losses, a.losses)
    return f"{share(largest)} at step {step}" if step else "identical"


def _peaks(a: Summary, b: Summary) -> dict[str, tuple[int | None, int | None, int | None]]:
    found = {}
    for name in (*CATEGORIES, "allocated", "reserved", "device"):
        left, right = (
            getattr(run.peak.categories if name in CATEGORIES else run.peak, name)
            if run.peak
            else None
            for run in (a, b)
        )
        change = None if left is None or right is None else right - left
        found[name] = (left, right, change)
    return found


def _foretold(a: Summary, b: Summary) -> tuple[int | None, int | None, int | None]:
    """The predicted allocated peaks and their difference."""
    left, right = (run.predicted.allocated if run.predicted else None for run in (a, b))
    return left, right, None if left is None or right is None else right - left


def _ratio(run: Summary) -> str:
    if run.peak is None or run.predicted is None or not run.predicted.allocated:
        return "–"
    return f"{run.peak.allocated / run.predicted.allocated:.3f}"


def _flat(data: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted path; an empty table is a value too."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        elif value == {} and path:
            yield f"{path}{key}", "on"
        elif value != {}:
            yield f"{path}{key}", value


def _value(value: Any) -> str:
    return "–" if value is None else str(value)


def replay(arguments: argparse.Namespace) -> int:
    """Tell a run again: lines at the pace it had, or its events as JSON."""
    run = find_run(arguments.run)
    if arguments.json:
        print_json({"run": run, "events": list(read_events(run.folder))})
        return 0
    began, shown = time.monotonic(), 0.0
    for moment, event in timed(read_events(run.folder)):
        if arguments.speed:
            time.sleep(max(0.0, moment / arguments.speed - (time.monotonic() - began)))
        if arguments.jsonl:
            sys.stdout.buffer.write(encode(event))
            sys.stdout.buffer.flush()
        elif line := _line(event, run.steps, moment, shown):
            shown = moment
            print(f"{moment:8.2f} s  {line}", flush=True)
    return 0


def timed(events: Iterator[Event]) -> Iterator[tuple[float, Event]]:
    """Each event with its moment, in seconds since the burst began.

    Events carry no clock of their own: samples tell it, and for a step without any (those that
    are not traced) its duration does.
    """
    now, last = 0.0, 0.0
    for event in events:
        if isinstance(event, Samples | Timeline) and event.samples:
            now = max(now, event.samples[-1].time)
        elif isinstance(event, Loaded):
            now = max(now, event.seconds)
        elif isinstance(event, Step):
            now = last = now if now > last else now + event.seconds
        yield now, event


def _line(event: Event, steps: int, moment: float, shown: float) -> str:
    if isinstance(event, Started | Loaded | Step):
        return narration(event, steps)
    if isinstance(event, Ended):
        peak = f", peak {size(event.peak.allocated)} in {event.peak.phase}" if event.peak else ""
        return f"{event.outcome}{peak}" + (f": {event.title}" if event.title else "")
    if isinstance(event, Samples) and event.samples and moment - shown >= 0.25:
        highest: Sample = max(event.samples, key=lambda sample: sample.allocated)
        return f"{highest.phase}: {size(highest.allocated)} allocated"
    return ""
