"""Kernels in a script: what registers itself comes along, the order works, memwb is not needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

import memwb.kernels
from memwb.engine.stitch import gather, import_block, kernel

KERNEL = '''
"""Doubles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

FACTOR: tl.constexpr = tl.constexpr(2)
BLOCK = 128


def of_no_use(x: torch.Tensor) -> torch.Tensor:
    """The reference."""
    return x * 2


@triton.jit
def _doubled_kernel(x, y, count, BLOCK_SIZE: tl.constexpr):
    here = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    inside = here < count
    tl.store(y + here, tl.load(x + here, mask=inside) * FACTOR, mask=inside)


@triton.jit
def _other_kernel(x):
    pass


@torch.library.custom_op("memwb::stitched", mutates_args=(), device_types="cpu")
def _doubled(x: torch.Tensor, sizes: Sequence[int], name: str | None = None) -> torch.Tensor:
    return x + x


@_doubled.register_kernel("cuda")
def _(x: torch.Tensor, sizes: Sequence[int], name: str | None = None) -> torch.Tensor:
    y = torch.empty_like(x)
    _doubled_kernel[(_blocks(x),)](x, y, x.numel(), BLOCK)
    return y


@_doubled.register_fake
def _(x: torch.Tensor, sizes: Sequence[int], name: str | None = None) -> torch.Tensor:
    return torch.empty_like(x)


def _blocks(x: torch.Tensor) -> int:
    return triton.cdiv(x.numel(), BLOCK)


@torch.library.custom_op("memwb::stitched_other", mutates_args=(), device_types="cpu")
def other(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@other.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _setup(ctx, inputs, output) -> None:
    ctx.sizes = inputs[1]


def _backward(ctx, gradient):
    return doubled(gradient, ctx.sizes), None, None


_doubled.register_autograd(_backward, setup_context=_setup)
other.register_autograd(lambda ctx, gradient: gradient)


def doubled(x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Twice x."""
    return _doubled(x, sizes)
'''
HOOK = '''
"""A hook."""


def patch(x):
    """Doubles."""
    from memwb.kernels.stitched import doubled

    return doubled(x, [1])


def patch_other(x):
    """Doubles, too."""
    from memwb.kernels.stitched import doubled

    return doubled(x, [2])
'''


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel and a hook beside our own."""
    pytest.importorskip("triton")
    (tmp_path / "stitched.py").write_text(KERNEL)
    (tmp_path / "stitched_hook.py").write_text(HOOK)
    monkeypatch.setattr(memwb.kernels, "__path__", [*memwb.kernels.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))


def text_of(*wanted: tuple[str, str]) -> str:
    pieces = gather(wanted, {})
    imports = import_block(line for piece in pieces for line in piece.imports)
    head = f"from __future__ import annotations\n\n{imports}\n\nNOTHING = 0\n\n\n"
    return head + "\n\n\n".join(piece.text for piece in pieces) + "\n"


def loaded(path: Path, name: str = "stitched_script") -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_definition_brings_what_registers_itself_in_an_order_that_works() -> None:
    text = text_of(("stitched_hook", "patch"), ("stitched_hook", "patch_other"))
    assert "memwb.kernels" not in text
    names = [getattr(node, "name", "") for node in ast.parse(text).body]
    assert [name for name in names if name] == [
        "_doubled_kernel", "_doubled", "_", "_", "_blocks", "_setup", "_backward", "doubled",
        "patch", "patch_other",
    ]  # fmt: skip
    assert text.count("register_autograd") == 1 and "FACTOR: tl.constexpr" in text
    assert "import triton.language as tl\n" in text


def test_what_nothing_needs_stays_behind() -> None:
    text = text_of(("stitched_hook", "patch"))
    assert not [name for name in ("of_no_use", "_other_kernel", "stitched_other") if name in text]


def test_a_name_that_a_kernel_does_not_have_is_an_error() -> None:
    with pytest.raises(LookupError, match="does not define nothing"):
        kernel("memwb.kernels.stitched", "nothing")


def test_the_text_is_linted_and_formatted(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(text_of(("stitched_hook", "patch")))
    select = "--config=lint.select=['E','F','I','B','SIM','D103']"
    for check in (["check", select], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length=100",
             "--no-cache", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_runs_twice_in_one_process_and_beside_the_kernels_own_file(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "train.py"
    path.write_text(text_of(("stitched_hook", "patch")))
    own = loaded(tmp_path / "stitched.py", "stitched_itself")
    modules = [loaded(path), loaded(path)]
    for double in (modules[0].patch, modules[1].patch, lambda x: own.doubled(x, [1])):
        x = torch.ones(3, requires_grad=True)
        double(x).sum().backward()
        assert x.grad is not None and x.grad.tolist() == [2, 2, 2]
    # Triton keeps the text that it compiles, and finds what is known as it compiles.
    jitted = modules[1]._doubled_kernel
    assert "tl.store(" in jitted.src
    assert [one.name for one in jitted.params if one.is_constexpr] == ["BLOCK_SIZE"]
