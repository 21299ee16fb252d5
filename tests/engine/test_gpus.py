"""The list of GPUs, what NVML tells of local ones, and whether a need fits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from memwb.engine import gpus
from memwb.engine.errors import MemwbError
from memwb.engine.memory import Categories, Peak

GIB, MIB = 2**30, 2**20


class FakeNvml:
    """NVML with GPUs of these names, MiB, and MiB kept (None: a driver without version 2)."""

    NVML_CLOCK_MEM = 2
    nvmlMemory_v2 = 7

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: tuple[str, int, int | None]) -> None:
        self.cards = cards

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= len(self.cards):
            raise self.NVMLError
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}000-abc"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        raise self.NVMLError

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.cards[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        _, total, kept = self.cards[handle]
        if version and kept is None:
            raise self.NVMLError
        return SimpleNamespace(total=total * MIB, reserved=(kept or 0) * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 6

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
        return 384

    def nvmlDeviceGetMaxClockInfo(self, handle: int, clock: int) -> int:
        return 10501


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Choose the GPUs of this machine; none unless chosen."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def choose(*cards: tuple[str, int, int | None]) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*cards))  # type: ignore[arg-type]
        gpus.local_gpus.cache_clear()

    choose()
    yield choose
    gpus.local_gpus.cache_clear()


def test_the_list_is_whole() -> None:
    found = gpus.gpus()
    assert len(found) >= 25
    assert min(gpu.memory for gpu in found) == 6 * GIB
    assert max(gpu.memory for gpu in found) >= 180 * GIB
    assert len({gpu.id for gpu in found}) == len(found)
    for gpu in found:
        assert gpu.arch in (
            "sm_70",
            "sm_75",
            "sm_80",
            "sm_86",
            "sm_89",
            "sm_90",
            "sm_100",
            "sm_120",
        )
        assert 0.9 * gpu.memory < gpu.capacity < gpu.memory, gpu.id
        assert gpu.bandwidth is not None and 200e9 < gpu.bandwidth < 9e12, gpu.id
        assert gpu.bf16 is None or 20e12 < gpu.bf16 < 3e15, gpu.id
        assert (gpu.bf16 is None) >= (gpu.arch in ("sm_70", "sm_75")), gpu.id
        assert gpu.source.startswith("https://") and "nvidia.com/" in gpu.source
        assert not gpu.local
    for id in ("rtx-3060-12gb", "rtx-4080", "rtx-4090", "a100-40gb", "a100-80gb", "h100-80gb"):
        assert gpus.gpu_of(id).id == id
    for id in ("h200", "b200", "l4", "t4"):
        assert gpus.gpu_of(id).id == id


@pytest.mark.parametrize(
    ("id", "reported"),
    # GiB, the total capacity in torch's out-of-memory messages.
    [
        ("t4", 14.56),
        ("rtx-4060", 7.75),
        ("rtx-4090", 23.61),
        ("rtx-5090", 31.36),
        ("v100-32gb", 31.74),
        ("a100-40gb", 39.43),
        ("a100-80gb", 79.25),
        ("h100-80gb", 79.11),
        ("b200", 178.35),
    ],
)
def test_capacity_never_promises_more_than_cuda_gives(id: str, reported: float) -> None:
    capacity = gpus.gpu_of(id).capacity
    assert capacity <= (reported + 0.005) * GIB
    assert capacity >= 0.98 * reported * GIB


def test_a_wrong_id_is_told_with_the_nearest() -> None:
    with pytest.raises(MemwbError) as error:
        gpus.gpu_of("rtx4090")
    assert "rtx-4090" in error.value.what
    with pytest.raises(MemwbError) as error:
        gpus.target_of("cpus")
    assert "'cpu'" in error.value.what


def test_a_known_local_gpu_comes_first_with_its_own_memory(machine: Any) -> None:
    machine(("NVIDIA GeForce RTX 4090", 24564, 400), ("NVIDIA GeForce RTX 4090", 24564, 400))
    assert len(gpus.local_gpus()) == 2
    first, *others = gpus.gpus()
    assert (first.id, first.local, first.memory) == ("rtx-4090", True, 24564 * MIB)
    assert first.name == "NVIDIA GeForce RTX 4090"
    assert first.capacity == (24564 - 400) * MIB
    assert first.bf16 == 165.2e12
    assert "rtx-4090" not in [gpu.id for gpu in others]
    assert gpus.target_of("") == gpus.target_of("rtx-4090") == first
    assert gpus.fits(peak(GIB, GIB))[0].gpu == "rtx-4090"
    told = {fit.gpu: fit.same_kernels for fit in gpus.fits(peak(GIB, GIB), "sm_89")}
    assert told["rtx-4090"] and told["l4"] and not told["h200"]


def test_an_unknown_local_gpu_is_what_nvml_tells(machine: Any) -> None:
    # Same name as one in the list, but not its memory: another card.
    machine(("NVIDIA GeForce RTX 3060", 8192, None))
    (gpu,) = gpus.local_gpus()
    assert gpu.id == "rtx-3060"
    assert gpu.arch == "sm_86"
    assert gpu.capacity == (8192 - 288) * MIB
    assert gpu.bandwidth == 384 // 8 * 10501 * 2 * 10**6
    assert (gpu.bf16, gpu.source) == (None, "NVML")
    assert gpus.gpus()[0] == gpu


def test_ecc_takes_memory_but_not_the_name(machine: Any) -> None:
    machine(("NVIDIA RTX 6000 Ada Generation", 46068, 574))
    assert [gpu.id for gpu in gpus.local_gpus()] == ["rtx-6000-ada"]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["b"]),
        ("1,0", ["b", "a"]),
        ("GPU-1000", ["b"]),
        ("0,7,1", ["a"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_visible_gpus_are_local(
    machine: Any, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    machine(("a", 8192, 0), ("b", 8192, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in gpus.local_gpus()] == names


def test_a_process_that_hides_them_later_still_knows_of_them(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the engine's predicting processes do, which want no CUDA."""
    machine(("NVIDIA H20", 97871, 0))
    known = gpus.target_of("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert known is not None and gpus.target_of(known.id) == known == gpus.gpus()[0]


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.local_gpus() == ()
    assert gpus.target_of("") is None
    assert gpus.target_of("cpu") is None


def peak(allocated: int, reserved: int) -> Peak:
    return Peak(allocated, reserved, reserved, "loss", Categories(weights=allocated))


def test_verdicts_at_their_edges() -> None:
    gpu = gpus.gpu_of("rtx-4090")
    room = gpu.capacity - gpus.context_bytes("sm_89")
    margin = int(gpus.MARGIN * gpu.capacity)

    def told(allocated: int, reserved: int) -> tuple[str, int]:
        fit = next(fit for fit in gpus.fits(peak(allocated, reserved)) if fit.gpu == gpu.id)
        assert fit.capacity == gpu.capacity
        return fit.verdict, fit.free

    assert told(room - margin - 1, room - margin - 1) == ("fits", margin + 1)
    assert told(room - margin, room - margin + 1) == ("tight", margin)
    assert told(room, room) == ("tight", 0)
    assert told(room + 1, room + 1) == ("exceeds", -1)
    # What is cached can be given back: more reserved than there is does not make it exceed.
    assert told(room // 2, 2 * room) == ("tight", room - room // 2)


def test_the_context_grows_with_the_architecture() -> None:
    known = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
    sizes = [gpus.context_bytes(arch) for arch in known]
    assert sizes == sorted(sizes)
    assert [size // MIB for size in sizes] == [192, 192, 512, 512, 512, 640, 640, 640]


def test_a_burst_runs_on_the_first_visible_gpu(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from memwb.engine.devices import device_for

    machine(("a", 8192, 0), ("b", 4096, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = device_for("auto")
    assert (found.kind, found.name, found.capacity) == ("cuda", "b", 4096 * MIB)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device_for("auto").kind == "cpu"
    with pytest.raises(MemwbError):
        device_for("cuda")
