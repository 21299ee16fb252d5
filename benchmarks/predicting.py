"""How fast plans are predicted: in a warm engine, as the workbench asks for it.

``python -m benchmarks.predicting`` in the repository, with memwb installed. An engine process is
started, and when it says that it is ready, plans of 8 and 70 billion parameters and all toggles of
an 8B plan are asked for over its protocol. The clock runs from the command to the last answer; the
cache is emptied before. Beside the seconds stands the processor time of the engine and its
processes, which says more on a machine that does other things as well. The exit code is 1 when a
least figure misses its target.

``--parts`` adds where the processor time of one prediction goes, ``--memtracker`` what torch's
own estimator takes for the 8B plan whose weights are all trained.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.surroundings import surroundings
from memwb.engine.errors import MemwbError
from memwb.engine.gpus import target_of
from memwb.engine.plan import Plan, plan_data
from memwb.engine.prediction import Prediction
from memwb.engine.presets import load_plan
from memwb.engine.protocol import (
    AllPredicted,
    Event,
    Predict,
    Predicted,
    Quit,
    Ready,
    Toggled,
    Unpredicted,
    decode_event,
    encode,
)

SMALL, LARGE = "llama-3.1-8b", "llama-3.1-70b"
FULL = ("lora=off",)
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "LoRA": ("lora", ()),
    "QLoRA": ("qlora", ("workload.gradient_accumulation=1",)),
    "QLoRA, 4 micro-batches": ("qlora", ()),
    "full": ("lora", FULL),
}
"""By name: a preset, and what is changed in it. Its model is another here."""
TARGETS = {"8B": 1.0, "70B": 2.0, "toggles": 10.0}
"""Seconds on two cores."""


class Asked(NamedTuple):
    """What one Predict took."""

    wall: float
    """Seconds from the command to the last answer."""
    processor: float
    """Seconds of the engine and the processes it forked."""
    answers: int
    """How many plans, toggles included, were predicted."""
    refused: tuple[str, ...]
    """Of the others the technique, or the reason."""
    result: Prediction | None = None
    """Of the plan itself."""


class Engine:
    """A warm engine with an empty cache. ``ask`` may be called again and again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "memwb.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MEMWB_HOME": str(home)},
        )
        self._watch = psutil.Process(self._process.pid)
        while not isinstance(self._event(), Ready):
            pass

    def ask(self, plan: Plan, target: str, changes: bool = False, kept: bool = False) -> Asked:
        """Have a plan predicted; ``kept`` leaves what earlier questions have put in the cache."""
        if not kept:
            shutil.rmtree(self._home / "cache", ignore_errors=True)
        before, began = self._processor(), time.perf_counter()
        self._send(Predict(plan_data(plan), target, changes=changes))
        answers, refused, result = 0, [], None
        while not isinstance(event := self._event(), AllPredicted):
            if isinstance(event, Unpredicted):
                refused.append(f"{event.title}: {event.what}")
            elif isinstance(event, Toggled) and event.change.peak is None:
                refused.append(event.change.technique)
            elif isinstance(event, Predicted | Toggled):
                answers += 1
                result = event.result if isinstance(event, Predicted) else result
        wall = time.perf_counter() - began
        return Asked(wall, self._processor() - before, answers, tuple(refused), result)

    def quit(self) -> None:
        """End the engine."""
        self._send(Quit())
        self._process.wait()

    def _processor(self) -> float:
        times: Any = self._watch.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    def _send(self, command: Predict | Quit) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(encode(command))
        self._process.stdin.flush()

    def _event(self) -> Event:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the engine is gone; its log may say more (`memwb locate`)")
        return decode_event(line)


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine with a home of its own."""
    with tempfile.TemporaryDirectory(prefix="memwb-") as home:
        running = Engine(Path(home))
        try:
            yield running
        finally:
            running.quit()


def plan_of(model: str, kind: str) -> Plan:
    """A plan of one of KINDS for a model of the catalogue, with random weights."""
    preset, changes = KINDS[kind]
    return load_plan(preset, [f"model={model}", "weights=random", *changes])


def cells(found: Sequence[Asked], target: float | None = None) -> str:
    """Median and least of both clocks, and how many plans that was."""
    walls, processors = [one.wall for one in found], [one.processor for one in found]
    numbers = [statistics.median(walls), min(walls), statistics.median(processors), min(processors)]
    text = "".join(f"{number:>9.2f}" for number in numbers)
    text += f"{found[0].answers:>7}" + (f"{target:>9.2f}" if target else "")
    reasons = f"  not predicted: {', '.join(found[0].refused)}" if found[0].refused else ""
    return text + reasons


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a target is missed or a plan was not predicted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predicting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--times", type=int, default=5, help="of each plan [%(default)s]")
    add("--toggles", type=int, default=1, help="times that all toggles are asked [%(default)s]")
    add("--target", default="h200", help="the id of a GPU, or cpu [%(default)s]")
    add("--parts", action="store_true", help="where the processor time goes")
    add("--memtracker", action="store_true", help="torch's estimator; takes minutes")
    args = parser.parse_args(arguments)
    try:
        target_of(args.target)
    except MemwbError as error:
        parser.error(f"{error.title}. {error.what}")
    print(", ".join(f"{key} {value}" for key, value in surroundings().items()))
    print(f"{_cores()} cores, load average {_load()}, target {args.target}\n")
    head = ("wall", "least", "CPU", "least", "plans", "target")
    print(f"{'seconds (medians, least)':<28}" + "".join(f"{h:>9}" for h in head[:4]), end="")
    print(f"{head[4]:>7}{head[5]:>9}")
    missed = False
    with engine() as running:
        running.ask(plan_of(SMALL, "LoRA"), args.target)
        for size, model in (("8B", SMALL), ("70B", LARGE)):
            for kind in KINDS:
                plan = plan_of(model, kind)
                found = [running.ask(plan, args.target) for _ in range(args.times)]
                print(f"{f'{size} {kind}':<28}" + cells(found, TARGETS[size]), flush=True)
                missed |= min(one.wall for one in found) > TARGETS[size] or not found[0].answers
        plan = plan_of(SMALL, "LoRA")
        if args.toggles:
            found = [running.ask(plan, args.target, changes=True) for _ in range(args.toggles)]
            print(f"{'8B LoRA, all toggles':<28}" + cells(found, TARGETS["toggles"]), flush=True)
            missed |= min(one.wall for one in found) > TARGETS["toggles"]
            found = [running.ask(plan, args.target, changes=True, kept=True) for _ in range(3)]
            print(f"{'the same, from the cache':<28}" + cells(found), flush=True)
    if args.parts:
        from benchmarks.predicting_parts import parts

        for model in (SMALL, LARGE):
            for kind in KINDS:
                print(f"\n{model} {kind}, least processor seconds of {args.times}")
                for name, seconds in parts(plan_of(model, kind), args.target, args.times).items():
                    print(f"  {name:<40}{seconds:>7.3f}")
    if args.memtracker:
        from benchmarks.memtracker import memtracker

        print("\n" + memtracker(plan_of(SMALL, "full"), args.target))
    print(f"\nload average {_load()}")
    return 1 if missed else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
