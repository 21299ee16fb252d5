"""LayerNorm of rows, alone or of the sum with a residual: (x - mean) / deviation · w + b.

For backward only the input and two numbers a row are kept, in fp32; torch's own keeps the same on a
GPU, but adds a residual in a kernel of its own, and reads the rows once more for the gradients of
weight and bias.

A last dimension of up to 8,192, fp32, fp16 or bf16; on a CPU also fp64. The result has the input's
precision, and inside everything is fp32. Rows may lie apart in memory (a transposed view).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

LAYER_NORM_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside input and result are some MiB."""

LAYER_NORM_WIDEST = 2**13
"""Values of a row that one program still holds in registers."""


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """The norm of each row of ``x``, scaled by ``weight`` and moved by ``bias``, if given."""
    _layer_norm_fits(x, weight, bias)
    y, _, _ = _layer_norm(_layer_norm_rows(x), weight, bias, eps)
    out: torch.Tensor = y if y.shape == x.shape else y.view(x.shape)
    return out


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of ``x + residual``, and that sum: the next residual."""
    if x.shape != residual.shape:
        raise ValueError(f"the residual is {tuple(residual.shape)}, its addend {tuple(x.shape)}")
    _layer_norm_fits(x, weight, bias)
    rows = _layer_norm_rows(x)
    y, _, _, total = _add_layer_norm(rows, _layer_norm_rows(residual), weight, bias, eps)
    return (y, total) if y.shape == x.shape else (y.view(x.shape), total.view(x.shape))


def layer_norm_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """The same in plain torch, operator by operator."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    apart = wide - wide.mean(-1, keepdim=True)
    y = apart * torch.rsqrt(apart.pow(2).mean(-1, keepdim=True) + eps)
    y = y if weight is None else y * weight.to(wide.dtype)
    y = y if bias is None else y + bias.to(wide.dtype)
    return y.to(x.dtype)


def _layer_norm_fits(x: torch.Tensor, *sized: torch.Tensor | None) -> None:
    """Raise ValueError for weight or bias of another size: a GPU would read past its end."""
    for one in sized:
        if one is not None and one.shape != x.shape[-1:]:
            raise ValueError(f"{tuple(one.shape)} for rows of {x.shape[-1]:,} values")


def _layer_norm_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows over one to three dimensions, with the values of each side by side in memory."""
    x = x.flatten(0, -2) if x.dim() > 4 else x.unsqueeze(0) if x.dim() == 1 else x
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("memwb::layer_norm", mutates_args=(), device_types="cpu")
def _layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normed rows, and mean and 1 / deviation of each row."""
    return _layer_norm_by_chunks(x, weight, bias, eps)


@torch.library.custom_op("memwb::add_layer_norm", mutates_args=(), device_types="cpu")
def _add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of the sum ``x + residual``, and that sum."""
    total = torch.add(x, residual, out=_add_layer_norm_total(x, residual))
    return (*_layer_norm_by_chunks(total, weight, bias, eps), total)


@torch.library.custom_op("memwb::layer_norm_backward", mutates_args=(), device_types="cpu")
def _layer_norm_backward(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of ``x``, with that of the sum added, and (2, columns) of weight and bias.

    The latter in fp32, and empty if not asked for.
    """
    dx = torch.empty_like(x)
    sums = rstd.new_zeros((2, x.shape[-1]) if weight_gradient else (0, 0))
    factor = None if weight is None else weight.to(rstd.dtype)
    dim, parts = _layer_norm_parts(x)
    for start, length in parts:
        roots = rstd.narrow(dim, start, length).unsqueeze(-1)
        normal = x.narrow(dim, start, length) - mean.narrow(dim, start, length).unsqueeze(-1)
        normal *= roots
        g = grad.narrow(dim, start, length).to(rstd.dtype)
        if weight_gradient:
            sums[0] += (g * normal).flatten(0, -2).sum(0)
            sums[1] += g.flatten(0, -2).sum(0)
        if factor is not None:
            g = g * factor
        part = torch.addcmul(g, normal, (g * normal).mean(-1, keepdim=True), value=-1)
        part.sub_(g.mean(-1, keepdim=True)).mul_(roots)
        if grad_total is not None:
            part += grad_total.narrow(dim, start, length)
        dx.narrow(dim, start, length).copy_(part)
    return dx, sums


def _layer_norm_by_chunks(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y, mean, rstd = _layer_norm_outputs(x)
    dim, parts = _layer_norm_parts(x)
    for start, length in parts:
        normal = x.narrow(dim, start, length).to(rstd.dtype, copy=True)
        middle = normal.mean(-1)
        normal -= middle.unsqueeze(-1)
        roots = normal.square().mean(-1).add_(eps).rsqrt_()
        mean.narrow(dim, start, length).copy_(middle)
        rstd.narrow(dim, start, length).copy_(roots)
        normal *= roots.unsqueeze(-1)
        if weight is not None:
            normal *= weight
        if bias is not None:
            normal += bias
        y.narrow(dim, start, length).copy_(normal)
    return y, mean, rstd


def _layer_norm_outputs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What forward makes: the rows, and two numbers for each in fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = x.shape[:-1]
    return torch.empty_like(x), x.new_empty(rows, dtype=wide), x.new_empty(rows, dtype=wide)


def _add_layer_norm_total(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))


def _layer_norm_parts(x: torch.Tensor) -> tuple[int, list[tuple[int, int]]]:
    """The longest dimension of rows, and spans of it that are about a chunk each."""
    rows = x.shape[:-1]
    if not rows or x.numel() == 0:
        return 0, []
    dim = max(range(len(rows)), key=rows.__getitem__)
    step = max(1, LAYER_NORM_CHUNK * rows[dim] // x.numel())
    return dim, [(at, min(step, rows[dim] - at)) for at in range(0, rows[dim], step)]


@_layer_norm.register_fake
def _layer_norm_fake(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _layer_norm_outputs(x)


@_add_layer_norm.register_fake
def _add_layer_norm_fake(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    total = _add_layer_norm_total(x, residual)
    return (*_layer_norm_outputs(total), total)


@_layer_norm_backward.register_fake
def _layer_norm_backward_fake(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), rstd.new_empty((2, x.shape[-1]) if weight_gradient else (0, 0))


def _layer_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias, _ = inputs
    _layer_norm_keep(ctx, x, weight, bias, *output[1:])


def _layer_norm_gradients(ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    dx, dw, db = _layer_norm_both(ctx, grad, None, *ctx.needs_input_grad[1:3])
    return dx, dw, db, None


def _add_layer_norm_setup(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]
) -> None:
    x, residual, weight, bias, _ = inputs
    _, mean, rstd, total = output
    ctx.dtypes = x.dtype, residual.dtype
    _layer_norm_keep(ctx, total, weight, bias, mean, rstd)


def _add_layer_norm_gradients(
    ctx: Any, grad: torch.Tensor | None, _: Any, __: Any, grad_total: torch.Tensor | None
) -> tuple[Any, ...]:
    dx, dw, db = _layer_norm_both(ctx, grad, grad_total, *ctx.needs_input_grad[2:4])
    both = (None, None) if dx is None else (dx.to(dtype) for dtype in ctx.dtypes)
    return *both, dw, db, None


def _layer_norm_keep(
    ctx: Any,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> None:
    ctx.bias = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _layer_norm_both(
    ctx: Any,
    grad: torch.Tensor | None,
    grad_total: torch.Tensor | None,
    weight_wanted: bool,
    bias_wanted: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input, weight and bias, whichever are wanted."""
    if grad is None:
        return grad_total, None, None
    x, weight, mean, rstd = ctx.saved_tensors
    wanted = weight_wanted or bias_wanted
    dx, sums = _layer_norm_backward(grad, grad_total, x, weight, mean, rstd, wanted)
    dw = sums[0].to(weight.dtype) if weight_wanted else None
    return dx, dw, sums[1].to(ctx.bias) if bias_wanted else None


_layer_norm.register_autograd(_layer_norm_gradients, setup_context=_layer_norm_setup)
_add_layer_norm.register_autograd(_add_layer_norm_gradients, setup_context=_add_layer_norm_setup)


def _layer_norm_device(x: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if x.is_meta else x.get_device())


@triton.jit
def _layer_norm_places(  # type: ignore[no-untyped-def]
    row, size1, size2, stride0, stride1, stride2,
):  # fmt: skip
    """Where rows begin that are numbered through over three dimensions."""
    first = (row // (size1 * size2)).to(tl.int64)
    second = (row // size2 % size1).to(tl.int64)
    third = (row % size2).to(tl.int64)
    return first * stride0 + second * stride1 + third * stride2


@triton.jit  # type: ignore[untyped-decorator]
def _layer_norm_forward_kernel(  # type: ignore[no-untyped-def]
    x, residual, weight, bias, y, mean, rstd, total, rows, columns, size1, size2, x0, x1, x2, r0,
    r1, r2, y0, y1, y2, t0, t1, t2, eps, HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of whole rows: read once, written once."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    there = (row < rows)[:, None] & (column < columns)
    at = _layer_norm_places(row, size1, size2, x0, x1, x2)[:, None] + column
    values = tl.load(x + at, mask=there, other=0.0)
    if HAS_RESIDUAL:
        at = _layer_norm_places(row, size1, size2, r0, r1, r2)[:, None] + column
        added = tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
        # Rounded as it is kept: backward sees this sum, and the norm is of what it sees.
        values = (values.to(tl.float32) + added).to(total.dtype.element_ty)
        at = _layer_norm_places(row, size1, size2, t0, t1, t2)[:, None] + column
        tl.store(total + at, values, mask=there)
    wide = values.to(tl.float32)
    middle = tl.sum(wide, axis=1) / columns
    # Columns beyond the row must not count as far from its mean.
    normal = tl.where(there, wide - middle[:, None], 0.0)
    root = tl.rsqrt(tl.sum(normal * normal, axis=1) / columns + eps)
    tl.store(mean + row, middle, mask=row < rows)
    tl.store(rstd + row, root, mask=row < rows)
    normal = normal * root[:, None]
    if HAS_WEIGHT:
        normal = normal * tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    if HAS_BIAS:
        normal = normal + tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    at = _layer_norm_places(row, size1, size2, y0, y1, y2)[:, None] + column
    tl.store(y + at, normal.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _layer_norm_backward_kernel(  # type: ignore[no-untyped-def]
    grad, grad_total, x, weight, mean, rstd, dx, partial, rows, columns, size1, size2, g0, g1,
    g2, t0, t1, t2, x0, x1, x2, d0, d1, d2, HAS_TOTAL: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    WEIGHT_GRADIENT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Every n-th tile of rows, n programs in all; each adds up its share of two gradients.

    Those of weight and bias: ``partial`` (2, programs, columns). Who adds what is fixed.
    """
    column = tl.arange(0, BLOCK)[None, :]
    if HAS_WEIGHT and WEIGHT_GRADIENT:
        factor = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    if WEIGHT_GRADIENT:
        sums = tl.zeros([ROWS, BLOCK], tl.float32)
        bias_sums = tl.zeros([ROWS, BLOCK], tl.float32)
    step = tl.num_programs(0) * ROWS
    for start in tl.range(tl.program_id(0) * ROWS, rows, step, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & (column < columns)
        at = _layer_norm_places(row, size1, size2, g0, g1, g2)[:, None] + column
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        at = _layer_norm_places(row, size1, size2, x0, x1, x2)[:, None] + column
        values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        middle = tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
        root = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        # Columns beyond the row have no gradient, so that what stands here does not count.
        normal = (values - middle) * root
        if WEIGHT_GRADIENT:
            sums += g * normal
            bias_sums += g
        if HAS_WEIGHT:
            if not WEIGHT_GRADIENT:
                # The only round: not held in registers while the rows are waited for.
                factor = tl.load(weight + column, mask=column < columns, other=0.0)
                factor = factor.to(tl.float32)
            g = g * factor
        slope = tl.sum(g * normal, axis=1)[:, None] / columns
        out = (g - normal * slope - tl.sum(g, axis=1)[:, None] / columns) * root
        if HAS_TOTAL:
            at = _layer_norm_places(row, size1, size2, t0, t1, t2)[:, None] + column
            out += tl.load(grad_total + at, mask=there, other=0.0).to(tl.float32)
        at = _layer_norm_places(row, size1, size2, d0, d1, d2)[:, None] + column
        tl.store(dx + at, out.to(dx.dtype.element_ty), mask=there)
    if WEIGHT_GRADIENT:
        at = tl.program_id(0).to(tl.int64) * columns + column
        tl.store(partial + at, tl.sum(sums, axis=0)[None, :], mask=column < columns)
        at += tl.num_programs(0).to(tl.int64) * columns
        tl.store(partial + at, tl.sum(bias_sums, axis=0)[None, :], mask=column < columns)


@_layer_norm.register_kernel("cuda")
def _layer_norm_cuda(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y, mean, rstd = _layer_norm_outputs(x)
    _layer_norm_launch(x, None, weight, bias, y, mean, rstd, None, eps)
    return y, mean, rstd


@_add_layer_norm.register_kernel("cuda")
def _add_layer_norm_cuda(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    total = _add_layer_norm_total(x, residual)
    y, mean, rstd = _layer_norm_outputs(total)
    _layer_norm_launch(x, residual, weight, bias, y, mean, rstd, total, eps)
    return y, mean, rstd, total


def _layer_norm_launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
) -> None:
    columns, rows = x.shape[-1], rstd.numel()
    block, tile, warps = _layer_norm_tile(x)
    if rows == 0:
        return
    with _layer_norm_device(x):
        _layer_norm_forward_kernel[(triton.cdiv(rows, tile),)](
            x, residual, weight, bias, y, mean, rstd, total, rows, columns, *_layer_norm_sizes(x),
            *_layer_norm_strides(x), *_layer_norm_strides(x if residual is None else residual),
            *_layer_norm_strides(y), *_layer_norm_strides(x if total is None else total), eps,
            HAS_RESIDUAL=residual is not None, HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None, ROWS=tile, BLOCK=block, num_warps=warps,
        )  # fmt: skip


@_layer_norm_backward.register_kernel("cuda")
def _layer_norm_backward_cuda(
    grad: torch.Tensor,
    grad_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    columns, rows = x.shape[-1], rstd.numel()
    block, tile, warps = _layer_norm_tile(x)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    if grad_total is not None and grad_total.stride(-1) != 1:
        grad_total = grad_total.contiguous()
    late = None
    if weight_gradient and block > 4096:
        # Two sums and three inputs of 16 values a thread would spill: one is added afterwards.
        late, grad_total = grad_total, None
    dx = torch.empty_like(x)
    programs, stages = triton.cdiv(rows, tile), 1
    if weight_gradient:
        # Two sums to hold, and so half as many values for each thread.
        warps = max(warps, min(16, 2 * warps))
        # 512 threads a multiprocessor: with what a thread holds its registers are full. All run
        # from the start, so that none waits, and their shares (8 B a column) stay few. Each has
        # the rows of its next two rounds copied to shared memory while it reduces one.
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        programs = min(programs, max(1, 16 // warps) * processors)
        read = (x, grad) if grad_total is None else (x, grad, grad_total)
        size = block * tile * sum(one.element_size() for one in read)
        # fp32 rows that are not of whole 64 bytes are copied value by value: the addresses of a
        # third round would spill.
        single = x.dtype == torch.float32 and columns % 16 != 0
        stages = 3 if 2 * size <= 2**16 and not single else 2 if size <= 2**16 else 1
    partial = rstd.new_empty((2, programs, columns) if weight_gradient else (0, 0, 0))
    if rows > 0:
        with _layer_norm_device(x):
            _layer_norm_backward_kernel[(programs,)](
                grad, grad_total, x, weight, mean, rstd, dx, partial, rows, columns,
                *_layer_norm_sizes(x), *_layer_norm_strides(grad),
                *_layer_norm_strides(x if grad_total is None else grad_total),
                *_layer_norm_strides(x), *_layer_norm_strides(dx), HAS_TOTAL=grad_total is not None,
                HAS_WEIGHT=weight is not None, WEIGHT_GRADIENT=weight_gradient, ROWS=tile,
                BLOCK=block, STAGES=stages, num_warps=warps,
            )  # fmt: skip
    return dx if late is None else dx.add_(late), partial.sum(1)


def _layer_norm_tile(x: torch.Tensor) -> tuple[int, int, int]:
    """Columns and rows of a tile, and the warps for it: 4096 values keep 8 warps' loads in flight.

    16 values a thread: their fp32 copies, gradients, factors and sums fit its registers.
    """
    columns = x.shape[-1]
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or columns > LAYER_NORM_WIDEST:
        raise ValueError(f"no kernel for rows of {columns} values in {x.dtype}")
    block = triton.next_power_of_2(columns)
    tile = min(32, max(1, 4096 // block))
    return block, tile, min(32, max(4, block * tile // 512))


def _layer_norm_sizes(x: torch.Tensor) -> tuple[int, int]:
    """The second and third of the three dimensions that rows are numbered over."""
    return (1, 1, *x.shape[:-1])[-2], (1, 1, *x.shape[:-1])[-1]


def _layer_norm_strides(x: torch.Tensor) -> tuple[int, ...]:
    """The strides of these three dimensions."""
    return (0, 0, *x.stride()[:-1])[-3:]
