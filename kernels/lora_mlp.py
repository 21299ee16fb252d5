"""The last product of a gated MLP and its adapter, of gate and up alone.

y = h Wᵀ + s (h Aᵀ) Bᵀ with h = activation(gate) · up. An adapter keeps what enters A, which is h:
as large as gate and up, which the activation keeps already. Here h is computed again in backward,
in the one pass that makes the gradients of gate and up, and written over the gradient of h.

W is frozen: a matrix, or 4-bit blocks of bitsandbytes, expanded in forward and again in backward
as that library does. The products are the matrix library's; the passes over gate and up are
Triton's on a GPU, and chunked on a CPU. See docs/kernels/lora.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

LORA_MLP_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside inputs and results are some MiB."""
LORA_MLP_BLOCK = 1024
"""Values of a program: 8 a thread of 4 warps, a load of 16 bytes each in half precision."""


class Packed4Bit(NamedTuple):
    """What a 4-bit matrix of bitsandbytes needs to be expanded beside its packed values.

    With nested scales ``absmax`` are their codes, and the other three tensors say what these mean.
    """

    absmax: torch.Tensor
    blocksize: int
    kind: str
    nested_absmax: torch.Tensor | None = None
    nested_code: torch.Tensor | None = None
    offset: torch.Tensor | None = None


def lora_mlp_reference(
    gate: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    activation: str,
) -> torch.Tensor:
    """What ``lora_mlp`` computes, written out."""
    functional = torch.nn.functional
    if activation == "silu":
        h = functional.silu(gate) * up
    else:
        h = functional.gelu(gate, approximate="tanh" if activation == "tanh" else "none") * up
    return (
        functional.linear(h, weight, bias) + functional.linear(functional.linear(h, a), b) * scale
    )


def lora_mlp(
    gate: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    activation: str,
    packed: Packed4Bit | None = None,
) -> torch.Tensor:
    """gate and up (..., inputs) to (..., outputs), by a frozen ``weight`` (outputs, inputs).

    ``activation`` is silu, gelu (by the normal distribution) or tanh (gelu's approximation). With
    ``packed`` the weight are packed 4-bit values. Products are in gate's precision, or in
    autocast's where it is on; so is the result.
    """
    if activation not in ("silu", "gelu", "tanh"):
        raise ValueError(f"no activation {activation!r}")
    if gate.shape != up.shape:
        raise ValueError(f"gate is {tuple(gate.shape)}, up {tuple(up.shape)}")
    kind, dtype = gate.device.type, gate.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    left = (
        (packed.absmax, packed.nested_absmax, packed.nested_code, packed.offset)
        if packed
        else (None,) * 4
    )
    blocks = (packed.blocksize, packed.kind) if packed else (0, "")
    y: torch.Tensor = _lora_mlp(
        _lora_mlp_rows(gate), _lora_mlp_rows(up), weight, bias, a, b, scale, activation, dtype,
        *left, *blocks,
    )  # fmt: skip
    return y.view(*gate.shape[:-1], y.shape[-1])


def _lora_mlp_rows(x: torch.Tensor) -> torch.Tensor:
    """The same values as a matrix whose rows lie side by side; a view wherever one can be."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 else x.contiguous()


def _lora_mlp_device(gate: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if gate.is_meta else gate.get_device())


@triton.jit  # type: ignore[untyped-decorator]
def _lora_mlp_activation(g, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """The activation and its slope."""
    if ACTIVATION == "silu":
        share = tl.sigmoid(g)
        value = g * share
        slope = share * (1 + g * (1 - share))
    elif ACTIVATION == "tanh":
        # tanh(z) = 2 sigmoid(2 z) - 1; the constants are sqrt(2 / pi) and 0.044715.
        bent = 2 * tl.sigmoid(1.5957691216057308 * (g + 0.044715 * g * g * g)) - 1
        value = 0.5 * g * (1 + bent)
        inner = 0.7978845608028654 * (1 + 0.134145 * g * g)
        slope = 0.5 * (1 + bent) + 0.5 * g * (1 - bent * bent) * inner
    else:
        share = 0.5 * (1 + tl.erf(0.7071067811865476 * g))
        value = g * share
        slope = share + g * 0.3989422804014327 * tl.exp(-0.5 * g * g)
    return value, slope


@triton.jit  # type: ignore[untyped-decorator]
def _lora_mlp_gate_kernel(  # type: ignore[no-untyped-def]
    gate, up, h, columns, gate_stride, up_stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0)
    value, _ = _lora_mlp_activation(g.to(tl.float32), ACTIVATION)
    # Rounded as where the activation is an operator of its own.
    value = value.to(g.dtype).to(tl.float32)
    made = value * u.to(tl.float32)
    tl.store(h + row * columns + at, made.to(h.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _lora_mlp_backward_kernel(  # type: ignore[no-untyped-def]
    d_h, gate, up, d_gate, d_up, columns, gate_stride, up_stride,
    ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    here = row * columns + at
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(d_h + here, mask=inside, other=0.0).to(tl.float32)
    value, slope = _lora_mlp_activation(g.to(tl.float32), ACTIVATION)
    value = value.to(g.dtype).to(tl.float32)
    tl.store(d_gate + here, (d * u * slope).to(d_gate.dtype.element_ty), mask=inside)
    tl.store(d_up + here, (d * value).to(d_up.dtype.element_ty), mask=inside)
    tl.store(d_h + here, (value * u).to(d_h.dtype.element_ty), mask=inside)


@torch.library.custom_op("memwb::lora_mlp_gate", mutates_args=(), device_types="cpu")
def _lora_mlp_gate(
    gate: torch.Tensor, up: torch.Tensor, activation: str, dtype: torch.dtype
) -> torch.Tensor:
    """h, of (rows, columns)."""
    h = torch.empty(gate.shape, dtype=dtype, device=gate.device)
    step = max(1, LORA_MLP_CHUNK // max(1, gate.shape[1]))
    for start in range(0, len(gate), step):
        part = slice(start, start + step)
        value, _ = _lora_mlp_activated(gate[part], activation, False)
        h[part] = value.mul_(up[part])
    return h


@_lora_mlp_gate.register_kernel("cuda")
def _(gate: torch.Tensor, up: torch.Tensor, activation: str, dtype: torch.dtype) -> torch.Tensor:
    h = torch.empty(gate.shape, dtype=dtype, device=gate.device)
    rows, columns = gate.shape
    if h.numel():
        with _lora_mlp_device(gate):
            _lora_mlp_gate_kernel[(rows, triton.cdiv(columns, LORA_MLP_BLOCK))](
                gate, up, h, columns, gate.stride(0), up.stride(0),
                ACTIVATION=activation, BLOCK=LORA_MLP_BLOCK, num_warps=4,
            )  # fmt: skip
    return h


@_lora_mlp_gate.register_fake
def _(gate: torch.Tensor, up: torch.Tensor, activation: str, dtype: torch.dtype) -> torch.Tensor:
    return gate.new_empty(gate.shape, dtype=dtype)


@torch.library.custom_op("memwb::lora_mlp_gate_backward", mutates_args=("d_h",), device_types="cpu")
def _lora_mlp_gate_backward(
    d_h: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up; h is written over ``d_h``, its gradient."""
    d_gate, d_up = (
        torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (gate, up)
    )
    step = max(1, LORA_MLP_CHUNK // max(1, gate.shape[1]))
    for start in range(0, len(gate), step):
        part = slice(start, start + step)
        value, slope = _lora_mlp_activated(gate[part], activation, True)
        assert slope is not None
        u, d = up[part].to(value.dtype), d_h[part].to(value.dtype)
        d_gate[part] = slope.mul_(u).mul_(d)
        d_up[part] = d * value
        d_h[part] = value.mul_(u)
    return d_gate, d_up


@_lora_mlp_gate_backward.register_kernel("cuda")
def _(
    d_h: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    d_gate, d_up = (
        torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (gate, up)
    )
    rows, columns = gate.shape
    if d_h.numel():
        with _lora_mlp_device(gate):
            _lora_mlp_backward_kernel[(rows, triton.cdiv(columns, LORA_MLP_BLOCK))](
                d_h, gate, up, d_gate, d_up, columns, gate.stride(0), up.stride(0),
                ACTIVATION=activation, BLOCK=LORA_MLP_BLOCK, num_warps=4,
            )  # fmt: skip
    return d_gate, d_up


@_lora_mlp_gate_backward.register_fake
def _(
    d_h: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _lora_mlp_activated(
    gate: torch.Tensor, activation: str, backward: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The activation as gate's precision rounds it, and its slope, both in fp32 (or fp64)."""
    g = gate.to(torch.promote_types(gate.dtype, torch.float32))
    if activation == "silu":
        share = torch.sigmoid(g)
        value = g * share
        slope = share * (1 + g * (1 - share)) if backward else None
    elif activation == "tanh":
        bent = torch.tanh(0.7978845608028654 * (g + 0.044715 * g**3))
        value = 0.5 * g * (1 + bent)
        inner = 0.7978845608028654 * (1 + 0.134145 * g * g)
        slope = 0.5 * (1 + bent) + 0.5 * g * (1 - bent * bent) * inner if backward else None
    else:
        share = 0.5 * (1 + torch.erf(0.7071067811865476 * g))
        value = g * share
        slope = share + g * 0.3989422804014327 * torch.exp(-0.5 * g * g) if backward else None
    return value.to(gate.dtype).to(g.dtype), slope


@torch.library.custom_op("memwb::lora_mlp", mutates_args=(), device_types=("cpu", "cuda"))
def _lora_mlp(
    gate: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    activation: str,
    dtype: torch.dtype,
    absmax: torch.Tensor | None,
    nested_absmax: torch.Tensor | None,
    nested_code: torch.Tensor | None,
    offset: torch.Tensor | None,
    blocksize: int,
    kind: str,
) -> torch.Tensor:
    h = _lora_mlp_gate(gate, up, activation, dtype)
    shape = [b.shape[0], a.shape[1]]
    quantized = (absmax, nested_absmax, nested_code, offset, blocksize, kind)
    wide = _lora_mlp_weight(weight, shape, dtype, *quantized)
    y = torch.nn.functional.linear(h, wide, None if bias is None else bias.to(dtype))
    y.addmm_(h @ a.to(dtype).t(), b.to(dtype).t(), alpha=scale)
    return y


@_lora_mlp.register_fake
def _(
    gate: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    activation: str,
    dtype: torch.dtype,
    absmax: torch.Tensor | None,
    nested_absmax: torch.Tensor | None,
    nested_code: torch.Tensor | None,
    offset: torch.Tensor | None,
    blocksize: int,
    kind: str,
) -> torch.Tensor:
    return gate.new_empty((gate.shape[0], b.shape[0]), dtype=dtype)


def _lora_mlp_weight(
    weight: torch.Tensor,
    shape: list[int],
    dtype: torch.dtype,
    absmax: torch.Tensor | None,
    nested_absmax: torch.Tensor | None,
    nested_code: torch.Tensor | None,
    offset: torch.Tensor | None,
    blocksize: int,
    kind: str,
) -> torch.Tensor:
    """The matrix (outputs, inputs) in a precision; 4-bit blocks expanded by their library."""
    if absmax is None:
        return weight.to(dtype)
    operators: Any = torch.ops.bitsandbytes
    if nested_absmax is not None:
        absmax = operators.dequantize_blockwise(
            absmax, nested_absmax, nested_code, 256, torch.float32
        )
        assert offset is not None
        absmax = absmax + offset
    wide: torch.Tensor = operators.dequantize_4bit(
        weight.view(-1, 1), absmax, blocksize, kind, shape, dtype
    )
    return wide


def _lora_mlp_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gate, up, weight, _, a, b, ctx.scale, ctx.activation, ctx.dtype, *packed = inputs
    ctx.blocks = packed[4:]
    ctx.save_for_backward(gate, up, weight, a, b, *packed[:4])


def _lora_mlp_backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    saved: Any = ctx.saved_tensors
    gate, up, weight, a, b = saved[:5]
    packed = (*saved[5:], *ctx.blocks)
    if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
        raise NotImplementedError("the layer beside the adapter has to be frozen")
    dtype, scale = ctx.dtype, ctx.scale
    rows = gradient.to(dtype)
    thin = a.to(dtype)
    through = rows @ b.to(dtype)
    shape = [b.shape[0], a.shape[1]]
    h = rows @ _lora_mlp_weight(weight, shape, dtype, *packed)
    h.addmm_(through, thin, alpha=scale)
    # Until here it is h's gradient.
    d_gate, d_up = _lora_mlp_gate_backward(h, gate, up, ctx.activation)
    of_a = (through.t() @ h).to(a.dtype).mul_(scale)
    of_b = (rows.t() @ (h @ thin.t())).to(b.dtype).mul_(scale)
    return (d_gate, d_up, None, None, of_a, of_b, *(None,) * 9)


_lora_mlp.register_autograd(_lora_mlp_backward, setup_context=_lora_mlp_setup)
