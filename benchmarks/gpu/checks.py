"""Whether an arm computes what it should: its error against fp64, beside the framework's own.

Ours must be as exact as the framework in the same precision. Of another library it is only asked
that it computes the same thing: what it rounds or leaves out is its own choice, and stands as its
error beside its time. An arm that fails has no time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from benchmarks.gpu.arms import OURS, Arm
from benchmarks.gpu.problems import (
    Forward,
    Problem,
    Results,
    copied,
    error,
    plain,
    restore,
    results,
    truth,
)
from benchmarks.gpu.timing import poison

FACTOR = 2.0
"""How much larger our error may be than the framework's: another order of sums is not a defect."""
OTHERS = {torch.float32: 1e-2}
OTHERS_IN_HALF = 5e-2


class Standard(NamedTuple):
    """What is true of a problem, and how far from it the framework is, by result."""

    true: Results
    plain: dict[str, float]
    dtype: torch.dtype
    values: dict[str, torch.Tensor]


def standard(problem: Problem) -> Standard:
    """Compute it. The plain run in the problem's precision may run out of memory: then zero."""
    values = copied(problem)
    true = truth(problem)
    dtype = next(v.dtype for v in problem.inputs.values() if v.is_floating_point())
    try:
        found = {name: error(value, true[name]) for name, value in plain(problem).items()}
    except torch.OutOfMemoryError:
        found = {}
    return Standard(true, found, dtype, values)


def floor(dtype: torch.dtype) -> float:
    """What rounding a result once to that precision errs by, in norm; in fp32, some sums' worth."""
    eps = torch.finfo(dtype).eps
    return 16 * eps if dtype == torch.float32 else eps / 4


def limit(arm: Arm, of: Standard, name: str) -> float:
    """The largest error that passes."""
    if arm.name == OURS:
        # Where the framework's own run does not fit, some roundings take its error's place.
        return FACTOR * of.plain.get(name, 2 * floor(of.dtype)) + floor(of.dtype)
    return OTHERS.get(of.dtype, OTHERS_IN_HALF)


def check(
    arm: Arm, problem: Problem, forward: Forward, of: Standard, device: str
) -> dict[str, Any]:
    """Errors and limits by result, and the faults: empty where the arm is right."""
    faults = []
    poison(device, max(value.nbytes for value in problem.inputs.values()))
    try:
        found = results(problem, forward)
        if arm.name == OURS:
            changed = [n for n, v in of.values.items() if not same(v, problem.inputs[n].detach())]
            faults += [f"it wrote over its input {name}" for name in changed]
            again = results(problem, forward)
            apart = [name for name, value in found.items() if not same(value, again[name])]
            faults += [f"{name} differs from run to run" for name in apart]
    finally:
        restore(problem, of.values)
    if set(found) != set(of.true):
        faults.append(f"it gives {', '.join(found)}")
    errors = {name: error(value, of.true[name]) for name, value in found.items() if name in of.true}
    limits = {name: limit(arm, of, name) for name in errors}
    # Written so that what is not a number fails.
    faults += [
        f"{name} is {size:.1e} off, over {limits[name]:.1e}"
        for name, size in errors.items()
        if not size <= limits[name]
    ]
    return {"errors": errors, "limits": limits, "plain": of.plain, "faults": faults}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they hold the same values, bit for bit where they are numbers."""
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
