"""RMSNorm of rows, alone or of the sum with a residual: x / sqrt(mean(x²) + eps) · (offset + w).

For backward only the input and one number a row are kept: of the sum, the sum itself, which the
next residual needs anyway. Rows are read once in forward and once in backward.

``offset`` is 1 where weights are stored as the difference from one (Gemma). ``cast_first`` says
where a family rounds to the input's precision: before the weight (Llama; the result then has the
wider precision of input and weight) or after it. Inside, everything is fp32.

A last dimension of up to 16,384, fp32, fp16 or bf16; on a CPU also fp64. Rows may lie apart in
memory (a transposed view); they are not copied unless their own values do.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

RMS_NORM_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside input and result are some MiB."""

RMS_NORM_WIDEST = 2**14
"""Values of a row that one program still holds in registers."""

RMS_NORM_SUMMED = 2**13
"""Those beside which it also holds their shares of a weight's gradient."""


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    cast_first: bool = False,
) -> torch.Tensor:
    """The norm of each row of ``x``, scaled by ``weight`` if there is one."""
    _rms_norm_fits(x, weight)
    y, _ = _rms_norm(_rms_norm_rows(x), weight, eps, offset, cast_first)
    out: torch.Tensor = y if y.shape == x.shape else y.view(x.shape)
    return out


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    cast_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of ``x + residual``, and that sum, in its own precision: the next residual."""
    if x.shape != residual.shape:
        raise ValueError(f"the residual is {tuple(residual.shape)}, its addend {tuple(x.shape)}")
    _rms_norm_fits(x, weight)
    rows = _rms_norm_rows(x)
    y, _, total = _add_rms_norm(rows, _rms_norm_rows(residual), weight, eps, offset, cast_first)
    return (y, total) if y.shape == x.shape else (y.view(x.shape), total.view(x.shape))


def rms_norm_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    cast_first: bool = False,
) -> torch.Tensor:
    """The same in plain torch, operator by operator as the families have it."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return normal.to(x.dtype)
    if cast_first:
        return (offset + weight) * normal.to(x.dtype)
    return (normal * (offset + weight.to(wide.dtype))).to(x.dtype)


def _rms_norm_fits(x: torch.Tensor, weight: torch.Tensor | None) -> None:
    """Raise ValueError for a weight of another size: a GPU would read past its end."""
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"weight is {tuple(weight.shape)}, rows have {x.shape[-1]:,} values")


def _rms_norm_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows over one to three dimensions, with the values of each side by side in memory."""
    x = x.flatten(0, -2) if x.dim() > 4 else x.unsqueeze(0) if x.dim() == 1 else x
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("memwb::rms_norm", mutates_args=(), device_types="cpu")
def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float, cast_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed rows and 1 / sqrt(mean(x²) + eps) of each row."""
    return _rms_norm_by_chunks(x, weight, eps, offset, cast_first)


@torch.library.custom_op("memwb::add_rms_norm", mutates_args=(), device_types="cpu")
def _add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    cast_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normed rows, the sum ``x + residual`` that they are of, and 1 / root of each row."""
    total = torch.add(x, residual, out=_add_rms_norm_total(x, residual))
    return (*_rms_norm_by_chunks(total, weight, eps, offset, cast_first), total)


@torch.library.custom_op("memwb::rms_norm_backward", mutates_args=(), device_types="cpu")
def _rms_norm_backward(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    rstd: torch.Tensor,
    offset: float,
    cast_first: bool,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of ``x``, with that of the sum added, and of the weight: empty if not asked."""
    dx = torch.empty_like(x)
    sums = rstd.new_zeros(x.shape[-1] if weight_gradient else 0)
    factor = None if weight is None else offset + weight.to(rstd.dtype)
    dim, parts = _rms_norm_parts(x)
    for start, length in parts:
        roots = rstd.narrow(dim, start, length).unsqueeze(-1)
        normal = x.narrow(dim, start, length) * roots
        g = grad.narrow(dim, start, length).to(rstd.dtype)
        if weight_gradient:
            scaled = normal.to(x.dtype).to(rstd.dtype) if cast_first else normal
            sums += (g * scaled).flatten(0, -2).sum(0)
        if factor is not None:
            g = g * factor
        part = torch.addcmul(g, normal, (g * normal).mean(-1, keepdim=True), value=-1).mul_(roots)
        if grad_total is not None:
            part += grad_total.narrow(dim, start, length)
        dx.narrow(dim, start, length).copy_(part)
    return dx, sums if weight is None else sums.to(weight.dtype)


def _rms_norm_by_chunks(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float, cast_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    y, rstd = _rms_norm_outputs(x, weight, cast_first)
    factor = None if weight is None else offset + weight.to(rstd.dtype)
    dim, parts = _rms_norm_parts(x)
    for start, length in parts:
        normal = x.narrow(dim, start, length).to(rstd.dtype, copy=True)
        roots = normal.square().mean(-1).add_(eps).rsqrt_()
        rstd.narrow(dim, start, length).copy_(roots)
        normal.mul_(roots.unsqueeze(-1))
        if factor is not None:
            normal = normal.to(x.dtype).to(rstd.dtype) if cast_first else normal
            normal *= factor
        y.narrow(dim, start, length).copy_(normal)
    return y, rstd


def _rms_norm_outputs(
    x: torch.Tensor, weight: torch.Tensor | None, cast_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What forward makes: rows in the family's precision, and a number for each in fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    mixed = cast_first and weight is not None
    dtype = torch.promote_types(x.dtype, weight.dtype) if mixed and weight is not None else x.dtype
    return torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[:-1], dtype=wide)


def _add_rms_norm_total(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))


def _rms_norm_parts(x: torch.Tensor) -> tuple[int, list[tuple[int, int]]]:
    """The longest dimension of rows, and spans of it that are about a chunk each."""
    rows = x.shape[:-1]
    if not rows or x.numel() == 0:
        return 0, []
    dim = max(range(len(rows)), key=rows.__getitem__)
    step = max(1, RMS_NORM_CHUNK * rows[dim] // x.numel())
    return dim, [(at, min(step, rows[dim] - at)) for at in range(0, rows[dim], step)]


@_rms_norm.register_fake
def _rms_norm_fake(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float, cast_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _rms_norm_outputs(x, weight, cast_first)


@_add_rms_norm.register_fake
def _add_rms_norm_fake(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    cast_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = _add_rms_norm_total(x, residual)
    return (*_rms_norm_outputs(total, weight, cast_first), total)


@_rms_norm_backward.register_fake
def _rms_norm_backward_fake(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    rstd: torch.Tensor,
    offset: float,
    cast_first: bool,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    like = rstd if weight is None else weight
    return torch.empty_like(x), like.new_empty(x.shape[-1] if weight_gradient else 0)


def _rms_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, _, ctx.offset, ctx.cast_first = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _rms_norm_gradients(ctx: Any, grad: torch.Tensor | None, _: Any) -> tuple[Any, ...]:
    x, weight, rstd = ctx.saved_tensors
    if grad is None:
        return None, None, None, None, None
    wanted = weight is not None and ctx.needs_input_grad[1]
    dx, dw = _rms_norm_backward(grad, None, x, weight, rstd, ctx.offset, ctx.cast_first, wanted)
    return dx, dw if wanted else None, None, None, None


def _add_rms_norm_setup(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]
) -> None:
    x, residual, weight, _, ctx.offset, ctx.cast_first = inputs
    _, rstd, total = output
    ctx.dtypes = x.dtype, residual.dtype
    ctx.save_for_backward(total, weight, rstd)
    ctx.mark_non_differentiable(rstd)
    ctx.set_materialize_grads(False)


def _add_rms_norm_gradients(
    ctx: Any, grad: torch.Tensor | None, _: Any, grad_total: torch.Tensor | None
) -> tuple[Any, ...]:
    total, weight, rstd = ctx.saved_tensors
    dx, dw = grad_total, None
    if grad is not None:
        wanted = weight is not None and ctx.needs_input_grad[2]
        dx, dw = _rms_norm_backward(
            grad, grad_total, total, weight, rstd, ctx.offset, ctx.cast_first, wanted
        )
        dw = dw if wanted else None
    both = (None, None) if dx is None else (dx.to(dtype) for dtype in ctx.dtypes)
    return *both, dw, None, None, None


_rms_norm.register_autograd(_rms_norm_gradients, setup_context=_rms_norm_setup)
_add_rms_norm.register_autograd(_add_rms_norm_gradients, setup_context=_add_rms_norm_setup)


def _rms_norm_device(x: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if x.is_meta else x.get_device())


@triton.jit
def _rms_norm_places(row, size1, size2, stride0, stride1, stride2):  # type: ignore[no-untyped-def]
    """Where rows begin that are numbered through over three dimensions."""
    first = (row // (size1 * size2)).to(tl.int64)
    second = (row // size2 % size1).to(tl.int64)
    third = (row % size2).to(tl.int64)
    return first * stride0 + second * stride1 + third * stride2


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm_forward_kernel(  # type: ignore[no-untyped-def]
    x, residual, weight, y, rstd, total, rows, columns, size1, size2, x0, x1, x2, r0, r1, r2, y0,
    y1, y2, t0, t1, t2, eps, offset, HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    CAST_FIRST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of whole rows: read once, written once."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    there = (row < rows)[:, None] & (column < columns)
    at = _rms_norm_places(row, size1, size2, x0, x1, x2)[:, None] + column
    values = tl.load(x + at, mask=there, other=0.0)
    if HAS_RESIDUAL:
        at = _rms_norm_places(row, size1, size2, r0, r1, r2)[:, None] + column
        added = tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
        # Rounded as it is kept: backward sees this sum, and the norm is of what it sees.
        values = (values.to(tl.float32) + added).to(total.dtype.element_ty)
        at = _rms_norm_places(row, size1, size2, t0, t1, t2)[:, None] + column
        tl.store(total + at, values, mask=there)
    wide = values.to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, axis=1) / columns + eps)
    tl.store(rstd + row, root, mask=row < rows)
    normal = wide * root[:, None]
    if HAS_WEIGHT:
        if CAST_FIRST:
            normal = normal.to(values.dtype).to(tl.float32)
        factor = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
        normal = normal * (offset + factor)
    at = _rms_norm_places(row, size1, size2, y0, y1, y2)[:, None] + column
    tl.store(y + at, normal.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm_backward_kernel(  # type: ignore[no-untyped-def]
    grad, grad_total, x, weight, rstd, dx, partial, rows, columns, size1, size2, g0, g1, g2, t0,
    t1, t2, x0, x1, x2, d0, d1, d2, offset, HAS_TOTAL: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    WEIGHT_GRADIENT: tl.constexpr, CAST_FIRST: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Every n-th tile of rows, n programs in all; each adds up its share of the weight's gradient.

    The shares lie in ``partial`` (programs, columns): which program adds what is fixed.
    """
    column = tl.arange(0, BLOCK)[None, :]
    if HAS_WEIGHT and WEIGHT_GRADIENT:
        factor = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32) + offset
    if WEIGHT_GRADIENT:
        sums = tl.zeros([ROWS, BLOCK], tl.float32)
    step = tl.num_programs(0) * ROWS
    for start in tl.range(tl.program_id(0) * ROWS, rows, step, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & (column < columns)
        at = _rms_norm_places(row, size1, size2, g0, g1, g2)[:, None] + column
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        at = _rms_norm_places(row, size1, size2, x0, x1, x2)[:, None] + column
        values = tl.load(x + at, mask=there, other=0.0)
        root = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        normal = values.to(tl.float32) * root
        if WEIGHT_GRADIENT:
            if CAST_FIRST:
                sums += g * normal.to(values.dtype).to(tl.float32)
            else:
                sums += g * normal
        if HAS_WEIGHT:
            if not WEIGHT_GRADIENT:
                # The only round: not held in registers while the rows are waited for.
                factor = tl.load(weight + column, mask=column < columns, other=0.0)
                factor = factor.to(tl.float32) + offset
            g = g * factor
        slope = tl.sum(g * normal, axis=1)[:, None] / columns
        out = (g - normal * slope) * root
        if HAS_TOTAL:
            at = _rms_norm_places(row, size1, size2, t0, t1, t2)[:, None] + column
            out += tl.load(grad_total + at, mask=there, other=0.0).to(tl.float32)
        at = _rms_norm_places(row, size1, size2, d0, d1, d2)[:, None] + column
        tl.store(dx + at, out.to(dx.dtype.element_ty), mask=there)
    if WEIGHT_GRADIENT:
        at = tl.program_id(0).to(tl.int64) * columns + column
        tl.store(partial + at, tl.sum(sums, axis=0)[None, :], mask=column < columns)


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm_columns_kernel(  # type: ignore[no-untyped-def]
    grad, x, rstd, partial, rows, columns, size1, size2, g0, g1, g2, x0, x1, x2,
    CAST_FIRST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The weight's gradient of some columns, for wide rows: of every n-th tile of them."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & (column < columns)
        at = _rms_norm_places(row, size1, size2, g0, g1, g2)[:, None] + column
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        at = _rms_norm_places(row, size1, size2, x0, x1, x2)[:, None] + column
        values = tl.load(x + at, mask=there, other=0.0)
        root = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        normal = values.to(tl.float32) * root
        if CAST_FIRST:
            normal = normal.to(values.dtype).to(tl.float32)
        sums += g * normal
    at = tl.program_id(0).to(tl.int64) * columns + column
    tl.store(partial + at, tl.sum(sums, axis=0)[None, :], mask=column < columns)


@_rms_norm.register_kernel("cuda")
def _rms_norm_cuda(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float, cast_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    y, rstd = _rms_norm_outputs(x, weight, cast_first)
    _rms_norm_launch(x, None, weight, y, rstd, None, eps, offset, cast_first)
    return y, rstd


@_add_rms_norm.register_kernel("cuda")
def _add_rms_norm_cuda(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    cast_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = _add_rms_norm_total(x, residual)
    y, rstd = _rms_norm_outputs(total, weight, cast_first)
    _rms_norm_launch(x, residual, weight, y, rstd, total, eps, offset, cast_first)
    return y, rstd, total


def _rms_norm_launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    y: torch.Tensor,
    rstd: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
    offset: float,
    cast_first: bool,
) -> None:
    columns, rows = x.shape[-1], rstd.numel()
    block, tile, warps = _rms_norm_tile(x)
    if rows == 0:
        return
    with _rms_norm_device(x):
        _rms_norm_forward_kernel[(triton.cdiv(rows, tile),)](
            x, residual, weight, y, rstd, total, rows, columns, *_rms_norm_sizes(x),
            *_rms_norm_strides(x), *_rms_norm_strides(x if residual is None else residual),
            *_rms_norm_strides(y), *_rms_norm_strides(x if total is None else total), eps, offset,
            HAS_RESIDUAL=residual is not None, HAS_WEIGHT=weight is not None, CAST_FIRST=cast_first,
            ROWS=tile, BLOCK=block, num_warps=warps,
        )  # fmt: skip


@_rms_norm_backward.register_kernel("cuda")
def _rms_norm_backward_cuda(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    rstd: torch.Tensor,
    offset: float,
    cast_first: bool,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    columns, rows = x.shape[-1], rstd.numel()
    block, tile, warps = _rms_norm_tile(x)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    if grad_total is not None and grad_total.stride(-1) != 1:
        grad_total = grad_total.contiguous()
    dx = torch.empty_like(x)
    programs, stages = triton.cdiv(rows, tile), 1
    apart = weight_gradient and block > RMS_NORM_SUMMED
    if weight_gradient and not apart:
        # 512 threads a multiprocessor: with what a thread holds its registers are full. All run
        # from the start, so that none waits, and their shares (4 B a column) stay few. Each has
        # the rows of its next two rounds copied to shared memory while it reduces one.
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        programs = min(programs, max(1, 16 // warps) * processors)
        read = (x, grad) if grad_total is None else (x, grad, grad_total)
        size = block * tile * sum(one.element_size() for one in read)
        stages = 3 if 2 * size <= 2**16 else 2 if size <= 2**16 else 1
    if apart:
        # Blocks of 256 columns, with rows shared out so that all multiprocessors are busy.
        blocks = triton.cdiv(columns, 256)
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        shares = min(triton.cdiv(rows, 16), triton.cdiv(4 * processors, blocks))
    else:
        shares = programs
    partial = rstd.new_empty((shares, columns) if weight_gradient else (0, 0))
    if rows > 0:
        with _rms_norm_device(x):
            _rms_norm_backward_kernel[(programs,)](
                grad, grad_total, x, weight, rstd, dx, partial, rows, columns, *_rms_norm_sizes(x),
                *_rms_norm_strides(grad),
                *_rms_norm_strides(x if grad_total is None else grad_total), *_rms_norm_strides(x),
                *_rms_norm_strides(dx), offset, HAS_TOTAL=grad_total is not None,
                HAS_WEIGHT=weight is not None, WEIGHT_GRADIENT=weight_gradient and not apart,
                CAST_FIRST=cast_first, ROWS=tile, BLOCK=block, STAGES=stages, num_warps=warps,
            )  # fmt: skip
    if rows > 0 and apart:
        with _rms_norm_device(x):
            _rms_norm_columns_kernel[(shares, blocks)](
                grad, x, rstd, partial, rows, columns, *_rms_norm_sizes(x),
                *_rms_norm_strides(grad), *_rms_norm_strides(x), CAST_FIRST=cast_first,
                ROWS=16, BLOCK=256, num_warps=8,
            )  # fmt: skip
    dw = partial.sum(0)
    return dx, dw if weight is None else dw.to(weight.dtype)


def _rms_norm_tile(x: torch.Tensor) -> tuple[int, int, int]:
    """Columns and rows of a tile, and the warps for it: 4096 values keep 8 warps' loads in flight.

    16 values a thread: their fp32 copies, gradients, factors and sums fit its registers.
    """
    columns = x.shape[-1]
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or columns > RMS_NORM_WIDEST:
        raise ValueError(f"no kernel for rows of {columns} values in {x.dtype}")
    block = triton.next_power_of_2(columns)
    tile = min(32, max(1, 4096 // block))
    return block, tile, min(32, max(4, block * tile // 512))


def _rms_norm_sizes(x: torch.Tensor) -> tuple[int, int]:
    """The second and third of the three dimensions that rows are numbered over."""
    return (1, 1, *x.shape[:-1])[-2], (1, 1, *x.shape[:-1])[-1]


def _rms_norm_strides(x: torch.Tensor) -> tuple[int, ...]:
    """The strides of these three dimensions."""
    return (0, 0, *x.stride()[:-1])[-3:]
