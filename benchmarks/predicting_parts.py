"""Where the processor time of a prediction goes, part by part, each time in a fork of its own."""

from __future__ import annotations

import json
import os
import time

from benchmarks.folding import warm
from memwb.engine.plan import Plan
from memwb.engine.predict.allocator import replay
from memwb.engine.predict.course import course_of
from memwb.engine.predict.fold import fold
from memwb.engine.predict.predictor import predict, timeline_of
from memwb.engine.predict.run import ALL, LONG, SHORT, traced
from memwb.engine.predict.stream import alive_at, with_workspaces
from memwb.engine.predict.targets import target_named
from memwb.engine.trainer.alive import largest_of
from memwb.engine.trainer.warm import warm as warm_up

_Parts = dict[str, float]


def parts(plan: Plan, target: str, times: int) -> _Parts:
    """Seconds by part, the least of so many forks; ``whole`` is a prediction for itself.

    The allocator's replay is part of the course, and stands below it once more for itself.
    """
    warm()
    warm_up()
    target_named(target)
    found = [_forked(plan, target) for _ in range(times)]
    return {name: min(one[name] for one in found) for name in found[0]}


def _forked(plan: Plan, target: str) -> _Parts:
    """As the engine does it: what was touched for the first time costs what it costs there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, json.dumps(_measured(plan, target)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise SystemExit("the plan could not be predicted; `memwb predict` says why")
    return dict(json.loads(said))


def _measured(plan: Plan, target: str) -> _Parts:
    aim = target_named(target)
    found: _Parts = {}
    last = time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        found[name] = now - last
        last = time.process_time()

    short = traced(plan, aim, SHORT)
    stream = short.stream
    lap("the script with few layers")
    if short.depths is not None:
        long = traced(plan, aim, LONG)
        lap(f"the script with {short.depths[1]} layers instead of {short.depths[0]}")
        folded = fold(short.stream, long.stream, short.layers, *short.depths)
        lap("folding" if folded else "folding, in vain")
        if folded is None:
            folded = traced(plan, aim, ALL).stream
            lap("the script with all layers")
        stream = folded
    stream = with_workspaces(stream, aim.workspaces)
    course = course_of(stream, aim)
    lap(f"the course of {len(stream.moments):,} moments")
    if aim.kind == "cuda":
        replay(stream, aim.allocator)
        lap("  of that the allocator")
    largest_of(alive_at(stream, course.peak))
    timeline_of(course)
    lap("timeline and largest tensors")
    predict(plan, target)
    lap("whole")
    return found
