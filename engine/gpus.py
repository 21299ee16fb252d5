"""GPUs as data: what a process can get of each, how fast each is, and whether a need fits.

``gpus.toml`` beside this file has the list; NVML tells the GPUs of this machine, without torch
and without starting CUDA.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.memory import Peak
from memwb.engine.prediction import Fit

MIB = 2**20

MARGIN = 0.05
"""The share of a GPU's capacity inside of which a need is *tight*: the largest error that a
prediction may have, five percent. It is also about what a desktop takes on a card that draws
one (some hundred MiB)."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. Sizes are in bytes, rates a second."""

    id: str
    """What a target is named with, as ``rtx-4090``."""
    name: str
    """As NVML tells it; in the list without a leading NVIDIA."""
    arch: str
    """Compute capability, as ``sm_89``."""
    memory: int
    """As it is sold; of a local GPU, as the driver reports it."""
    capacity: int
    """What a process can get while nobody else uses the card: see ``withheld``."""
    bandwidth: int | None
    """Bytes a second from and to memory; None where NVML does not tell."""
    bf16: float | None
    """Dense bf16 tensor operations a second, fp32 accumulation, no sparsity. None without bf16
    tensor cores (Volta, Turing), and where no rate is published."""
    source: str
    """Where the figures are published; ``NVML`` of a local GPU that is not in the list."""
    local: bool = False
    """It is in this machine."""
    multiprocessors: int | None = None
    """As torch's ``multi_processor_count``: some kernels' scratch memory goes by it. None where
    NVML does not tell."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU as ``gpus.toml`` has and explains it."""

    name: str
    arch: str
    gb: int
    driver_mib: int
    gb_per_second: float
    multiprocessors: int
    source: str
    bf16_teraflops: float | None = None
    also: tuple[str, ...] = ()


class File(msgspec.Struct, frozen=True):
    """The whole of ``gpus.toml``."""

    sources: dict[str, str]
    gpu: dict[str, Row]


def gpus() -> tuple[Gpu, ...]:
    """Every GPU: those of this machine first, then the list in its order."""
    here: dict[str, Gpu] = {}
    for gpu in local_gpus():
        here.setdefault(gpu.id, gpu)  # several alike are one target
    return (*here.values(), *(gpu for gpu in listed() if gpu.id not in here))


def gpu_of(id: str) -> Gpu:
    """The GPU of an id. Raises MemwbError with the nearest id when there is none."""
    known = {gpu.id: gpu for gpu in gpus()}
    if id not in known:
        raise MemwbError(
            f"There is no GPU {id!r}", nearest(id, known), "See `memwb gpus` for their ids."
        )
    return known[id]


def target_of(text: str) -> Gpu | None:
    """The GPU that a target names: None for ``cpu``, the first local one (or None) for nothing.

    Raises MemwbError for a name that is neither.
    """
    if text == "cpu":
        return None
    if not text:
        return next(iter(local_gpus()), None)
    known = {gpu.id: gpu for gpu in gpus()}
    if text not in known:
        raise MemwbError(
            f"There is no target {text!r}",
            nearest(text, ("cpu", *known)) or f"$.target: {text!r} is no id of a GPU, and not cpu",
            "Say cpu or the id of a GPU: see `memwb gpus`.",
        )
    return known[text]


@functools.cache
def listed() -> tuple[Gpu, ...]:
    """The GPUs of ``gpus.toml``, in its order."""
    file = _file()
    return tuple(_made(id, row, file.sources[row.source]) for id, row in file.gpu.items())


@functools.cache
def _file() -> File:
    text = Path(__file__).with_name("gpus.toml").read_bytes()
    return msgspec.toml.decode(text, type=File)


def _made(id: str, row: Row, source: str) -> Gpu:
    total = row.driver_mib * MIB
    rate = row.bf16_teraflops
    return Gpu(
        id=id,
        name=row.name,
        arch=row.arch,
        memory=row.gb * 2**30,
        capacity=total - withheld(total),
        bandwidth=round(row.gb_per_second * 10**9),
        bf16=None if rate is None else rate * 10**12,
        source=source,
        multiprocessors=row.multiprocessors,
    )


def withheld(total: int) -> int:
    """Bytes of the driver's total that no process gets: 288, 512 or 768 MiB by the card's size.

    ``nvidia-smi`` (NVML) counts all of the memory, what CUDA gives (cudaMemGetInfo, the "total
    capacity" in torch's out-of-memory message) is less by what the driver and the firmware keep.
    NVML tells it as ``reserved`` for the GPUs of this machine. For the others it is the largest
    difference found in public reports on Linux, rounded up: to 12 GiB, 205 MiB of a 6 GiB RTX
    3060 (SAM-6D issue 13), 266 of an 11 GiB card (FramePack issue 369); to 32 GiB, 450 of a
    T4 (CatVTON issue 133), 387 of an RTX 4090 (flux-webui issue 11), 494 of an RTX 5090
    (TrajectoryCrafter issue 20); above, 632 of an RTX 6000 Ada (unsloth-zoo PR 1053), 768 of an
    80 GB A100 (OOTDiffusion issue 235), 729 of a B200 (torchao PR 4002). ECC is in the driver's
    total already where it takes memory (GDDR); HBM has bits of its own for it.
    """
    if total <= 12 * 2**30:
        return 288 * MIB
    return 512 * MIB if total <= 32 * 2**30 else 768 * MIB


def capability(arch: str) -> tuple[int, int]:
    """The compute capability of an architecture: ``sm_89`` as (8, 9), ``sm_90a`` as (9, 0)."""
    return divmod(int(arch.removeprefix("sm_").rstrip("abcdef")), 10)


def context_bytes(arch: str) -> int:
    """What a process holds beside the allocator: the CUDA context and the kernels it has loaded.

    192 MiB for Volta and Turing, 512 for Ampere and Ada, 640 for Hopper and
    Blackwell; give or take 256 (``CONTEXT_ERROR``). torch loads kernels as they are first used
    (CUDA_MODULE_LOADING=LAZY since 1.13, pytorch PR 86509, which saw 274 MiB after one tensor).
    The figures are what torch's out-of-memory messages leave when allocated and reserved are
    taken from the process's total: 128 and 135 MiB on a T4 (tribev2 issue 28, CatVTON issue
    133), 197 on an RTX 2080 Ti (FramePack issue 369); 473 and 504 on an RTX 4090 (flux-webui
    issue 11, Phidias-Diffusion issue 8), 426 before any kernel on an RTX 6000 Ada (unsloth-zoo
    PR 1053); 512 on an 80 GB card (Mask2DiT issue 4); 595 and 619 on an RTX 5090 (Wan2.1 issue
    465, TrajectoryCrafter issue 20). No report was found for Hopper and the big Blackwell: they
    get the highest seen. A small card needs less (115 MiB on an RTX 4060, EdgeRegNet issue 2),
    as the context has stacks for each of its multiprocessors.
    """
    major, _ = capability(arch)
    if major < 8:
        return 192 * MIB
    return 512 * MIB if major == 8 else 640 * MIB


CONTEXT_ERROR = 256 * MIB
"""By how much ``context_bytes`` may be off, either way."""


def fits(peak: Peak, arch: str = "") -> tuple[Fit, ...]:
    """Whether a peak that was predicted for an architecture fits each GPU, the local ones first.

    *exceeds*: allocated bytes and context are more than the capacity; no allocator can help.
    *tight*: they fit, but reserved bytes and context come within MARGIN of the capacity or
    above it. The allocator gives cached segments back before it gives up, so the plan may run;
    how much of the gap between the two figures is free blocks inside of used segments, which it
    cannot give back, the totals do not tell. *fits*: there is room for everything reserved.

    ``free`` is capacity less allocated and context. The context is each GPU's own; the peak is
    that of one target: on a GPU of another architecture other kernels may be chosen, which
    ``same_kernels`` tells (true of all where no ``arch`` is given).
    """
    found = []
    for gpu in gpus():
        context = context_bytes(gpu.arch)
        free = gpu.capacity - context - peak.allocated
        room = gpu.capacity - context - peak.reserved
        if free < 0:
            verdict = "exceeds"
        elif room < MARGIN * gpu.capacity:
            verdict = "tight"
        else:
            verdict = "fits"
        same = arch in ("", gpu.arch)
        found.append(Fit(gpu.id, gpu.capacity, verdict, free, same))
    return tuple(found)


@functools.cache
def local_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, in its order.

    Asked once: a process that is forked with none visible, to predict, still knows of them.
    One of the list has the list's rates; another has what NVML tells of it. Empty without a
    driver. Numbers in CUDA_VISIBLE_DEVICES count as NVML does (by PCI bus), which is CUDA's own
    order with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no GPU: all the same here
        return ()
    try:
        return tuple(_told(pynvml, handle) for handle in _visible(pynvml))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _visible(nvml: Any) -> list[Any]:
    """NVML's handles of the visible GPUs; like CUDA, it stops at the first that is not there."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = nvml.nvmlDeviceGetCount()
    if wanted is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    handles = []
    for word in (word.strip() for word in wanted.split(",")):
        try:
            if word.isdigit():
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(word)))
            elif word.startswith(("GPU-", "MIG-")):
                handles.append(_by_uuid(nvml, word, count))
            else:
                break
        except nvml.NVMLError:
            break
    return handles


def _by_uuid(nvml: Any, word: str, count: int) -> Any:
    """The handle of a UUID or of its beginning, which CUDA takes too."""
    for index in range(count):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if str(nvml.nvmlDeviceGetUUID(handle)).startswith(word):
            return handle
    return nvml.nvmlDeviceGetHandleByUUID(word)


def _told(nvml: Any, handle: Any) -> Gpu:
    """A GPU as NVML tells it, with the list's rates where the list has it."""
    full = str(nvml.nvmlDeviceGetName(handle))
    name = full.removeprefix("NVIDIA ")
    total, kept = _memory(nvml, handle)
    for gpu, row in zip(listed(), _file().gpu.values(), strict=True):
        # With ECC on, a card of GDDR has a sixteenth less.
        near = abs(total - row.driver_mib * MIB) < 0.07 * total
        if name in (row.name, *row.also) and near:
            return msgspec.structs.replace(
                gpu, name=full, memory=total, capacity=total - kept, local=True
            )
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        id=re.sub(r"[^a-z0-9]+", "-", name.lower().replace("geforce ", "")).strip("-"),
        name=full,
        arch=f"sm_{major}{minor}",
        memory=total,
        capacity=total - kept,
        bandwidth=_bandwidth(nvml, handle),
        bf16=None,
        source="NVML",
        local=True,
        multiprocessors=_multiprocessors(nvml, handle, (major, minor)),
    )


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """The driver's total and what of it no process gets, which old drivers do not tell."""
    try:
        told = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return int(told.total), int(told.reserved)
    except (nvml.NVMLError, AttributeError):
        total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return total, withheld(total)


def _multiprocessors(nvml: Any, handle: Any, version: tuple[int, int]) -> int | None:
    """Of the cores that NVML counts, 64 make a multiprocessor up to GA100, and 128 after it."""
    try:
        cores = int(nvml.nvmlDeviceGetNumGpuCores(handle))
    except (nvml.NVMLError, AttributeError):
        return None
    return cores // (64 if version <= (8, 0) else 128)


def _bandwidth(nvml: Any, handle: Any) -> int | None:
    """Bus width times the memory clock, twice a cycle (as torchao PR 4002 reckons a B200's)."""
    try:
        bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
        megahertz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
    except nvml.NVMLError:
        return None
    return int(bits * megahertz * 10**6 * 2 // 8)
