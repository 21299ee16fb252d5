"""Runs a plan for real and on meta, each in a fork of this process, which imports first.

One JSON object a line: in, a plan's data and a target; out, the highest moment of each phase of
each step, by category, and at the peak every tensor that is alive with its origin, as the CPU's
meter has seen it and as the prediction says, or how it failed. For a GPU there is nothing to
measure. Where "threads" are named, so many read a checkpoint (none: the main one does), and loading
alone is measured: the burst ends where its first step would begin.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

Rows = dict[str, Any]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    learn()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        jobs: dict[str, Callable[[Any, str], Rows]] = {"predicted": predicted}
        if asked["target"] == "cpu" and asked["measure"]:
            jobs["measured"] = measured
        if "threads" in asked:
            jobs = {"measured": partial(loaded, asked["threads"])}
        found = {name: forked(job, asked["plan"], asked["target"]) for name, job in jobs.items()}
        print(json.dumps(found), file=answers, flush=True)


def learn() -> None:
    """Have done once what every fork would do: texts taken apart, names compiled."""
    from memwb.engine import catalog, script
    from memwb.engine.errors import MemwbError
    from memwb.engine.plan import plan_from
    from memwb.engine.predict.run import import_libraries
    from memwb.engine.technique import techniques

    import_libraries()
    tiny = catalog.resolve("tiny")
    for name in techniques():
        # Those that need another technique are refused alone.
        with contextlib.suppress(MemwbError):
            script.script(plan_from({"model": "tiny", "techniques": {name: {}}}), tiny)
    with contextlib.suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


def forked(job: Callable[[Any, str], Rows], plan: dict[str, Any], target: str) -> Any:
    """What a job finds in a process of its own, or the end of its traceback."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            from memwb.engine.plan import plan_from

            found: Any = job(plan_from(plan), target)
        except BaseException:
            found = traceback.format_exc(limit=-6)
        with os.fdopen(writing, "w") as out:
            json.dump(found, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else f"died: {os.waitstatus_to_exitcode(status)}"


def measured(plan: Any, target: str, instead: Any = None) -> Rows:
    """What the CPU's meter sees of a burst."""
    from memwb.engine import catalog, script
    from memwb.engine.protocol import Device
    from memwb.engine.trainer.burst import About, Watched
    from memwb.engine.trainer.trace import Trace

    rows: list[tuple[int, str, Iterable[int]]] = []
    settle = Trace.settle

    def watched(trace: Trace) -> Any:
        found = settle(trace)
        rows.extend((row.step, row.phase, row.totals) for row in found)
        return found

    Trace.settle = watched  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.py"
        path.write_text(script.script(plan, catalog.resolve(plan.model, plan.weights)))
        burst = Watched(path, lambda event: None, About(device=Device("cpu", "CPU", 2**34)))
        burst.run(["--device", "cpu"], instead or {})
    snapshot = burst.meter.snapshot()
    assert snapshot is not None
    return {**highest(rows), "alive": alive(snapshot.members)}


def predicted(plan: Any, target: str) -> Rows:
    """What a run on meta says, of all layers."""
    from memwb.engine.predict.course import course_of
    from memwb.engine.predict.run import traced
    from memwb.engine.predict.stream import alive_at
    from memwb.engine.predict.targets import target_named

    aim = target_named(target)
    stream = traced(plan, aim).stream
    totals = [0] * 5
    rows = []
    for moment in stream.moments:
        if moment.change:
            totals[stream.births[moment.storage].category] += moment.change
        rows.append((moment.step, moment.phase, tuple(totals)))
    at = course_of(stream, aim).peak
    return {**highest(rows), "alive": alive(alive_at(stream, at))}


def loaded(threads: int, plan: Any, target: str) -> Rows:
    """What the CPU's meter sees of loading, with so many threads that read."""
    from transformers import core_model_loading

    if threads:
        core_model_loading.GLOBAL_WORKERS = threads
    else:
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    return measured(plan, target, {"train": lambda _: lambda *_, **__: iter(())})


def alive(members: Iterable[Any]) -> Any:
    """Every tensor, those that are alike together, as plain data."""
    import msgspec

    from memwb.engine.trainer.alive import largest_of

    return msgspec.to_builtins(largest_of(members))


def highest(rows: Iterable[tuple[int, str, Iterable[int]]]) -> Rows:
    """The row with the highest total of each phase."""
    found: Rows = {}
    for step, phase, totals in rows:
        name, row = f"{step}/{phase}", list(totals)
        if sum(row) > sum(found.get(name, [-1])):
            found[name] = row
    return found


if __name__ == "__main__":
    main()
