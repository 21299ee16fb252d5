"""The shapes at which every kernel of kernels/ is compiled ahead of time (see resources.py).

The first case of each kernel is that of the race: sizes divisible by 16, bf16. Those after it are
what compiles otherwise: odd sizes, other precisions, options, the widest rows. Backward runs too.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
WORDS = {BF16: "bf16", FP16: "fp16", FP32: "fp32"}


class Case(NamedTuple):
    """A kernel file, a label, and what calls its operators (backward too) on meta tensors."""

    kernel: str
    label: str
    call: Callable[[], object]


def kernel_files() -> list[str]:
    """The names of the files in kernels/."""
    package = importlib.import_module("memwb.kernels")
    return [info.name for info in pkgutil.iter_modules(package.__path__)]


def cases() -> list[Case]:
    """Every case of a file that is there; a kernel that none of them launches fails the gate."""
    there = kernel_files()
    every = [*_losses(), *_norms(), *_gates(), *_ropes(), *_adapters()]
    return [case for case in every if case.kernel in there]


def _meta(*shape: int, dtype: torch.dtype = BF16, grad: bool = True) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def _function(file: str, name: str = "") -> Any:
    return getattr(importlib.import_module(f"memwb.kernels.{file}"), name or file)


def _backward(outputs: Any) -> None:
    """Send gradients back through every output."""
    found = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(found, [torch.empty_like(one) for one in found])


def _losses() -> list[Case]:
    shapes: list[tuple[tuple[int, int, int], torch.dtype, dict[str, Any]]] = [
        ((8192, 4096, 128256), BF16, {}),
        ((123, 515, 50257), BF16, {"bias": True, "softcap": 30.0, "label_smoothing": 0.1}),
        ((4096, 2304, 256000), BF16, {"frozen": True, "softcap": 30.0}),
        ((512, 1024, 32000), FP32, {"bias": True, "z_loss": 1e-4}),
        ((512, 1024, 32000), FP16, {"reduction": "none"}),
    ]

    def made(file: str, shape: tuple[int, int, int], dtype: torch.dtype, more: Any) -> Case:
        (tokens, hidden, words), options = shape, dict(more)
        frozen, bias = options.pop("frozen", False), options.pop("bias", False)

        def call() -> None:
            labels = torch.empty(tokens, dtype=torch.int64, device="meta")
            given = (_meta(words, dtype=dtype),) if bias else ()
            weight = _meta(words, hidden, dtype=dtype, grad=not frozen)
            states = _meta(tokens, hidden, dtype=dtype)
            _backward(_function(file)(states, weight, labels, *given, **options))

        told = " ".join(f"{key} {value}" for key, value in more.items())
        label = f"{tokens}×{hidden}×{words} {WORDS[dtype]} {told}".strip()
        return Case(file, label, call)

    files = ("fused_linear_cross_entropy", "cut_cross_entropy")
    return [made(file, *shape) for file in files for shape in shapes]


WIDEST = 0
"""Of the columns: as many as the kernel's file says that it can have at most."""
_ROWS = ((8192, 4096, BF16), (31, 123, FP32), (123, 4097, FP16), (2048, WIDEST, BF16))


def _norms() -> list[Case]:
    def made(file: str, residual: int, rows: int, size: int, dtype: torch.dtype) -> Case:
        name = f"add_{file}" if residual else file

        def call() -> None:
            columns = size or _function(file, f"{file.upper()}_WIDEST")
            inputs = [_meta(rows, columns, dtype=dtype) for _ in range(1 + residual)]
            inputs += [_meta(columns, dtype=dtype) for _ in range(1 + (file == "layer_norm"))]
            _backward(_function(file, name)(*inputs))

        label = f"{name} {rows}×{size or 'widest'} {WORDS[dtype]}"
        return Case(file, label, call)

    found = [
        made(file, residual, *row)
        for file in ("rms_norm", "layer_norm")
        for row in _ROWS
        for residual in (0, 1)
    ]

    def gemma() -> None:
        _backward(_function("rms_norm")(_meta(8192, 2304), _meta(2304), offset=1.0))

    def llama() -> None:
        _backward(_function("rms_norm")(_meta(8192, 4096), _meta(4096), cast_first=True))

    return [*found, Case("rms_norm", "Gemma's", gemma), Case("rms_norm", "Llama's", llama)]


def _gates() -> list[Case]:
    found = []
    options: dict[str, list[dict[str, Any]]] = {
        "swiglu": [{}], "geglu": [{"tanh": True}, {"tanh": False}]
    }  # fmt: skip
    for file, given in options.items():
        for more in given:
            for rows, columns, dtype in ((8192, 14336, BF16), (31, 123, FP32), (123, 4097, FP16)):

                def call(
                    file: str = file, more: dict[str, Any] = more, rows: int = rows,
                    columns: int = columns, dtype: torch.dtype = dtype,
                ) -> None:  # fmt: skip
                    inputs = [_meta(rows, columns, dtype=dtype) for _ in range(2)]
                    _backward(_function(file)(*inputs, **more))

                found.append(
                    Case(file, f"{rows}×{columns} {WORDS[dtype]} {more or ''}".strip(), call)
                )

            def packed(file: str = file, more: dict[str, Any] = more) -> None:
                _backward(_function(file, f"{file}_packed")(_meta(8192, 2 * 8192), **more))

            found.append(Case(file, f"packed 8192×8192 {more or ''}".strip(), packed))
    return found


def _ropes() -> list[Case]:
    def made(batch: int, length: int, heads: int, shared: int, width: int, rotary: int) -> Case:
        def call() -> None:
            both = [
                _meta(batch, length, count, width, grad=False).transpose(1, 2).requires_grad_()
                for count in (heads, shared)
            ]
            turns = [_meta(batch, length, rotary, grad=False) for _ in range(2)]
            _backward(_function("rope")(*both, *turns))

        return Case("rope", f"{batch}×{length} {heads}+{shared}×{width}, {rotary} turned", call)

    return [made(1, 8192, 32, 8, 128, 128), made(2, 31, 3, 1, 80, 32), made(1, 512, 4, 1, 256, 256)]


def _adapters() -> list[Case]:
    shapes = [
        (8192, 14336, 4096, 16, BF16, "silu"),
        (31, 123, 77, 3, FP32, "gelu"),
        (512, 9216, 2304, 16, FP16, "tanh"),
    ]

    def made(
        rows: int, columns: int, width: int, rank: int, dtype: torch.dtype, activation: str
    ) -> Case:
        def call() -> None:
            gate, values = (_meta(rows, columns, dtype=dtype) for _ in range(2))
            weight = _meta(width, columns, dtype=dtype, grad=False)
            down, up = _meta(rank, columns, dtype=dtype), _meta(width, rank, dtype=dtype)
            mlp = _function("lora_mlp")
            _backward(mlp(gate, values, weight, None, down, up, 2.0, activation))

        label = f"{rows} {columns}→{width} r{rank} {WORDS[dtype]} {activation}"
        return Case("lora_mlp", label, call)

    return [made(*shape) for shape in shapes]
