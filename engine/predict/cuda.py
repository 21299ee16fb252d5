"""Facts of torch's CUDA kernels for a run on the meta device. Not verified on a GPU yet.

Attention is in ``sdpa.py`` and what operators allocate for themselves in ``scratch.py``; here are
the workspaces of the matrix library, and the functions that go another way on CUDA than on meta.
Source of all: torch 2.11 to 2.13.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memwb.engine.gpus import capability
from memwb.engine.predict.scratch import SCRATCH, Scratch, nbytes
from memwb.engine.predict.sdpa import Kernel, choose_sdpa, order, sdpa

__all__ = [
    "INTERCEPT",
    "SCRATCH",
    "Kernel",
    "Scratch",
    "Workspace",
    "choose_sdpa",
    "nbytes",
    "order",
    "sdpa",
    "workspaces",
]


class Workspace(NamedTuple):
    """Memory of a library that torch takes from the caching allocator once and keeps."""

    name: str
    bytes: int
    when: str
    """``forward``: with the first matrix product of the main thread; ``backward``: with the
    first of the autograd thread."""


def workspaces(arch: str) -> tuple[Workspace, ...]:
    """cuBLAS's workspaces: one for the main thread, one for the thread that runs backward.

    native aten/src/ATen/cuda/CublasHandlePool.cpp: a workspace belongs to a handle and a stream;
    handles belong to threads (``PoolWindow`` is thread_local), and autograd runs a CUDA graph's
    backward in a thread of its own, so that there are two, also where activations are computed a
    second time. ``parseChosenWorkspaceSize``: 32 MiB on 9.x, 10.x and 12.x, else 2 × 4096 + 8 ×
    16 KiB = 8,519,680 bytes; CUBLAS_WORKSPACE_CONFIG overrides it. cublasLt (addmm with a bias)
    shares them (``unified_cublas_and_lt_workspaces``); what it takes for itself with
    TORCH_CUBLASLT_UNIFIED_WORKSPACE=0, torch's other setting, is not modelled.
    """
    major, _ = capability(arch)
    size = 32 * 2**20 if major in (9, 10, 12) else 2 * 4096 * 1024 + 8 * 16 * 1024
    parts = re.findall(r":([0-9]+):([0-9]+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if parts:
        size = sum(int(kib) * 1024 * int(count) for kib, count in parts)
    return (
        Workspace("cuBLAS workspace", size, "forward"),
        Workspace("cuBLAS workspace of the backward thread", size, "backward"),
    )


# Functions that take another path on CUDA than on meta. Each has the signature of the function
# that it stands for, and does what that one does where CUDA has no path of its own.


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``F.dropout``: the fused kernel keeps a boolean mask, not noise of the input's dtype.

    ``is_fused_kernel_acceptable`` in native/Dropout.cpp: training, 0 < p < 1, not in place.
    """
    if training and not inplace and 0 < p < 1 and input.numel():
        out: Tensor = torch.native_dropout(input, p, True)[0]
        return out
    return F.dropout(input, p, training, inplace)


def torch_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """``torch.dropout``, likewise."""
    return dropout(input, p, train)


def _softmax(plain: Callable[..., Tensor], fused: Any) -> Callable[..., Tensor]:
    """An fp32 softmax of fp16 values makes no fp32 copy of its input.

    ``softmax`` in native/SoftMax.cpp takes half_to_float for Half alone; bf16 is copied.
    """

    def replaced(input: Tensor, dim: int | None = None, *rest: Any, **kwargs: Any) -> Tensor:
        dtype = kwargs.get("dtype") or next((a for a in rest if isinstance(a, torch.dtype)), None)
        if dim is not None and input.dtype == torch.float16 and dtype == torch.float32:
            out: Tensor = fused(input, dim, True)
            return out
        return plain(input, dim, *rest, **kwargs)

    return replaced


class _FusedRMSNorm(torch.autograd.Function):
    """``aten::_fused_rms_norm`` as CUDA has it: the output, and one fp32 value a row is kept.

    native/cuda/layer_norm_kernel.cu. The operator has no kernel on meta, where it falls apart
    into its formula; its backward has one.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, shape: list[int], weight: Tensor | None, eps: float | None
    ) -> Tensor:
        rows = (*input.shape[: -len(shape)], *(1 for _ in shape))
        rstd = input.new_empty(rows, dtype=torch.float32)
        ctx.save_for_backward(input, weight, rstd)
        ctx.shape = shape
        return torch.empty_like(input, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, weight, rstd = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        made, of_weight = torch.ops.aten._fused_rms_norm_backward(
            grad, input, ctx.shape, rstd, weight, wanted
        )
        return made, None, of_weight, None


def rms_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``F.rms_norm``: fused where the weight has the input's dtype (native/layer_norm.cpp)."""
    half_or_single = input.dtype in (torch.float16, torch.bfloat16, torch.float32)
    if half_or_single and (weight is None or weight.dtype == input.dtype):
        shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
        out: Tensor = _FusedRMSNorm.apply(input, shape, weight, eps)  # type: ignore[no-untyped-call]
        return out
    return F.rms_norm(input, normalized_shape, weight, eps)


INTERCEPT: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.dropout: dropout,
    torch.dropout: torch_dropout,
    F.softmax: _softmax(F.softmax, torch.ops.aten._softmax),
    torch.softmax: _softmax(torch.softmax, torch.ops.aten._softmax),
    Tensor.softmax: _softmax(Tensor.softmax, torch.ops.aten._softmax),
    F.log_softmax: _softmax(F.log_softmax, torch.ops.aten._log_softmax),
    torch.log_softmax: _softmax(torch.log_softmax, torch.ops.aten._log_softmax),
    Tensor.log_softmax: _softmax(Tensor.log_softmax, torch.ops.aten._log_softmax),
    F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
}
"""What a torch-function mode calls instead of a function when the target is a GPU.

``F.layer_norm`` needs none: on meta it keeps fp32 means and deviations, as CUDA does.
"""
