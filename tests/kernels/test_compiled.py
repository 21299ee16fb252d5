"""Every kernel compiles ahead of time for three chips, and nothing spills. Needs no GPU.

Compiled is every launch of ``python -m benchmarks.resources``, but those of which pytest's cache
knows that the same text and the same compiler gave no fault.
"""

from __future__ import annotations

import importlib
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.long

triton = pytest.importorskip("triton", reason="there is no triton for this platform")
tl = importlib.import_module("triton.language")

ROOT = Path(__file__).parents[2]

if sys.platform != "linux":
    pytest.skip("triton's compiler is there on Linux alone", allow_module_level=True)


@pytest.fixture(scope="module")
def bench() -> Any:
    """The modules, with the repository's root on sys.path only while they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
            patch.delitem(sys.modules, loaded)
        patch.syspath_prepend(str(ROOT))
        names = ("resources", "launches", "compiled_cases", "losses")
        yield {name: importlib.import_module(f"benchmarks.{name}") for name in names}


@triton.jit
def doubled_kernel(x, y, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0) * columns
    held = tl.load(x + row + at, mask=at < columns)
    tl.store(y + row + at, 2 * held + tl.sum(held, 0), mask=at < columns)


@torch.library.custom_op("memwb::doubled_in_a_test", mutates_args=(), device_types="cpu")
def doubled(x: torch.Tensor, registers: int) -> torch.Tensor:
    return 2 * x + x.sum(1, keepdim=True)


@doubled.register_kernel("cuda")
def _(x: torch.Tensor, registers: int) -> torch.Tensor:
    y = torch.empty_like(x)
    block = triton.next_power_of_2(x.shape[1])
    capped = {"maxnreg": registers} if registers else {}
    doubled_kernel[lambda meta: (len(x),)](x, y, x.shape[1], BLOCK=block, num_warps=1, **capped)
    return y


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def rows_of(bench: dict[str, ModuleType], chip: Any, *calls: Any) -> list[Any]:
    resources = bench["resources"]
    made = [
        bench["compiled_cases"].Case("example", str(place), call)
        for place, call in enumerate(calls)
    ]
    return [
        resources.compiled(launch, label, chip)
        for launch, label in resources.launches(made, chip).values()
    ]  # fmt: skip


def test_a_launch_is_compiled_as_it_would_be_specialised(bench: dict[str, ModuleType]) -> None:
    chip = bench["launches"].CHIPS[-1]
    calls = [
        lambda: doubled(meta(8, 512), 0),
        lambda: doubled(meta(9, 528), 0),
        lambda: doubled(meta(8, 515), 0),
    ]
    with bench["launches"].recorded(chip) as found:
        for call in calls:
            assert call().shape[0] in (8, 9)
    assert [launch.grid for launch in found] == [(8,), (9,), (8,)]
    # 512 is divisible by 16 and 515 is not, which a binary knows; 528 asks for a larger block.
    first, *others = rows_of(bench, chip, *calls)
    assert [row.label for row in (first, *others)] == ["0", "1", "2"]
    assert first.kernel == "doubled_kernel" and first.warps == 1
    assert 0 < first.registers <= 255 and not first.faults
    again = bench["resources"].launches(
        [bench["compiled_cases"].Case("example", "", lambda: doubled(meta(7, 512), 0))] * 2, chip
    )
    assert len(again) == 1


def test_what_spills_is_told(bench: dict[str, ModuleType]) -> None:
    chip = bench["launches"].CHIPS[0]
    (row,) = rows_of(bench, chip, lambda: doubled(meta(4, 4096), 32))
    assert row.spilled > 0
    assert row.faults == [f"doubled_kernel (0, sm_80): {row.spilled} B of registers spilled"]
    assert f"{row.spilled} B of registers spilled |" in bench["resources"].table([row])


def test_what_a_chip_cannot_give_is_told(bench: dict[str, ModuleType]) -> None:
    resources, chips = bench["resources"], bench["launches"].CHIPS
    assert [(chip.name, chip.shared) for chip in chips] == [
        ("sm_80", 166_912), ("sm_89", 101_376), ("sm_90", 232_448)
    ]  # fmt: skip
    # A line of ptxas 12.9.
    log = (
        "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are "
        "serialized due to insufficient register resources for the wgmma pipeline\n"
        "ptxas info    : Used 255 registers, used 1 barriers"
    )
    (warning,) = resources._warnings(log)
    row = resources.Resources("k", "s", chips[0], 16, 3, 255, 0, 0, 170_000, (warning,), 0.0)
    assert [fault.partition("): ")[2].split()[0] for fault in row.faults] == [
        "(C7511)", "shared", "more"
    ]  # fmt: skip
    fit = row._replace(warnings=(), shared=166_912, warps=8)
    assert not fit.faults and fit._replace(chip=chips[1]).faults


def test_what_wrappers_hold_at_once_is_counted(bench: dict[str, ModuleType]) -> None:
    chip, x = bench["launches"].CHIPS[-1], meta(8, 512)

    def call() -> None:
        # Two at once, then one beside a third; its view is no memory of its own.
        y = doubled(doubled(x, 0), 0)
        torch.cat([y, y[:4]]).t()

    assert bench["launches"].held(chip, call, x) == x.nbytes * 5 // 2


def test_losses_take_the_memory_on_a_gpu_that_was_aimed_at(bench: dict[str, ModuleType]) -> None:
    # 0.65 of what is published for Liger's 16 chunks.
    assert bench["losses"].on_gpu("fused")[0] <= 1344 * 2**20
    found, own = bench["losses"].on_gpu("cut")
    assert own == 2 * 4096 * (8192 + 128256) and found <= 1.03 * own


@pytest.mark.parametrize("arch", [90, 80, 89])
def test_every_launch_compiles_without_a_fault(
    bench: dict[str, ModuleType], arch: int, cache: pytest.Cache
) -> None:
    resources = bench["resources"]
    chip = next(chip for chip in bench["launches"].CHIPS if chip.arch == arch)
    found = resources.launches(bench["compiled_cases"].cases(), chip)
    assert not resources.without_case({launch.kernel.__name__ for launch, _ in found.values()})
    # What reads the assembler's log is part of the key: a change of it is a new question.
    reader = Path(resources.__file__).read_text()
    keys = {key: sha256(f"{reader}{key}".encode()).hexdigest() for key in found}
    fit = set(cache.get(f"memwb/fit-{arch}", []))
    rows = {
        key: resources.compiled(launch, label, chip)
        for key, (launch, label) in found.items()
        if keys[key] not in fit
    }
    faulty = {key for key, row in rows.items() if row.faults}
    cache.set(f"memwb/fit-{arch}", [keys[key] for key in found if key not in faulty])
    print(resources.table(rows.values()))
    assert not [fault for row in rows.values() for fault in row.faults]


def test_the_command_tells_a_wrong_name(bench: dict[str, ModuleType], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        bench["resources"].main(["--only", "no_such_kernel"])
    assert "there is no kernels/no_such_kernel.py" in capsys.readouterr().err
