"""The sections ``kernels-correct`` and ``kernels-race``: a process for each kernel, rows as JSON.

A case that hangs or breaks the device takes no other with it: its process is ended, what it had
told by then stays, and a new one goes on with the next case. Within a process all arms of a case
run in turn.

``python -m benchmarks.gpu.kernels race rms_norm`` is such a process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu import journal

ROOT = Path(__file__).parents[2]
GRACE = 45.0
"""Seconds beyond its share after which a process is ended: one case may be under way."""
FINISH = 30.0
"""Of these seconds, what a case that has begun may use: it is checked, and would be lost."""
SILENCE = {"correct": 90.0, "race": 200.0}
"""Seconds without a word after which a process is taken to hang: longer than any one case takes."""
BROKEN = 3
"""The exit code of a process whose device is worth nothing any more."""


def rows_of(
    task: str, device: str, end: float, only: str = "", arms: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of every kernel, and the labels of what there was no time for.

    ``only`` chooses the cases with this in their labels, ``arms`` the arms named (commas between).

    Kernels come in the order of kernel_cases.py; the losses get three shares of the time, as their
    cases take longer and matter more. What is not timed is checked on a GPU all at once: most of
    the time goes to compiling.
    """
    from benchmarks.gpu.kernel_cases import KERNELS, LOSSES

    rows: list[dict[str, Any]] = []
    left: list[str] = []
    waiting = [kernel for kernel in KERNELS if _cases(task, kernel, device, only)]
    if task == "correct" and device == "cuda" and waiting:
        seconds = max(0.0, end - time.monotonic())
        with ThreadPoolExecutor(len(waiting)) as pool:
            pairs = list(pool.map(lambda k: _child(task, k, device, seconds, only), waiting))
        return [row for found, _ in pairs for row in found], [
            one for _, more in pairs for one in more
        ]
    while waiting:
        now = time.monotonic()
        shares = [3 if kernel in LOSSES else 1 for kernel in waiting]
        kernel = waiting.pop(0)
        seconds = max(0.0, end - now) * shares[0] / sum(shares)
        found, over = _child(task, kernel, device, seconds, only, arms)
        rows += found
        left += over
    return rows, left


def _child(
    task: str, kernel: str, device: str, seconds: float, only: str, arms: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a kernel and what is left of its cases, by as many processes as it takes."""
    end = time.monotonic() + seconds
    labels = [case.label for case in _cases(task, kernel, device, only)]
    rows: list[dict[str, Any]] = []
    done = 0
    while done < len(labels) and time.monotonic() < end:
        command = [sys.executable, "-m", __spec__.name, task, kernel, "--device", device]
        command += ["--seconds", str(end - time.monotonic()), "--only", only, "--arms", arms]
        found, begun, why = _process([*command, "--skip", str(done)], end + GRACE, SILENCE[task])
        rows += found
        done += begun
        if why:
            case = labels[done - 1] if begun else ""
            row = {"kernel": kernel, "case": case, "arm": "", "outcome": "failed", "reason": why}
            rows.append({**row, "expected": ["right"]})
            journal.note(rows[-1])
        if not begun:
            break
    return rows, labels[done:]


def _process(
    command: list[str], end: float, silence: float
) -> tuple[list[dict[str, Any]], int, str]:
    """The rows of one process, how many cases it began, and why it failed, if it did."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    rows, begun = [], 0
    for line in journal.lines(child.stdout, end, silence):
        told = json.loads(line)
        begun += "began" in told
        if "row" in told:
            rows.append(told["row"])
            journal.note(told["row"])
    try:
        child.wait(timeout=min(5.0, silence))
    except subprocess.TimeoutExpired:
        child.kill()
        # A driver that is stuck holds its process: the next one is not to wait for that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10.0)
        return rows, begun, "it hung"
    if child.returncode in (0, BROKEN):
        return rows, begun, ""
    return rows, begun, f"its process ended with {child.returncode}"


def _cases(task: str, kernel: str, device: str, only: str) -> list[Any]:
    from benchmarks.gpu import kernel_cases

    make = kernel_cases.correct if task == "correct" else kernel_cases.race
    return [case for case in make(kernel, device != "cuda") if only in case.label]


def correct_rows(case: Any, device: str, end: float) -> list[dict[str, Any]]:
    """Whether our kernel is right on one case: one row."""
    from benchmarks.gpu.arms import arms_of
    from benchmarks.gpu.checks import check, standard

    arm = arms_of(case.kernel)[0]
    problem = case.make(device)
    row = {"kernel": case.kernel, "case": case.label, "arm": arm.name, "expected": ["right"]}
    if reason := arm.cannot(problem):
        return [{**row, "outcome": "left out", "reason": reason, "expected": ["left out"]}]
    found = check(arm, problem, arm.make(problem), standard(problem), device)
    faults = found.pop("faults")
    outcome = "wrong" if faults else "right"
    return [{**row, **found, "outcome": outcome, "reason": "; ".join(faults)}]


def race_rows(
    case: Any, device: str, end: float, samples: int = 0, arms: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row for each arm of a case: its figures if it is right, or why it has none."""
    import torch

    from benchmarks.gpu import problems, roofline, timing
    from benchmarks.gpu.arms import arms_of, why_not
    from benchmarks.gpu.checks import check, standard

    problem = case.make(device)
    known = standard(problem)
    clock = timing.Clock(device)
    rows: dict[str, dict[str, Any]] = {}
    running: dict[str, timing.Pass] = {}
    for arm in arms_of(case.kernel):
        if arms and arm.name not in arms:
            continue
        row = {"kernel": case.kernel, "case": case.label, "arm": arm.name, **dict(problem.facts)}
        rows[arm.name] = row
        if reason := why_not(arm, problem, device):
            row |= {"outcome": "left out", "reason": reason}
            continue
        try:
            forward = arm.make(problem)
            told = check(arm, problem, forward, known, device)
            faults = told.pop("faults")
            row |= told
            if faults:
                row |= {"outcome": "wrong", "reason": "; ".join(faults)}
                continue
            made = passes(problem, forward, known.values if arm.writes else {})
            row["extra"] = timing.extra_memory(made, device)
            running[arm.name] = made
            row |= {"outcome": "right", "reason": ""}
        except torch.OutOfMemoryError as failure:
            row |= {"outcome": "out of memory", "reason": _first_line(failure)}
        except Exception as failure:
            _unbroken(arm.name, failure)
            row |= {
                "outcome": "failed",
                "reason": f"{type(failure).__name__}: {_first_line(failure)}",
            }
        gc.collect()
    values = known.values
    least = problems.kept_only(problem)
    del known
    bound = roofline.bound(problem, clock)
    found, lost = timing.interleaved(running, clock, samples or timing.SAMPLES, end)
    del values
    for name, failure in lost.items():
        _unbroken(name, failure)
        reason = f"{type(failure).__name__}: {_first_line(failure)}"
        rows[name] |= {"outcome": "failed", "reason": f"while it was timed: {reason}"}
        del running[name]
    for name, row in rows.items():
        row |= {"least_extra": least, "expected": ["right", "left out", "out of memory"]}
        if name not in running:
            # Only ours has to be right; of the others it is told.
            row["expected"] += [] if name == "memwb" else ["wrong", "failed"]
        elif not found:
            row |= {"outcome": "no time", "reason": "the time was over before it was timed"}
        else:
            parts = ["forward", "backward"] if problem.split else ["both"]
            row["seconds"] = {
                part: one._asdict() for part, one in zip(parts, found[name], strict=True)
            }
            row["roofline"] = {
                part: bound[part] / one.p50
                for part, one in zip(parts, found[name], strict=True)
                if part in bound
            }
    return list(rows.values())


def passes(problem: Any, forward: Callable[[], Any], values: dict[str, Any]) -> Any:
    """What makes the parts of a sample; restores the inputs first if there are values to give."""
    import torch

    from benchmarks.gpu.problems import restore

    wanted = [problem.inputs[name] for name in problem.wanted]

    def made() -> list[Callable[[], Any]]:
        restore(problem, values)
        upstream = [one.clone() for one in problem.upstream]
        held: list[Any] = []

        def ahead() -> None:
            held.append(forward())

        def back() -> Any:
            return torch.autograd.grad(held.pop(), wanted, upstream)

        def both() -> Any:
            return torch.autograd.grad(forward(), wanted, upstream)

        return [ahead, back] if problem.split else [both]

    return made


def _first_line(failure: BaseException) -> str:
    return (str(failure).strip().splitlines() or [""])[0][:300]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one kernel's cases; a line of JSON for each thing there is to tell."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernels", description=__doc__)
    parser.add_argument("task", choices=["correct", "race"])
    parser.add_argument("kernel")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="", help="cases with this in their labels")
    parser.add_argument("--arms", default="", help="of a race, with commas between; all without")
    parser.add_argument("--skip", type=int, default=0, help="cases that were done before")
    args = parser.parse_args(argv)
    end = time.monotonic() + args.seconds
    # Full precision in fp32: what is compared are kernels, not settings.
    torch.set_float32_matmul_precision("highest")
    rows: Callable[..., list[dict[str, Any]]] = correct_rows
    if args.task == "race":
        rows = functools.partial(race_rows, arms=[one for one in args.arms.split(",") if one])
    cases = _cases(args.task, args.kernel, args.device, args.only)[args.skip :]
    while cases and time.monotonic() < end:
        case = cases.pop(0)
        _tell({"began": case.label})
        try:
            for row in rows(case, args.device, end + FINISH):
                _tell({"row": row})
        except Exception as failure:
            row = {"kernel": case.kernel, "case": case.label, "arm": "", "expected": ["right"]}
            reason = f"{type(failure).__name__}: {_first_line(failure)}"
            _tell({"row": {**row, "outcome": "failed", "reason": reason}})
            if broken(failure):
                # Nothing that this process does on the device is worth anything from here on.
                return BROKEN
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return 0


def _unbroken(arm: str, failure: Exception) -> None:
    """Raise RuntimeError if the device is broken: then no arm after this one has a figure."""
    if broken(failure):
        raise RuntimeError(f"{arm} broke the device: CUDA error: {_first_line(failure)}")


def broken(failure: Exception) -> bool:
    """Whether the device is worth nothing any more to this process."""
    return "CUDA error" in str(failure) or type(failure).__name__ == "AcceleratorError"


def _tell(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
