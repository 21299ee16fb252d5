"""The presets of a published Qwen2.5 fine-tuning table, each beside the published figure.

Conditions differ and are named in the presets (its optimizer, card and measuring tool are not
stated, its GB may be either kind). Nothing is tuned until it matches.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.bursts import gib, run
from memwb.engine.presets import load_plan

PUBLISHED: dict[str, float | None] = {
    "qwen2.5-1.5b-full": 20.31,
    "qwen2.5-1.5b-lora-r4": 9.68,
    "qwen2.5-1.5b-lora-r8": 9.78,
    "qwen2.5-1.5b-lora-r16": 9.93,
    "qwen2.5-1.5b-lora-r32": 9.98,
    "qwen2.5-1.5b-full-checkpointing": 18.12,
    "qwen2.5-1.5b-lora-checkpointing": 7.068,
    "qwen2.5-7b-full": None,
    "qwen2.5-7b-lora-r4": 24.77,
    "qwen2.5-7b-lora-r8": 24.95,
    "qwen2.5-7b-lora-r16": 24.94,
    "qwen2.5-7b-lora-r32": 25.98,
    "qwen2.5-7b-full-checkpointing": None,
    "qwen2.5-7b-lora-checkpointing": 19.9,
}
"""GB as published; None where the card there ran out of memory."""


def measure(device: str, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, with the published figure, and what there was no time for."""
    plans = [(name, load_plan(name, ["weights=random"])) for name in PUBLISHED]
    rows, left = run(plans, device, end)
    for row in rows:
        row |= {"published_gb": PUBLISHED[row["plan"]], "expected": ["done", "oom", "unavailable"]}
    return rows, left


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: ours in GiB beside theirs as they print it."""
    lines = [
        "| preset | outcome | allocated GiB | reserved GiB | device GiB | published GB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak, published = row["peak"] or {}, row["published_gb"]
        totals = [gib(peak.get(name)) for name in ("allocated", "reserved", "device")]
        theirs = "out of memory" if published is None else f"{published}"
        lines.append(f"| {' | '.join([row['plan'], row['outcome'], *totals, theirs])} |")
    return "\n".join(lines)
