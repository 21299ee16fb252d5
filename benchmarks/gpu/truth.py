"""Is the meter right? The traced timeline's maximum against the allocator's own peak.

``torch.cuda.max_memory_allocated`` counts without tracing; the timeline is put together from the
allocator's history. They should be equal; a difference is a defect to explain. The last burst runs
out of memory on purpose, and the one after it must not mind.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.gpu.bursts import gib, run
from memwb.engine.plan import Plan, override, plan_from

BASE = {"model": "qwen2.5-0.5b", "weights": "random", "workload": {"steps": 6}}
PLANS: dict[str, list[str]] = {
    "fp32": ["workload.sequence_length=512"],
    "bf16": ["bf16=on"],
    "bf16, foreach": ["bf16=on", "adamw.kernel=foreach"],
    "bf16, fused": ["bf16=on", "adamw.kernel=fused"],
    "amp_bf16": ["amp_bf16=on"],
    "checkpointing": ["bf16=on", "activation_checkpointing=on"],
    "chunked loss": ["bf16=on", "chunked_cross_entropy=on"],
    "eager": ["bf16=on", "attention.implementation=eager"],
    "accumulation": ["bf16=on", "workload.gradient_accumulation=4"],
    "lora": ["bf16=on", "lora=on"],
    "qlora": ["bf16=on", "lora=on", "quantize_4bit=on", "activation_checkpointing=on"],
    "8-bit AdamW": ["bf16=on", "adamw_8bit=on"],
    "4-bit AdamW": ["bf16=on", "adamw_4bit=on"],
    "8-bit base": ["bf16=on", "lora=on", "quantize_8bit=on"],
    "tf32": ["tf32=on", "workload.sequence_length=512"],
    "amp_fp16": ["amp_fp16=on"],
    "flash": ["bf16=on", "attention.backend=flash"],
    "cudnn": ["bf16=on", "attention.backend=cudnn"],
    "efficient": ["bf16=on", "attention.backend=efficient"],
    "selective": ["bf16=on", "activation_checkpointing.mode=selective"],
    "checkpoint offload": ["bf16=on", "checkpoint_offload=on"],
    "activation offload": ["bf16=on", "activation_offload=on"],
    "compiled": ["bf16=on", "torch_compile=on"],
    "in backward": ["bf16=on", "optimizer_in_backward=on"],
    "optimizer offload": ["bf16=on", "optimizer_offload=on"],
    "packing": ["bf16=on", "packing=on"],
    "linear cross-entropy": ["bf16=on", "linear_cross_entropy=on"],
    "own kernels": [
        "bf16=on",
        *(f"fused_{part}=on" for part in ("rms_norm", "rope", "mlp", "linear_cross_entropy")),
    ],
    "own kernels with lora": ["bf16=on", "lora=on", "fused_lora=on", "cut_cross_entropy=on"],
    "out of memory": ["workload.batch_size=4096", "workload.steps=1"],
    "after it": ["bf16=on", "lora=on"],
}


def plans() -> list[tuple[str, Plan]]:
    """The plans by name."""
    found = []
    for name, overrides in PLANS.items():
        plan = plan_from(BASE)
        for text in overrides:
            plan = override(plan, text)
        found.append((name, plan))
    return found


def measure(device: str, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, each with the outcomes that are right for it, and what there was no time for."""
    rows, left = run(plans(), device, end)
    for row in rows:
        done = "oom" if row["plan"] == "out of memory" else "done"
        row["expected"] = [done, "unavailable"]
    return rows, left


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: traced maximum and allocator's peak in GiB, their difference in bytes."""
    lines = [
        "| plan | outcome | traced GiB | allocator GiB | difference B | reserved | device |"
        " traced/timed step | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak = row["peak"] or {}
        traced, timed = row["traced_step_seconds"], row["timed_step_seconds"]
        cells = [
            row["plan"],
            f"unavailable: {row['what']}" if row["outcome"] == "unavailable" else row["outcome"],
            gib(row["traced_maximum"]),
            gib(peak.get("allocated")),
            str(peak["allocated"] - row["traced_maximum"]) if peak else "–",
            gib(peak.get("reserved")),
            gib(peak.get("device")),
            f"{traced / timed:.2f}" if traced and timed else "–",
            f"{row['tokens_per_second']:,.0f}" if row["tokens_per_second"] else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", summary(rows)])


def summary(rows: list[dict[str, Any]]) -> str:
    """How many peaks are equal to the byte, what recording costs, whether an OOM was survived."""
    done = [row for row in rows if row["outcome"] == "done" and row["peak"]]
    equal = sum(row["peak"]["allocated"] == row["traced_maximum"] for row in done)
    costs = [
        row["traced_step_seconds"] / row["timed_step_seconds"]
        for row in done
        if row["traced_step_seconds"] and row["timed_step_seconds"]
    ]
    parts = [f"Traced maximum equal to the allocator's peak: {equal} of {len(done)}."]
    if costs:
        parts.append(
            f"A traced step takes {statistics.median(costs):.2f} times as long as another, at "
            f"most {max(costs):.2f}."
        )
    outcomes = {row["plan"]: row["outcome"] for row in rows}
    if "out of memory" in outcomes:
        after = outcomes.get("after it", "not run")
        parts.append(f"Out of memory on purpose: {outcomes['out of memory']}; after it: {after}.")
    return " ".join(parts)
