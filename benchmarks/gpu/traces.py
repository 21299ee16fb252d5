"""``python -m benchmarks.gpu.traces --out DIR``: recordings of the caching allocator at work.

Runs exported scripts, each alone in a process whose allocator keeps its history from before the
first allocation on, under the settings named. ``tests/engine/predict/test_recorded.py`` holds the
allocator's model against every recording in ``tests/engine/predict/traces/``. Written from
torch's source; unverified on a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import journal
from memwb.engine.catalog import resolve
from memwb.engine.plan import override, plan_from
from memwb.engine.script import script

BASE = {
    "model": "smollm2-135m",
    "weights": "random",
    "workload": {"steps": 2, "sequence_length": 512},
}
CASES: dict[str, tuple[str, list[str]]] = {
    "bf16": ("", ["bf16=on"]),
    "fp32-padding": ("", ["padding=on", "workload.batch_size=4"]),
    "lora-checkpointing": ("", ["bf16=on", "lora=on", "activation_checkpointing=on"]),
    "qlora": ("", ["bf16=on", "lora=on", "quantize_4bit=on"]),
    "bf16-expandable": ("expandable_segments:True", ["bf16=on"]),
    "bf16-max-split": ("max_split_size_mb:32", ["bf16=on"]),
}
"""By name: PYTORCH_CUDA_ALLOC_CONF and the plan's overrides."""

ENTRIES = 1_000_000
"""Most entries of the history that are kept."""
TIMEOUT = 180.0
"""Seconds after which a case, two steps of a small model, is taken to hang."""


CHILD = """
import runpy, sys
from pathlib import Path
import torch
from memwb.engine.predict.recorded import save

path, out, entries = sys.argv[1:]
torch.cuda.memory._record_memory_history("all", context=None, max_entries=int(entries))
sys.argv = [path, "--device", "cuda"]
try:
    runpy.run_path(path, run_name="__main__")
finally:
    save(torch.cuda.memory._snapshot(), Path(out))
"""
# Not this module: the repository's root stays off the path of a process that imports transformers.


def text_of(overrides: list[str]) -> str:
    """The script of a case."""
    plan = plan_from(BASE)
    for change in overrides:
        plan = override(plan, change)
    return script(plan, resolve(plan.model, plan.weights))


def recorded(name: str, folder: Path) -> bool:
    """Record one case into the folder, as ``NAME.json.gz``; whether its script ran to its end."""
    settings, overrides = CASES[name]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.py"
        path.write_text(text_of(overrides), encoding="utf-8")
        out = folder / f"{name}.json.gz"
        command = [sys.executable, "-P", "-c", CHILD, str(path), str(out), str(ENTRIES)]
        environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": settings}
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.DEVNULL, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and out.exists()


def measure(device: str, end: float, out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The suite's section: a row for each recording, and what there was no time for."""
    waiting = list(CASES)
    rows = []
    folder = out / "traces"
    while waiting and device == "cuda" and time.monotonic() < end:
        name = waiting.pop(0)
        folder.mkdir(parents=True, exist_ok=True)
        done = recorded(name, folder)
        size = (folder / f"{name}.json.gz").stat().st_size if done else 0
        row = {"case": name, "outcome": "recorded" if done else "failed", "bytes": size}
        rows.append({**row, "expected": ["recorded"]})
        journal.note(rows[-1])
    return rows, waiting


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each recording and its size."""
    if not rows:
        return "Nothing was recorded."
    lines = ["| recording | outcome | size |", "|---|---|---:|"]
    lines += [f"| {r['case']} | {r['outcome']} | {r['bytes'] / 1024:,.0f} KiB |" for r in rows]
    return "\n".join(lines)


def main() -> int:
    """Record the cases one after another; 0 when every one was recorded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.traces", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    parser.add_argument("--cases", default=",".join(CASES), help="[%(default)s]")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.cases.split(",") if not recorded(name, args.out)]
    if failed:
        print(f"not recorded: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
