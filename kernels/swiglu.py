"""SwiGLU, silu(gate) · up, of two tensors or of one that holds both side by side.

For backward only gate and up are kept, in whatever precision they come: the activation is computed
again there. The gradients are new tensors; what was kept is never written to. Of one tensor that
holds both there is one gradient, so that nothing is put together afterwards.

fp32, fp16 or bf16, on a CPU also fp64. Inside everything is fp32; only the activation is rounded to
the precision of ``gate`` before the product, as where it is an operator of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

SWIGLU_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside inputs and results are some MiB."""


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, for tensors of one shape."""
    if gate.shape != up.shape:
        raise ValueError(f"gate is {tuple(gate.shape)}, up {tuple(up.shape)}")
    y: torch.Tensor = _swiglu(_swiglu_rows(gate), _swiglu_rows(up))
    return y.view(gate.shape)


def swiglu_packed(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up where the last dimension holds gate, then up."""
    if gate_up.shape[-1] % 2:
        raise ValueError(f"{gate_up.shape[-1]} values are not gate and up of one size")
    y: torch.Tensor = _swiglu_packed(_swiglu_rows(gate_up))
    return y.view(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The same in plain torch, operator by operator."""
    return torch.nn.functional.silu(gate) * up


def _swiglu_rows(x: torch.Tensor) -> torch.Tensor:
    """The same values as a matrix whose rows lie side by side; a view wherever one can be."""
    x = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return x if x.stride(-1) == 1 else x.contiguous()


def _swiglu_halves(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gate, up = gate_up.chunk(2, dim=-1)
    return gate, up


@torch.library.custom_op("memwb::swiglu", mutates_args=(), device_types="cpu")
def _swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The product for (rows, columns)."""
    y = _swiglu_output(gate, up)
    for part in _swiglu_parts(gate):
        torch.mul(torch.nn.functional.silu(gate[part]), up[part], out=y[part])
    return y


@torch.library.custom_op("memwb::swiglu_packed", mutates_args=(), device_types="cpu")
def _swiglu_packed(gate_up: torch.Tensor) -> torch.Tensor:
    """The product for (rows, 2 · columns)."""
    gate, up = _swiglu_halves(gate_up)
    y = _swiglu_output(gate, up)
    for part in _swiglu_parts(gate):
        torch.mul(torch.nn.functional.silu(gate[part]), up[part], out=y[part])
    return y


@torch.library.custom_op("memwb::swiglu_backward", mutates_args=(), device_types="cpu")
def _swiglu_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up."""
    d_gate, d_up = _swiglu_gradient(gate), _swiglu_gradient(up)
    _swiglu_backward_by_chunks(grad, gate, up, d_gate, d_up)
    return d_gate, d_up


@torch.library.custom_op("memwb::swiglu_packed_backward", mutates_args=(), device_types="cpu")
def _swiglu_packed_backward(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """The gradient of both, side by side as they are."""
    d_both = _swiglu_gradient(gate_up)
    _swiglu_backward_by_chunks(grad, *_swiglu_halves(gate_up), *_swiglu_halves(d_both))
    return d_both


def _swiglu_backward_by_chunks(
    grad: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    d_gate: torch.Tensor,
    d_up: torch.Tensor,
) -> None:
    wide = torch.promote_types(gate.dtype, torch.float32)
    for part in _swiglu_parts(gate):
        g, d = gate[part].to(wide), grad[part].to(wide)
        sigmoid = torch.sigmoid(g)
        d_up[part] = d * g * sigmoid
        # silu'(g) = s + g · s · (1 - s)
        slope = sigmoid.mul_(torch.addcmul(torch.ones_like(g), g, 1 - sigmoid))
        d_gate[part] = slope.mul_(d).mul_(up[part])


def _swiglu_parts(x: torch.Tensor) -> list[slice]:
    """Spans of rows that are about a chunk each."""
    rows, columns = x.shape
    step = max(1, SWIGLU_CHUNK // max(1, columns))
    return [slice(at, at + step) for at in range(0, rows, step)]


def _swiglu_output(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate.new_empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype))


def _swiglu_gradient(x: torch.Tensor) -> torch.Tensor:
    """Rows without gaps between them, whatever lies between the rows of what it is for."""
    return x.new_empty(x.shape)


@_swiglu.register_fake
def _swiglu_fake(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return _swiglu_output(gate, up)


@_swiglu_packed.register_fake
def _swiglu_packed_fake(gate_up: torch.Tensor) -> torch.Tensor:
    return _swiglu_output(*_swiglu_halves(gate_up))


@_swiglu_backward.register_fake
def _swiglu_backward_fake(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return _swiglu_gradient(gate), _swiglu_gradient(up)


@_swiglu_packed_backward.register_fake
def _swiglu_packed_backward_fake(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    return _swiglu_gradient(gate_up)


def _swiglu_setup(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    d_gate, d_up = _swiglu_backward(grad, *ctx.saved_tensors)
    return d_gate, d_up


def _swiglu_packed_gradients(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    d_both: torch.Tensor = _swiglu_packed_backward(grad, *ctx.saved_tensors)
    return d_both


_swiglu.register_autograd(_swiglu_gradients, setup_context=_swiglu_setup)
_swiglu_packed.register_autograd(_swiglu_packed_gradients, setup_context=_swiglu_setup)


def _swiglu_device(gate: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if gate.is_meta else gate.get_device())


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_forward_kernel(  # type: ignore[no-untyped-def]
    gate, up, y, columns, g0, u0, y0, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of one row; blocks are numbered row by row."""
    blocks = tl.cdiv(columns, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = column < columns
    values = tl.load(gate + row * g0 + column, mask=there, other=0.0)
    wide = values.to(tl.float32)
    active = (wide * tl.sigmoid(wide)).to(values.dtype).to(tl.float32)
    out = active * tl.load(up + row * u0 + column, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * y0 + column, out.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate, up, d_gate, d_up, columns, y0, g0, u0, dg0, du0, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of one row: three reads, two writes."""
    blocks = tl.cdiv(columns, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = column < columns
    d = tl.load(grad + row * y0 + column, mask=there, other=0.0).to(tl.float32)
    g = tl.load(gate + row * g0 + column, mask=there, other=0.0).to(tl.float32)
    u = tl.load(up + row * u0 + column, mask=there, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    slope = sigmoid * (1.0 + g * (1.0 - sigmoid))
    out = (d * u * slope).to(d_gate.dtype.element_ty)
    tl.store(d_gate + row * dg0 + column, out, mask=there)
    out = (d * g * sigmoid).to(d_up.dtype.element_ty)
    tl.store(d_up + row * du0 + column, out, mask=there)


@_swiglu.register_kernel("cuda")
def _swiglu_cuda(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    y = _swiglu_output(gate, up)
    _swiglu_forward_launch(gate, up, y)
    return y


@_swiglu_packed.register_kernel("cuda")
def _swiglu_packed_cuda(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = _swiglu_halves(gate_up)
    y = _swiglu_output(gate, up)
    _swiglu_forward_launch(gate, up, y)
    return y


@_swiglu_backward.register_kernel("cuda")
def _swiglu_backward_cuda(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    d_gate, d_up = _swiglu_gradient(gate), _swiglu_gradient(up)
    _swiglu_backward_launch(grad, gate, up, d_gate, d_up)
    return d_gate, d_up


@_swiglu_packed_backward.register_kernel("cuda")
def _swiglu_packed_backward_cuda(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    d_both = _swiglu_gradient(gate_up)
    _swiglu_backward_launch(grad, *_swiglu_halves(gate_up), *_swiglu_halves(d_both))
    return d_both


def _swiglu_forward_launch(gate: torch.Tensor, up: torch.Tensor, y: torch.Tensor) -> None:
    rows, columns = gate.shape
    block = _swiglu_block(gate)
    if gate.numel() > 0:
        with _swiglu_device(gate):
            _swiglu_forward_kernel[(rows * triton.cdiv(columns, block),)](
                gate, up, y, columns, gate.stride(0), up.stride(0), y.stride(0), BLOCK=block,
            )  # fmt: skip


def _swiglu_backward_launch(
    grad: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    d_gate: torch.Tensor,
    d_up: torch.Tensor,
) -> None:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    rows, columns = gate.shape
    block = _swiglu_block(gate)
    strides = [tensor.stride(0) for tensor in (grad, gate, up, d_gate, d_up)]
    if gate.numel() > 0:
        with _swiglu_device(gate):
            _swiglu_backward_kernel[(rows * triton.cdiv(columns, block),)](
                grad, gate, up, d_gate, d_up, columns, *strides, BLOCK=block,
            )  # fmt: skip


def _swiglu_block(gate: torch.Tensor) -> int:
    """Columns of a program: 8 values a thread, which is one load of 16 bytes from each tensor.

    More would leave more of the last block empty, and there are blocks enough to fill any device.
    """
    if gate.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"no kernel for {gate.dtype}")
    block: int = min(1024, triton.next_power_of_2(gate.shape[1]))
    return block
