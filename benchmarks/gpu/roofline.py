"""The section ``roofline``: how fast this GPU copies, and multiplies at the race's shapes.

Copy bandwidth counts bytes read and bytes written. A kernel that moves bytes can be no faster than
a copy of as many; one that multiplies, no faster than the library's products of the same shapes.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu import journal
from benchmarks.gpu.problems import Problem
from benchmarks.gpu.timing import Clock, median_seconds

COPIES = (2**26, 2**28, 2**30, 2**32)
"""Bytes of the tensor that is copied: half of what is moved."""


def copied(size: int, clock: Clock, device: str) -> float:
    """Bytes read and written in a second, copying that many bytes."""
    source = torch.empty(size // 2, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), clock)


def multiplied(shape: tuple[int, int, int], clock: Clock, device: str) -> float:
    """Seconds of a bf16 product (m × k)·(k × n) on random numbers: zeros would be faster."""
    m, n, k = shape
    one = torch.randn(m, k, dtype=torch.bfloat16, device=device)
    other = torch.randn(n, k, dtype=torch.bfloat16, device=device)
    out = torch.empty(m, n, dtype=torch.bfloat16, device=device)
    return median_seconds(lambda: torch.mm(one, other.t(), out=out), clock)


def bound(problem: Problem, clock: Clock) -> dict[str, float]:
    """The least seconds that the parts of a pass can take here, measured at the problem's shape.

    For products: each of them by the library, one after another. For bytes: a copy of as many.
    """
    device = "cuda" if clock.cuda else "cpu"
    if problem.products:
        return {
            "both": sum(
                multiplied(shape, clock, device) for shape in problem.products if all(shape)
            )
        }
    if not any(problem.moved):
        return {}
    # What is moved once is half read and half written by a copy; never so little that it is
    # the launch that is timed.
    size = max(problem.moved[0] // 2, 2**20)
    rate = copied(size, clock, device)
    return {"forward": problem.moved[0] / rate, "backward": problem.moved[1] / rate}


def measure(device: str, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each copy and each product of the race's losses, and what there was no time for."""
    from benchmarks.gpu.kernel_cases import HEADS, TOKENS

    scale = 1 if device == "cuda" else 128
    wanted: list[tuple[str, Any]] = [(f"copy {size / 2**20:,.0f} MiB", size) for size in COPIES]
    for tokens in TOKENS:
        for name, (hidden, words) in HEADS.items():
            shapes = ((tokens, words, hidden), (tokens, hidden, words), (words, hidden, tokens))
            wanted += [
                (f"{name} {tokens} tokens {what}", tuple(size // scale for size in shape))
                for what, shape in zip(("logits", "dX", "dW"), shapes, strict=True)
            ]
    rows: list[dict[str, Any]] = []
    if time.monotonic() >= end:
        return rows, [name for name, _ in wanted]
    clock = Clock(device)
    while wanted and time.monotonic() < end:
        name, what = wanted.pop(0)
        row: dict[str, Any] = {"name": name, "outcome": "done", "expected": ["done"]}
        try:
            if isinstance(what, int):
                row |= {"bytes": 2 * what, "rate": copied(what // scale, clock, device)}
            else:
                seconds = multiplied(what, clock, device)
                m, n, k = what
                row |= {"shape": what, "seconds": seconds, "rate": 2 * m * n * k / seconds}
        except torch.OutOfMemoryError:
            row |= {"outcome": "out of memory", "expected": ["out of memory"]}
        rows.append(row)
        journal.note(row)
    return rows, [name for name, _ in wanted]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: TB/s of copies, ms and TFLOP/s of products."""
    lines = ["| what | ms | rate |", "|---|---:|---:|"]
    for row in rows:
        if row["outcome"] != "done":
            lines.append(f"| {row['name']} | – | {row['outcome']} |")
        elif "shape" in row:
            ms, rate = row["seconds"] * 1e3, row["rate"] / 1e12
            lines.append(f"| {row['name']} | {ms:.2f} | {rate:.0f} TFLOP/s |")
        else:
            lines.append(f"| {row['name']} | – | {row['rate'] / 1e12:.2f} TB/s |")
    return "\n".join(lines) if rows else "Nothing was measured."
