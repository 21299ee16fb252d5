"""Operators whose kernels are Python code, run on meta so that what they allocate is seen.

The fake kernels of such operators give results and no temporaries. Where the target's own kernel
is made of torch's operators it is called instead, with the counting mode on. Only operators that
are named here are: other kernels are C code that is handed addresses, of which meta has none.
And all of memwb's own are, whose functions for a GPU are written to run without values when
Triton launches nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

Kernel = Callable[..., Any]
"""Called with the operator, then with its arguments."""

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

_LOSS = (
    "torch_nn._linear_cross_entropy_batch_chunked.default",
    "torch_nn._linear_cross_entropy_batch_chunked_no_reduction.default",
)


def kernels(kind: str) -> Mapping[str, Kernel]:
    """The kernels of a target of that kind for one run, by the operator's overload name."""
    shared: dict[str, Kernel] = dict.fromkeys(_LOSS, as_registered)
    if kind == "cpu":
        # bitsandbytes/backends/cpu/ops.py and default/ops.py, 0.50.
        return {
            **shared,
            "bitsandbytes.optimizer_update_32bit.default": as_registered,
            "bitsandbytes.optimizer_update_8bit_blockwise.default": as_registered,
            "bitsandbytes.int8_vectorwise_quant.default": as_registered,
            "bitsandbytes.gemm_4bit.default": as_registered,
            "bitsandbytes.quantize_4bit.default": quantize_4bit(),
        }
    return {
        **shared,
        "bitsandbytes.gemm_4bit.default": gemm_4bit,
        "bitsandbytes.int8_vectorwise_quant.default": int8_vectorwise_quant,
        "bitsandbytes.int8_mm_dequant.default": int8_mm_dequant,
        "bitsandbytes.int8_mixed_scaled_mm.default": as_registered,
        "bitsandbytes.int8_scaled_mm.default": as_registered,
        "aten.addmm.dtype_out": added,
    }


def added(func: Any, *args: Any, out: Tensor, **kwargs: Any) -> Tensor:
    """A product that is added in another precision, to memory that is there: nothing is taken.

    Meta's own, a decomposition in torch 2.11, takes the type for a factor.
    """
    return out


def own_kernel(kind: str) -> Kernel:
    """How an operator of memwb's kernels is run for a target of that kind."""
    return as_registered if kind == "cpu" else for_cuda


def for_cuda(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The function that is registered for CUDA. It runs on meta where Triton launches nothing."""
    return func.redispatch(_CUDA, *args, **kwargs)


@contextlib.contextmanager
def nothing_launched() -> Iterator[None]:
    """Have Triton's kernels do nothing while this lasts: what surrounds them allocates as ever.

    Launching is the one thing that asks for a GPU and for addresses.
    """
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        # Not for this platform: what needs it is refused before (see run.py).
        yield
        return
    with mock.patch.object(JITFunction, "run", lambda *_, **__: None):
        yield


@contextlib.contextmanager
def grouped_products() -> Iterator[None]:
    """Have mixtures of experts multiply on meta in every precision, as CPUs and GPUs do.

    meta's kernel of ``aten::_grouped_mm`` takes bf16 alone. Those of devices take fp32 and fp16
    too, one product a group into the same result (native/GroupedMMUtils.h of torch 2.11 to 2.13,
    ``_grouped_mm_fallback``).
    """
    registered: Any = torch._meta_registrations
    usual = getattr(registered, "_meta_grouped_mm_common", None)
    empty = getattr(registered, "_create_grouped_mm_output_tensor", None)
    if usual is None or empty is None:
        # Names of torch's own, which another version may have changed: then bf16 alone it is.
        yield
        return

    def product(mat_a: Tensor, mat_b: Tensor, *rest: Any, **options: Any) -> Any:
        scaled = (rest[0] if rest else options.get("scale_a")) is not None
        if scaled or mat_a.dtype == torch.bfloat16 or mat_a.dtype != mat_b.dtype:
            return usual(mat_a, mat_b, *rest, **options)
        return empty(mat_a, mat_b, options.get("offs"), options.get("out_dtype"))

    with mock.patch.object(registered, "_meta_grouped_mm_common", product):
        yield


def as_registered(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The kernel that is registered for a CPU, or for all devices."""
    return func.redispatch(_CPU, *args, **kwargs)


def quantize_4bit() -> Kernel:
    """bitsandbytes' kernel for CPUs, which keeps the bounds between the 16 values once made.

    The library keeps them for the life of the process; here they are those of one run.
    """
    kept: dict[tuple[str, Any], Any] = {}

    def kernel(func: Any, *args: Any, **kwargs: Any) -> Any:
        from bitsandbytes.backends import utils
        from bitsandbytes.backends.default import ops

        make = getattr(ops, "_get_4bit_quantize_bounds", None)
        if make is None:
            return as_registered(func, *args, **kwargs)

        def bounds(quant_type: str, device: Any) -> Any:
            key = (quant_type, device)
            if key not in kept:
                with mock.patch.dict(utils._code_4bit_cache, clear=True):
                    made = make.__wrapped__(quant_type, device)
                    kept[key] = (made, dict(utils._code_4bit_cache))
            return kept[key][0]

        with mock.patch.object(ops, "_get_4bit_quantize_bounds", bounds):
            return as_registered(func, *args, **kwargs)

    return kernel


def gemm_4bit(
    func: Any, A: Tensor, B: Tensor, shape: Any, absmax: Tensor, blocksize: int, quant_type: str,
    bias: Tensor | None = None, absmax_8bit: Tensor | None = None, code: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """bitsandbytes on CUDA: the weight expanded, then a product; fused for few rows.

    backends/cuda/ops.py: past 1536 rows always expanded, up to 4 never. In between the library
    weighs rows against the number of multiprocessors; the expanded weight is told there, which
    backward needs in any case.
    """
    if A.numel() // A.shape[-1] <= 4:
        return A.new_empty((*A.shape[:-1], shape[0]))
    operators: Any = torch.ops.bitsandbytes
    if absmax_8bit is not None and offset is not None:
        absmax = operators.dequantize_blockwise(absmax_8bit, absmax, code, 256, torch.float32)
        absmax = absmax + offset
    weight = operators.dequantize_4bit(B, absmax, blocksize, quant_type, shape, A.dtype)
    return torch.nn.functional.linear(A, weight, bias)


def int8_vectorwise_quant(
    func: Any, A: Tensor, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """bitsandbytes on CUDA: rows of 8 bits and their scales; values are taken to have no outliers.

    backends/cuda/ops.py; which columns pass the threshold is only known of real values.
    """
    scales = torch.empty(A.numel() // A.shape[-1], device=A.device, dtype=torch.float32)
    rows = torch.empty(A.shape, device=A.device, dtype=torch.int8)
    if threshold == 0.0:
        return rows, scales, None
    outliers = A.abs() >= threshold
    outliers.any()
    return rows, scales, torch.empty((0,), device=A.device, dtype=torch.int64)


def int8_mm_dequant(
    func: Any, A: Tensor, row_stats: Tensor, col_stats: Tensor,
    dtype: torch.dtype | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """bitsandbytes on CUDA: the kernel writes fp16, which is converted afterwards."""
    out = torch.empty_like(A, dtype=torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        out.add_(bias)
    return out.to(dtype or torch.float16)
