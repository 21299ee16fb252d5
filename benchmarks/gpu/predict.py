"""How near predictions come to this machine's GPU, on plans that were chosen before measuring.

Every plan of MATRIX is predicted for the GPU at hand and then run for two steps with random
weights; what is predicted not to fit is not run. Nothing in memwb is fitted to these plans, and
none is taken out because it does badly. Unverified on a GPU so far: the table is the verification.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from benchmarks.gpu import journal
from benchmarks.gpu.bursts import gib, run
from benchmarks.predicting import Engine, engine
from memwb.engine.gpus import local_gpus
from memwb.engine.memory import CATEGORIES
from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.prediction import Prediction

METHODS: dict[str, tuple[str, ...]] = {
    "full": ("bf16=on",),
    "full-amp": ("amp_bf16=on",),
    "LoRA": ("bf16=on", "lora=on"),
    "QLoRA": ("bf16=on", "lora=on", "quantize_4bit=on"),
}
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "ckpt": ("activation_checkpointing=on",),
    "chunked": ("chunked_cross_entropy=on",),
    "both": ("activation_checkpointing=on", "chunked_cross_entropy=on"),
}
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw": (),
    "fused": ("adamw.kernel=fused",),
    "sgd": ("sgd=on",),
    "adafactor": ("adafactor=on",),
    "8-bit": ("adamw_8bit=on",),
    "lion": ("lion_8bit=on",),
    "galore": ("galore=on",),
}
_TABLE = """
qwen2.5-0.5b    full      plain     512  adamw
qwen2.5-0.5b    full      plain    2048  adamw
qwen2.5-0.5b    full      chunked  8192  adamw
qwen2.5-0.5b    full      ckpt     4096  fused
qwen2.5-0.5b    full-amp  plain    1024  adamw
qwen2.5-0.5b    full-amp  both     4096  8-bit
qwen2.5-0.5b    LoRA      plain    4096  adamw
qwen2.5-0.5b    QLoRA     both     8192  adamw
qwen3-0.6b      full      plain    1024  sgd
qwen3-0.6b      LoRA      ckpt     8192  adamw
smollm2-360m    full      plain    2048  adafactor
smollm2-360m    full-amp  ckpt     8192  adamw
tinyllama-1.1b  full      plain     512  8-bit
tinyllama-1.1b  full      ckpt     2048  adamw
tinyllama-1.1b  LoRA      chunked  2048  sgd
gemma-3-1b      full      ckpt     1024  adamw
gemma-3-1b      LoRA      plain    2048  adamw
llama-3.2-1b    full      plain    1024  galore
llama-3.2-1b    full      both     8192  fused
llama-3.2-1b    full-amp  chunked  2048  adafactor
llama-3.2-1b    LoRA      plain    2048  8-bit
llama-3.2-1b    QLoRA     plain     512  adamw
qwen2.5-1.5b    full      plain    1024  adamw
qwen2.5-1.5b    full      both     8192  8-bit
qwen2.5-1.5b    LoRA      plain    1024  adamw
qwen2.5-1.5b    LoRA      chunked  8192  adamw
qwen2.5-1.5b    QLoRA     ckpt     4096  fused
gemma-2-2b      full      ckpt     2048  8-bit
gemma-2-2b      LoRA      both     4096  adamw
llama-3.2-3b    full      ckpt     1024  adamw
llama-3.2-3b    LoRA      plain    2048  lion
llama-3.2-3b    QLoRA     chunked  4096  8-bit
qwen3-4b        full      both     2048  sgd
qwen3-4b        LoRA      ckpt      512  fused
mistral-7b      LoRA      ckpt     4096  adamw
mistral-7b      QLoRA     plain    1024  8-bit
qwen2.5-7b      LoRA      plain    1024  adamw
qwen2.5-7b      QLoRA     both     8192  adamw
llama-3.1-8b    full      ckpt     1024  sgd
llama-3.1-8b    full      both     2048  8-bit
llama-3.1-8b    LoRA      ckpt     8192  adamw
llama-3.1-8b    QLoRA     ckpt     2048  adamw
"""
"""Model, method, way, tokens in the one sequence of a step, optimizer."""

TARGETS = {
    "allocated": "median ≤2 %, worst ≤5 %, none more than 2 % under",
    "reserved": "median ≤4 %",
    "device": "no target",
}


class Case(NamedTuple):
    """A row of the matrix."""

    model: str
    method: str
    way: str
    length: int
    optimizer: str

    @property
    def name(self) -> str:
        """All of it in one word group."""
        return f"{self.model} {self.method} {self.way} {self.length} {self.optimizer}"


def matrix() -> list[Case]:
    """The rows, in the order of the table: small models first."""
    found = []
    for line in _TABLE.strip().splitlines():
        model, method, way, length, optimizer = line.split()
        found.append(Case(model, method, way, int(length), optimizer))
    return found


def plan_of(case: Case) -> Plan:
    """The plan of a row: random weights, two steps, one sequence."""
    workload = {"batch_size": 1, "sequence_length": case.length, "steps": 2}
    plan = plan_from({"model": case.model, "weights": "random", "workload": workload})
    for change in (*METHODS[case.method], *WAYS[case.way], *OPTIMIZERS[case.optimizer]):
        plan = override(plan, change)
    return plan


def lack(device: str) -> str:
    """Why nothing can be measured; empty where a GPU is to be used and there is one."""
    if device == "cuda" and local_gpus():
        return ""
    return (
        "its plans are compared with a GPU, and here is none to run them on; "
        "`python -m benchmarks.prediction` compares predictions with the CPU"
    )


def measure(device: str, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and what there was no time for; without a GPU nothing, and the reason."""
    plans = [(case.name, plan_of(case)) for case in matrix()]
    names = [name for name, _ in plans]
    if lack(device) or time.monotonic() >= end:
        return [], names
    rows: dict[str, dict[str, Any]] = {}
    # What is foretold must be run too: no more than a third of the time goes to the former.
    now = time.monotonic()
    with engine() as running:
        for name, plan in plans:
            if time.monotonic() < now + (end - now) / 3:
                rows[name] = foretold(running, name, plan, "")
                journal.note(rows[name])
    fitting = [(name, plan) for name, plan in plans if rows.get(name, {}).get("fits")]
    found, left = run(fitting, device, end)
    for burst in found:
        row = rows[burst["plan"]]
        row |= {"outcome": burst["outcome"], "what": burst["what"], "burst": burst}
        row["ratios"] = ratios(row["predicted"], burst)
    left += [name for name in names if name not in rows]
    return [row for name, row in rows.items() if name not in left], left


def foretold(running: Engine, name: str, plan: Plan, target: str) -> dict[str, Any]:
    """A row with the prediction alone."""
    asked = running.ask(plan, target)
    row: dict[str, Any] = {"plan": name, "expected": ["done", "not run"], "fits": False}
    if asked.result is None:
        # A plan of the matrix that cannot be predicted is a defect.
        return row | {"outcome": "not predicted", "what": "; ".join(asked.refused)}
    result = asked.result
    verdict = next(fit.verdict for fit in result.fits if fit.gpu == result.target)
    row |= {"target": result.target, "verdict": verdict, "predicted": told(result)}
    if verdict == "exceeds":
        return row | {"outcome": "not run", "what": "predicted not to fit"}
    return row | {"outcome": "", "what": "", "fits": True}


def told(result: Prediction) -> dict[str, Any]:
    """Of a prediction what a burst tells too. Bytes."""
    phases: dict[str, int] = {}
    for point in result.timeline:
        key = f"{point.step} {point.phase}"
        phases[key] = max(phases.get(key, 0), point.allocated)
    return {"peak": msgspec.to_builtins(result.peak), "phases": phases, "seconds": result.seconds}


def ratios(predicted: Mapping[str, Any], burst: Mapping[str, Any]) -> dict[str, float]:
    """Predicted over measured, less one: of the three totals, and of each phase's maximum.

    A category's difference is a share of the measured peak: one that is nearly empty has no
    ratio worth telling.
    """
    mine, theirs = predicted["peak"], burst["peak"]
    if burst["outcome"] != "done" or not theirs:
        return {}
    found = {name: mine[name] / theirs[name] - 1 for name in TARGETS if theirs[name]}
    for name in CATEGORIES:
        apart = mine["categories"][name] - theirs["categories"][name]
        found[name] = apart / theirs["allocated"]
    for name, most in burst["phases"].items():
        if most and name in predicted["phases"]:
            found[name] = predicted["phases"][name] / most - 1
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each plan, then median and worst of each total."""
    if not rows:
        return "Nothing was measured."
    lines = [
        "| plan | outcome | "
        + " | ".join(f"{name}: predicted GiB, measured, apart" for name in TARGETS)
        + " | category furthest off | phase furthest off |",
        "|---|---|" + "---|" * (len(TARGETS) + 2),
    ]
    for row in rows:
        lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join([*lines, "", summary(rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    name = f"{row['outcome']}: {row['what']}" if row["what"] else row["outcome"]
    if "predicted" not in row:
        return [row["plan"], name, *["–"] * (len(TARGETS) + 2)]
    mine, apart = row["predicted"]["peak"], row.get("ratios") or {}
    theirs = (row.get("burst") or {}).get("peak") or {}
    cells = [row["plan"], name]
    for total in TARGETS:
        off = f"{apart[total]:+.2%}" if total in apart else "–"
        cells.append(f"{gib(mine[total])} {gib(theirs.get(total))} {off}")
    for group in (CATEGORIES, [key for key in apart if " " in key]):
        worst = max((key for key in group if key in apart), key=lambda k: abs(apart[k]), default="")
        cells.append(f"{worst} {apart[worst]:+.2%}" if worst else "–")
    return cells


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median and worst of each total, and the share of plans told more than 2 % too little."""
    lines = []
    for total, wanted in TARGETS.items():
        found = [row["ratios"][total] for row in rows if total in (row.get("ratios") or {})]
        if not found:
            continue
        median = statistics.median(abs(one) for one in found)
        worst = max(found, key=abs)
        under = sum(one < -0.02 for one in found) / len(found)
        lines.append(
            f"{total}: median {median:.2%}, worst {worst:+.2%}, more than 2 % under {under:.0%} "
            f"of {len(found)} ({wanted})"
        )
    return "\n".join(lines) or "No plan was both predicted and run."
