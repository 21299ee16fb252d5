"""GeGLU, gelu(gate) · up, of two tensors or of one that holds both side by side.

For backward only gate and up are kept, in whatever precision they come: the activation is computed
again there. The gradients are new tensors; what was kept is never written to. Of one tensor that
holds both there is one gradient, so that nothing is put together afterwards. ``tanh`` says that
gelu is its approximation by tanh (Gemma), not the one by the normal distribution itself.

fp32, fp16 or bf16, on a CPU also fp64. Inside everything is fp32; only the activation is rounded to
the precision of ``gate`` before the product, as where it is an operator of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

GEGLU_ROOT = 0.5**0.5
GEGLU_DENSITY = 0.3989422804014327  # 1 / sqrt(2 pi)
GEGLU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
GEGLU_CUBIC = 0.044715

GEGLU_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside inputs and results are some MiB."""


def geglu(gate: torch.Tensor, up: torch.Tensor, *, tanh: bool) -> torch.Tensor:
    """gelu(gate) · up, for tensors of one shape."""
    if gate.shape != up.shape:
        raise ValueError(f"gate is {tuple(gate.shape)}, up {tuple(up.shape)}")
    y: torch.Tensor = _geglu(_geglu_rows(gate), _geglu_rows(up), tanh)
    return y.view(gate.shape)


def geglu_packed(gate_up: torch.Tensor, *, tanh: bool) -> torch.Tensor:
    """gelu(gate) · up where the last dimension holds gate, then up."""
    if gate_up.shape[-1] % 2:
        raise ValueError(f"{gate_up.shape[-1]} values are not gate and up of one size")
    y: torch.Tensor = _geglu_packed(_geglu_rows(gate_up), tanh)
    return y.view(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def geglu_reference(gate: torch.Tensor, up: torch.Tensor, *, tanh: bool) -> torch.Tensor:
    """The same in plain torch, operator by operator."""
    return torch.nn.functional.gelu(gate, approximate="tanh" if tanh else "none") * up


def _geglu_rows(x: torch.Tensor) -> torch.Tensor:
    """The same values as a matrix whose rows lie side by side; a view wherever one can be."""
    x = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return x if x.stride(-1) == 1 else x.contiguous()


def _geglu_halves(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gate, up = gate_up.chunk(2, dim=-1)
    return gate, up


@torch.library.custom_op("memwb::geglu", mutates_args=(), device_types="cpu")
def _geglu(gate: torch.Tensor, up: torch.Tensor, tanh: bool) -> torch.Tensor:
    """The product for (rows, columns)."""
    return _geglu_by_chunks(gate, up, tanh)


@torch.library.custom_op("memwb::geglu_packed", mutates_args=(), device_types="cpu")
def _geglu_packed(gate_up: torch.Tensor, tanh: bool) -> torch.Tensor:
    """The product for (rows, 2 · columns)."""
    gate, up = _geglu_halves(gate_up)
    return _geglu_by_chunks(gate, up, tanh)


@torch.library.custom_op("memwb::geglu_backward", mutates_args=(), device_types="cpu")
def _geglu_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, tanh: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up."""
    d_gate, d_up = _geglu_gradient(gate), _geglu_gradient(up)
    _geglu_backward_by_chunks(grad, gate, up, d_gate, d_up, tanh)
    return d_gate, d_up


@torch.library.custom_op("memwb::geglu_packed_backward", mutates_args=(), device_types="cpu")
def _geglu_packed_backward(grad: torch.Tensor, gate_up: torch.Tensor, tanh: bool) -> torch.Tensor:
    """The gradient of both, side by side as they are."""
    d_both = _geglu_gradient(gate_up)
    _geglu_backward_by_chunks(grad, *_geglu_halves(gate_up), *_geglu_halves(d_both), tanh)
    return d_both


def _geglu_by_chunks(gate: torch.Tensor, up: torch.Tensor, tanh: bool) -> torch.Tensor:
    y = _geglu_output(gate, up)
    approximate = "tanh" if tanh else "none"
    for part in _geglu_parts(gate):
        active = torch.nn.functional.gelu(gate[part], approximate=approximate)
        torch.mul(active, up[part], out=y[part])
    return y


def _geglu_backward_by_chunks(
    grad: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    d_gate: torch.Tensor,
    d_up: torch.Tensor,
    tanh: bool,
) -> None:
    wide = torch.promote_types(gate.dtype, torch.float32)
    for part in _geglu_parts(gate):
        g, d = gate[part].to(wide), grad[part].to(wide)
        share, slope = _geglu_share(g, tanh)
        d_up[part] = (d * g).mul_(share)
        d_gate[part] = slope.mul_(g).add_(share).mul_(d).mul_(up[part])


def _geglu_share(g: torch.Tensor, tanh: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What gelu multiplies its argument by, and the slope of that."""
    if not tanh:
        slope = torch.exp(-0.5 * g.square()).mul_(GEGLU_DENSITY)
        return torch.erf(g * GEGLU_ROOT).add_(1).mul_(0.5), slope
    # (1 + tanh z) / 2 = sigmoid(2 z), without the cancellation; so is one minus it, at -2 z. Far
    # out they are 0 or 1 to the last bit, while powers of the argument would overflow.
    near = g.clamp(-30, 30)
    square = near.square()
    twice = near.mul_(1 + GEGLU_CUBIC * square).mul_(2 * GEGLU_SCALE)
    share = torch.sigmoid(twice)
    slope = square.mul_(3 * GEGLU_CUBIC).add_(1).mul_(2 * GEGLU_SCALE)
    return share, slope.mul_(share).mul_(torch.sigmoid(twice.neg_()))


def _geglu_parts(x: torch.Tensor) -> list[slice]:
    """Spans of rows that are about a chunk each."""
    rows, columns = x.shape
    step = max(1, GEGLU_CHUNK // max(1, columns))
    return [slice(at, at + step) for at in range(0, rows, step)]


def _geglu_output(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate.new_empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype))


def _geglu_gradient(x: torch.Tensor) -> torch.Tensor:
    """Rows without gaps between them, whatever lies between the rows of what it is for."""
    return x.new_empty(x.shape)


@_geglu.register_fake
def _geglu_fake(gate: torch.Tensor, up: torch.Tensor, tanh: bool) -> torch.Tensor:
    return _geglu_output(gate, up)


@_geglu_packed.register_fake
def _geglu_packed_fake(gate_up: torch.Tensor, tanh: bool) -> torch.Tensor:
    return _geglu_output(*_geglu_halves(gate_up))


@_geglu_backward.register_fake
def _geglu_backward_fake(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, tanh: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _geglu_gradient(gate), _geglu_gradient(up)


@_geglu_packed_backward.register_fake
def _geglu_packed_backward_fake(
    grad: torch.Tensor, gate_up: torch.Tensor, tanh: bool
) -> torch.Tensor:
    return _geglu_gradient(gate_up)


def _geglu_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.tanh = inputs
    ctx.save_for_backward(*tensors)


def _geglu_gradients(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return *_geglu_backward(grad, *ctx.saved_tensors, ctx.tanh), None


def _geglu_packed_gradients(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return _geglu_packed_backward(grad, *ctx.saved_tensors, ctx.tanh), None


_geglu.register_autograd(_geglu_gradients, setup_context=_geglu_setup)
_geglu_packed.register_autograd(_geglu_packed_gradients, setup_context=_geglu_setup)


def _geglu_device(gate: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if gate.is_meta else gate.get_device())


@triton.jit  # type: ignore[untyped-decorator]
def _geglu_share_and_slope(g, TANH: tl.constexpr):  # type: ignore[no-untyped-def]
    """As ``_geglu_share``."""
    if TANH:
        near = tl.minimum(tl.maximum(g, -30.0), 30.0)
        square = near * near
        twice = 1.5957691216057308 * near * (1.0 + 0.044715 * square)
        share = tl.sigmoid(twice)
        slope = 1.5957691216057308 * (1.0 + 0.134145 * square) * share * tl.sigmoid(-twice)
    else:
        share = 0.5 + 0.5 * tl.erf(g * 0.7071067811865476)
        slope = 0.3989422804014327 * tl.exp(-0.5 * g * g)
    return share, slope


@triton.jit  # type: ignore[untyped-decorator]
def _geglu_forward_kernel(  # type: ignore[no-untyped-def]
    gate, up, y, columns, g0, u0, y0, TANH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of one row; blocks are numbered row by row."""
    blocks = tl.cdiv(columns, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = column < columns
    values = tl.load(gate + row * g0 + column, mask=there, other=0.0)
    wide = values.to(tl.float32)
    share, _ = _geglu_share_and_slope(wide, TANH)
    active = (wide * share).to(values.dtype).to(tl.float32)
    out = active * tl.load(up + row * u0 + column, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * y0 + column, out.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _geglu_backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate, up, d_gate, d_up, columns, y0, g0, u0, dg0, du0, TANH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of one row: three reads, two writes."""
    blocks = tl.cdiv(columns, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = column < columns
    d = tl.load(grad + row * y0 + column, mask=there, other=0.0).to(tl.float32)
    g = tl.load(gate + row * g0 + column, mask=there, other=0.0).to(tl.float32)
    u = tl.load(up + row * u0 + column, mask=there, other=0.0).to(tl.float32)
    share, slope = _geglu_share_and_slope(g, TANH)
    out = (d * u * (share + g * slope)).to(d_gate.dtype.element_ty)
    tl.store(d_gate + row * dg0 + column, out, mask=there)
    out = (d * g * share).to(d_up.dtype.element_ty)
    tl.store(d_up + row * du0 + column, out, mask=there)


@_geglu.register_kernel("cuda")
def _geglu_cuda(gate: torch.Tensor, up: torch.Tensor, tanh: bool) -> torch.Tensor:
    y = _geglu_output(gate, up)
    _geglu_forward_launch(gate, up, y, tanh)
    return y


@_geglu_packed.register_kernel("cuda")
def _geglu_packed_cuda(gate_up: torch.Tensor, tanh: bool) -> torch.Tensor:
    gate, up = _geglu_halves(gate_up)
    y = _geglu_output(gate, up)
    _geglu_forward_launch(gate, up, y, tanh)
    return y


@_geglu_backward.register_kernel("cuda")
def _geglu_backward_cuda(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, tanh: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    d_gate, d_up = _geglu_gradient(gate), _geglu_gradient(up)
    _geglu_backward_launch(grad, gate, up, d_gate, d_up, tanh)
    return d_gate, d_up


@_geglu_packed_backward.register_kernel("cuda")
def _geglu_packed_backward_cuda(
    grad: torch.Tensor, gate_up: torch.Tensor, tanh: bool
) -> torch.Tensor:
    d_both = _geglu_gradient(gate_up)
    _geglu_backward_launch(grad, *_geglu_halves(gate_up), *_geglu_halves(d_both), tanh)
    return d_both


def _geglu_forward_launch(
    gate: torch.Tensor, up: torch.Tensor, y: torch.Tensor, tanh: bool
) -> None:
    rows, columns = gate.shape
    block = _geglu_block(gate)
    if gate.numel() > 0:
        with _geglu_device(gate):
            _geglu_forward_kernel[(rows * triton.cdiv(columns, block),)](
                gate, up, y, columns, gate.stride(0), up.stride(0), y.stride(0), TANH=tanh,
                BLOCK=block,
            )  # fmt: skip


def _geglu_backward_launch(
    grad: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    d_gate: torch.Tensor,
    d_up: torch.Tensor,
    tanh: bool,
) -> None:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    rows, columns = gate.shape
    block = _geglu_block(gate)
    strides = [tensor.stride(0) for tensor in (grad, gate, up, d_gate, d_up)]
    if gate.numel() > 0:
        with _geglu_device(gate):
            _geglu_backward_kernel[(rows * triton.cdiv(columns, block),)](
                grad, gate, up, d_gate, d_up, columns, *strides, TANH=tanh, BLOCK=block,
            )  # fmt: skip


def _geglu_block(gate: torch.Tensor) -> int:
    """Columns of a program: 8 values a thread, which is one load of 16 bytes from each tensor.

    More would leave more of the last block empty, and there are blocks enough to fill any device.
    """
    if gate.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"no kernel for {gate.dtype}")
    block: int = min(1024, triton.next_power_of_2(gate.shape[1]))
    return block
