"""``memwb replay``: a run told again as it happened."""

from __future__ import annotations

import argparse
import sys
import time

from memwb.engine.errors import MemwbError
from memwb.engine.protocol import Ended, Event, Loaded, Sample, Samples, Started, Step, encode
from memwb.engine.runs import find_run, read_events
from memwb.workbench.headless.output import print_json, size
from memwb.workbench.headless.run import narration
from memwb.workbench.replay import timed


def replay(arguments: argparse.Namespace) -> int:
    """Tell a run again: lines at the pace it had, or its events as JSON."""
    run = find_run(arguments.run)
    if not any(True for _ in read_events(run.folder)):
        raise MemwbError(
            "The run has no events to read",
            f"{run.folder}/events.jsonl holds none",
            "See `memwb runs list`.",
        )
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
