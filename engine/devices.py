"""Where a burst can run, told without torch and without CUDA.

The engine's parent must never hold a CUDA context, and the workbench never imports torch; both
tell the same devices, by which kept predictions are found again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import platform
import re
import sys
from pathlib import Path

import psutil

from memwb.engine.errors import MemwbError
from memwb.engine.gpus import local_gpus
from memwb.engine.protocol import Device


def device_for(wanted: str) -> Device:
    """The device for ``auto``, ``cpu`` or ``cuda``. Raises MemwbError if it is not here."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise MemwbError(f"There is no device {wanted!r}", "$.device", "Say auto, cpu or cuda.")
    fitting = [device for device in devices() if wanted in ("auto", device.kind)]
    if not fitting:
        raise MemwbError(
            "There is no CUDA device here",
            "torch is built without CUDA, or the driver lists no GPU",
            "Run on the CPU (--device cpu), or see `memwb doctor`.",
        )
    return fitting[0]


def assumed(wanted: str) -> Device:
    """The same, but a GPU can be asked for where there is none."""
    if wanted == "cuda" and all(device.kind == "cpu" for device in devices()):
        return Device(kind=wanted, name="a CUDA device", capacity=0)
    return device_for(wanted)


def devices() -> list[Device]:
    """The visible GPUs as NVML tells them, then the CPU: the order in which a burst chooses."""
    gpus = local_gpus() if _knows_cuda() else ()
    found = [Device(kind="cuda", name=gpu.name, capacity=gpu.memory) for gpu in gpus]
    return [*found, Device("cpu", cpu_name(), int(psutil.virtual_memory().total))]


@functools.cache
def cpu_name() -> str:
    """The CPU's model, as the system has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _knows_cuda() -> bool:
    """Whether the torch that is installed is built with CUDA; read of its version.py."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.version.cuda is not None
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return found is not None and found[1] != "None"
