"""Where a burst can run, asked without touching CUDA: the parent must never hold a context."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import psutil

from memwb.engine.errors import MemwbError
from memwb.engine.gpus import local_gpus
from memwb.engine.protocol import Device


def device_for(wanted: str) -> Device:
    """The device for ``auto``, ``cpu`` or ``cuda``. Raises MemwbError if it is not here."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise MemwbError(f"There is no device {wanted!r}", "$.device", "Say auto, cpu or cuda.")
    if wanted == "cpu":
        return _cpu()
    gpu = _gpu()
    if gpu is None and wanted == "cuda":
        raise MemwbError(
            "There is no CUDA device here",
            "torch is built without CUDA, or the driver lists no GPU",
            "Run on the CPU (--device cpu), or see `memwb doctor`.",
        )
    return gpu or _cpu()


def _cpu() -> Device:
    return Device(kind="cpu", name=_cpu_name(), capacity=psutil.virtual_memory().total)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _gpu() -> Device | None:
    """The first visible GPU, as NVML tells it."""
    import torch

    if torch.version.cuda is None:
        return None
    first = next(iter(local_gpus()), None)
    return Device(kind="cuda", name=first.name, capacity=first.memory) if first else None
