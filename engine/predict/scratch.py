"""What CUDA kernels allocate for themselves: memory that a run on the meta device does not show.

Each function tells the scratch of one operator from its arguments: what it takes from the
caching allocator before or beside its outputs and gives back when it is done. Where parts are
taken one after the other, the stage with the most bytes is told. Not told, because it depends on
the number of multiprocessors or on a library's inside, and is small: the staging buffers of
reductions over few outputs (Reduce.cuh, ``global_memory_size``), the histograms of cub's sorts
and scans, cuDNN's own part of its attention workspace, and the half-precision dK and dV of all
query heads that it may keep there for grouped heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from memwb.engine.gpus import capability
from memwb.engine.predict.sdpa import HALF

Scratch = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shapes and dtypes; one entry an allocation."""


def _up(value: int, to: int) -> int:
    return ceil(value / to) * to


def _copy(tensor: Tensor) -> Scratch:
    """What ``contiguous()`` takes: a copy, unless the tensor is contiguous."""
    return () if tensor.is_contiguous() else ((tuple(tensor.shape), tensor.dtype),)


def flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, *rest: Any, arch: str,
    **_: Any,
) -> Scratch:  # fmt: skip
    """FlashAttention-2: fp32 dQ, the rows' sums, and dK and dV of all query heads if grouped.

    ``mha_bwd`` in transformers/cuda/flash_attn/flash_api.cpp: dQ is added up in fp32
    [batch, queries, heads, size], queries rounded up to 128 and size to 32 (64 above 128);
    softmax_d is fp32 [batch, heads, queries]; with fewer key heads dK and dV are first made per
    query head. ``_flash_attention_backward`` makes the gradient and the output contiguous in
    [batch, queries, heads, size]. Deterministic algorithms (a dQ per split) are not told.
    """
    batch, heads, queries, size = query.shape
    rows = _up(queries, 128)
    width = _up(size, 32 if size <= 128 else 64)
    found: Scratch = (
        *_copy(grad.transpose(1, 2)),
        *_copy(out.transpose(1, 2)),
        ((batch, heads, rows), torch.float32),
        ((batch, rows, heads, width), torch.float32),
    )
    if key.size(1) != heads:
        expanded = ((batch, key.size(2), heads, size), query.dtype)
        found = (*found, expanded, expanded)
    return found


def package_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor,
    bounds: Tensor | None, *rest: Any, arch: str, **_: Any,
) -> Scratch:  # fmt: skip
    """The flash-attn package, for rows one after another: [tokens, heads, size].

    ``mha_varlen_bwd`` in csrc/flash_attn/flash_api.cpp (2.8): as above, but fp32 dQ and the sums
    have 128 tokens a row more than there are.
    """
    assert bounds is not None
    tokens, heads, size = query.shape
    rows = tokens + 128 * (bounds.numel() - 1)
    found: Scratch = (
        *_copy(grad),
        ((heads, rows), torch.float32),
        ((rows, heads, _up(size, 32 if size <= 128 else 64)), torch.float32),
    )
    if key.size(1) != heads:
        expanded = ((key.size(0), heads, size), query.dtype)
        found = (*found, expanded, expanded)
    return found


def efficient_forward(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any, arch: str, **_: Any
) -> Scratch:
    """Memory-efficient attention: an fp32 output where one does not fit in registers.

    ``_efficient_attention_forward`` in transformers/cuda/attention.cu: for half precision and
    value sizes above 128 (kernel_forward.h, ``kNeedsOutputAccumulatorBuffer``; the kernels that
    exist hold 64 and 128).
    """
    if query.dtype not in HALF or max(query.size(-1), value.size(-1)) <= 128:
        return ()
    batch, heads, queries, _size = query.shape
    return (((batch, queries, heads, value.size(-1)), torch.float32),)


def efficient_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, out: Tensor,
    logsumexp: Tensor, seed: Tensor, offset: Tensor, dropout: float, *rest: Any, arch: str,
    **_: Any,
) -> Scratch:  # fmt: skip
    """Memory-efficient attention: the rows' sums, and a workspace for dQ (and dK, dV).

    ``_efficient_attention_backward`` in transformers/cuda/attention_backward.cu and
    ``Params::workspace_size`` in mem_eff_attention/kernel_backward.h: dQ in fp32 tiles of
    block_i × block_j with a header of 16 bytes each; dK and dV of one block per split where they
    do not stay in registers. In fp32 the rows' sums come from a product as large as the output.
    """
    batch, heads, queries, size = query.shape
    keys, values = key.size(2), value.size(-1)
    block_i, block_j, registers = _blocks(query.dtype, max(size, values), dropout > 0, arch)
    half = query.dtype in HALF
    elements = ceil(queries / block_i) * ceil(size / block_j) * (4 + block_i * block_j)
    if half and not registers:
        splits = _splits(batch * heads, keys, block_j)
        elements += splits * block_j * (_up(size, block_i) + _up(values, block_i))
    workspace = ((batch * heads * _up(elements, 4) * 4,), torch.uint8)
    delta = ((batch, heads, queries), torch.float32)
    copied = _copy(grad.transpose(1, 2))
    if half and (registers or capability(arch) != (7, 0)):
        return (*copied, delta, workspace)
    # The product, and its fp32 factors where they are not fp32 already, are gone before the
    # workspace is taken: the larger of the two stages counts.
    product = ((batch, queries, heads, values), torch.float32)
    made: Scratch = (product,) * (3 if half else 1)
    first = (*copied, *made, delta)
    second = (*copied, delta, workspace)
    return first if nbytes(first) > nbytes(second) else second


def _blocks(dtype: torch.dtype, size: int, dropout: bool, arch: str) -> tuple[int, int, bool]:
    """Rows and columns of the kernel's block, and whether dK and dV stay in registers.

    The first kernel that fits of mem_eff_attention/kernels/cutlassB.h. 128 × 128 blocks need more
    shared memory than 7.5, 8.6, 8.9 and 12.x have (100 KiB or less).
    """
    major, minor = capability(arch)
    large = (major, minor) in ((8, 0), (9, 0), (10, 0), (10, 3))
    half = dtype in HALF
    if size <= 64:
        return 64, 64, half
    if half and size <= 96 and not dropout and (major, minor) in ((8, 6), (8, 9)):
        return 128, 64, True
    if size <= 128:
        if half and large:
            return 128, 128, True
        if (half and (major, minor) == (7, 0)) or large:
            return 128, 64, half
        return 64, 64, False
    return (128 if major >= 8 else 64), 64, False


def _splits(batches: int, keys: int, block_j: int) -> int:
    """Into how many parts the keys are split (attention_backward.cu, with dK or dV in memory)."""
    if batches >= 256 and keys <= 2 * block_j:
        return 1
    return max(1, min(ceil(keys / block_j), 200 // batches))


def cudnn_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, arch: str, **_: Any
) -> Scratch:
    """cuDNN: one workspace with dQ of all query heads and the rows' sums, in fp32.

    ``run_cudnn_SDP_bprop`` in native/cudnn/MHA.cpp takes the graph's workspace from the caching
    allocator; cudnn-frontend (node/scaled_dot_product_flash_attention.h, of 1.32) has dQ_accum
    [batch, heads, queries, size] and softmax_sum [batch, heads, queries] in it from cuDNN 9.0
    on. What the library itself adds is not published.
    """
    batch, heads, queries, size = query.shape
    return (((batch * heads * queries * (size + 1) * 4,), torch.uint8),)


def safe_softmax(scores: Tensor, dim: int, *rest: Any, arch: str, **_: Any) -> Scratch:
    """The math path's softmax looks for rows that are masked altogether.

    ``_safe_softmax`` in transformers/attention.cpp: a boolean for each score and for each row,
    beside the output.
    """
    rows = list(scores.shape)
    rows[dim] = 1
    return ((tuple(scores.shape), torch.bool), (tuple(rows), torch.bool))


def embedding_backward(
    grad: Tensor, indices: Tensor, rows: int, padding: int, scaled: bool, *, arch: str
) -> Scratch:
    """A table's gradient of more than 3072 tokens: sorted indices, and sums of parts of rows.

    ``embedding_dense_backward_cuda`` in native/cuda/Embedding.cu and
    ``embedding_backward_cuda_kernel`` in EmbeddingBackwardKernel.cu: equal indices are cut into
    runs of at most 10 (NROWS_PER_THREAD), and each run is added up in fp32, for
    n / 10 + min(n, rows) runs at most. Tables so small that the sums are made by atomics
    (rows a thirtieth of the tokens) are told the same.
    """
    count = indices.numel()
    made = _copy(grad)
    if count <= 3072 and not scaled:
        return made
    segments = min(count, rows)
    parts = count // 10 + segments
    index = indices.dtype
    wide = torch.float32 if grad.dtype in HALF else grad.dtype
    return (
        *made,
        *(((count,), index),) * 3,
        *(((segments,), index),) * 2,
        ((parts,), index),
        ((parts, grad.size(-1)), wide),
    )


def index_put(
    self: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False,
    *rest: Any, arch: str, **_: Any,
) -> Scratch:  # fmt: skip
    """Accumulating into rows sorts the indices: themselves, their order, both of them sorted.

    ``index_put_with_sort_kernel`` in native/cuda/Indexing.cu; cub's sort by pairs takes the
    double once more (native/cuda/cub.cu, ``radix_sort_pairs``).
    """
    if not accumulate:
        return ()
    found = [index for index in indices if index is not None]
    if not found:
        return ()
    count = torch.broadcast_tensors(*found)[0].numel()  # type: ignore[no-untyped-call]
    return (((count,), torch.int64),) * 6


def nbytes(found: Scratch) -> int:
    """How many bytes it is, before an allocator rounds them."""
    return sum(prod(shape) * dtype.itemsize for shape, dtype in found)


SCRATCH: dict[str, Callable[..., Scratch]] = {
    "aten._scaled_dot_product_flash_attention_backward.default": flash_backward,
    "aten._flash_attention_backward.default": package_backward,
    "aten._scaled_dot_product_efficient_attention.default": efficient_forward,
    "aten._scaled_dot_product_efficient_attention_backward.default": efficient_backward,
    "aten._scaled_dot_product_cudnn_attention_backward.default": cudnn_backward,
    "aten._safe_softmax.default": safe_softmax,
    "aten.embedding_dense_backward.default": embedding_backward,
    "aten.index_put.default": index_put,
    "aten.index_put_.default": index_put,
    "aten._index_put_impl_.default": index_put,
}
"""By an operator's overload name. Operators that are not here take no scratch, or little."""
