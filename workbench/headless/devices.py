"""The devices of this machine, told without torch."""

from __future__ import annotations

import os
import platform

from memwb.engine.gpus import local_gpus
from memwb.engine.protocol import Device


def devices() -> list[Device]:
    """The GPUs, then the CPU: the order in which a burst chooses."""
    return [*gpus(), cpu()]


def assumed(wanted: str) -> Device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means; a GPU can be asked for without one."""
    fitting = [device for device in devices() if wanted in ("auto", device.kind)]
    return fitting[0] if fitting else Device(kind=wanted, name="a CUDA device", capacity=0)


def gpus() -> list[Device]:
    """The visible GPUs as NVML tells them, without starting CUDA; none without a driver."""
    return [Device(kind="cuda", name=gpu.name, capacity=gpu.memory) for gpu in local_gpus()]


def cpu() -> Device:
    """The CPU, with the machine's memory."""
    try:
        import psutil

        capacity = int(psutil.virtual_memory().total)
    except ImportError:
        capacity = 0
    name = platform.processor() or platform.machine()
    return Device(kind="cpu", name=f"{name}, {os.cpu_count()} cores", capacity=capacity)
