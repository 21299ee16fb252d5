"""Low-rank adapters that keep their layer's input for backward, and nothing else.

y = x Wᵀ + s (x Aᵀ) Bᵀ, where W is frozen as a rule and A, B are thin. Written out, autograd keeps
what enters A and what enters B: in half precision an fp32 copy of x for every projection that it
goes through, and x Aᵀ. Here x alone is kept, by reference, so that query, key and value share
one; backward computes x Aᵀ again, which is thin.

No Triton in here: the products are the matrix library's, the second added onto the first in
place. See docs/kernels/lora.md.
"""

from __future__ import annotations

from typing import Any

import torch


def lora_linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What ``lora_linear`` computes, written out."""
    linear = torch.nn.functional.linear
    return linear(x, weight, bias) + linear(linear(x, a), b) * scale


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """A linear layer and its adapter: x (..., inputs) to (..., outputs).

    ``weight`` is (outputs, inputs), ``a`` (rank, inputs), ``b`` (outputs, rank). All products are
    in x's precision, or in autocast's where it is on; so is the result. Gradients have the
    precision of what they are of.
    """
    y: torch.Tensor = _lora_linear(x, weight, bias, a, b, scale, _lora_dtype(x))
    return y


def lora_add(
    base: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """base + s (x Aᵀ) Bᵀ: an adapter beside whatever made ``base`` of x, in base's precision.

    For a quantized layer, whose own operator keeps no more than its packed weight.
    """
    y: torch.Tensor = _lora_add(base, x, a, b, scale, _lora_dtype(x))
    return y


def _lora_dtype(x: torch.Tensor) -> torch.dtype:
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


@torch.library.custom_op("memwb::lora_linear", mutates_args=(), device_types=("cpu", "cuda"))
def _lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    y = torch.nn.functional.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
    y.addmm_(rows @ a.to(dtype).t(), b.to(dtype).t(), alpha=scale)
    return y.view(*x.shape[:-1], weight.shape[0])


@_lora_linear.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


def _lora_linear_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, a, b, ctx.scale, ctx.dtype = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, a, b)


def _lora_linear_backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    x, weight, a, b = ctx.saved_tensors
    rows = gradient.reshape(-1, gradient.shape[-1]).to(ctx.dtype)
    through, of_a, of_b = _lora_gradients(rows, x, a, b, ctx.scale)
    of_x = of_weight = of_bias = None
    if ctx.needs_input_grad[0]:
        of_x = rows @ weight.to(ctx.dtype)
        of_x = of_x.addmm_(through, a.to(ctx.dtype), alpha=ctx.scale).to(x.dtype).view(x.shape)
    if ctx.needs_input_grad[1]:
        of_weight = (rows.t() @ x.reshape(-1, x.shape[-1]).to(ctx.dtype)).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        of_bias = rows.sum(0, dtype=ctx.bias_dtype)
    return of_x, of_weight, of_bias, of_a, of_b, None, None


def _lora_gradients(
    rows: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient as it comes through B, and those of A and B; the products in rows' precision."""
    dtype = rows.dtype
    inputs = x.reshape(-1, x.shape[-1]).to(dtype)
    through = rows @ b.to(dtype)
    of_a = (through.t() @ inputs).to(a.dtype).mul_(scale)
    of_b = (rows.t() @ (inputs @ a.to(dtype).t())).to(b.dtype).mul_(scale)
    return through, of_a, of_b


_lora_linear.register_autograd(_lora_linear_backward, setup_context=_lora_linear_setup)


@torch.library.custom_op("memwb::lora_add", mutates_args=(), device_types=("cpu", "cuda"))
def _lora_add(
    base: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    inner = x.reshape(-1, x.shape[-1]).to(dtype) @ a.to(dtype).t()
    rows = base.reshape(-1, base.shape[-1])
    if base.dtype == dtype:
        y = torch.addmm(rows, inner, b.to(dtype).t(), alpha=scale)
    else:
        y = rows.add(inner @ b.to(dtype).t(), alpha=scale).to(base.dtype)
    return y.view(base.shape)


@_lora_add.register_fake
def _(
    base: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    return base.new_empty(base.shape)


def _lora_add_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, x, a, b, ctx.scale, ctx.dtype = inputs
    ctx.save_for_backward(x, a, b)


def _lora_add_backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    x, a, b = ctx.saved_tensors
    rows = gradient.reshape(-1, gradient.shape[-1]).to(ctx.dtype)
    through, of_a, of_b = _lora_gradients(rows, x, a, b, ctx.scale)
    of_x = None
    if ctx.needs_input_grad[1]:
        of_x = (through @ a.to(ctx.dtype)).mul_(ctx.scale).to(x.dtype).view(x.shape)
    return gradient, of_x, of_a, of_b, None, None


_lora_add.register_autograd(_lora_add_backward, setup_context=_lora_add_setup)
