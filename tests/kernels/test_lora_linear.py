"""Adapters fused with their layer: the reference's results and gradients, and one kept input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memwb.kernels import lora_linear as kernel
from memwb.kernels.lora_linear import lora_add, lora_linear, lora_linear_reference

SHAPES = [(1, 1, 1, 1), (3, 5, 2, 1), (31, 33, 17, 3), (123, 64, 40, 16), (1, 4097, 3, 2)]
"""Rows, inputs, outputs, rank."""


class Case:
    """Inputs of one shape in fp64, and what comes of them in a precision."""

    def __init__(self, shape: tuple[int, int, int, int], bias: bool = True) -> None:
        rows, inputs, outputs, rank = shape
        make = torch.Generator().manual_seed(rows + inputs)

        def draw(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=make, dtype=torch.float64)

        self.x = draw(rows, inputs)
        self.weight = draw(outputs, inputs) / inputs**0.5
        self.bias = draw(outputs) if bias else None
        self.a = draw(rank, inputs) / inputs**0.5
        self.b = draw(outputs, rank)
        self.gradient = draw(rows, outputs)
        self.scale = 1.5

    def run(
        self, function: Any, dtype: torch.dtype, adapters: torch.dtype | None = None
    ) -> list[torch.Tensor]:
        """The result and the gradients of x, A and B, in fp64."""
        x = self.x.to(dtype, copy=True).requires_grad_()
        a = self.a.to(adapters or dtype, copy=True).requires_grad_()
        b = self.b.to(adapters or dtype, copy=True).requires_grad_()
        bias = None if self.bias is None else self.bias.to(dtype)
        y = function(x, self.weight.to(dtype), bias, a, b, self.scale)
        y.backward(self.gradient.to(y.dtype))
        assert x.grad is not None and a.grad is not None and b.grad is not None
        assert (x.grad.dtype, a.grad.dtype, b.grad.dtype) == (x.dtype, a.dtype, b.dtype)
        return [one.detach().double() for one in (y, x.grad, a.grad, b.grad)]


def beside(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """``lora_add`` beside a layer of its own, as a quantized one is."""
    return lora_add(torch.nn.functional.linear(x, weight, bias), x, a, b, scale)


def worst(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("function", [lora_linear, beside])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp64_only_the_order_of_sums_differs(
    shape: tuple[int, int, int, int], bias: bool, function: Any
) -> None:
    case = Case(shape, bias)
    true = case.run(lora_linear_reference, torch.float64)
    for found, wanted in zip(case.run(function, torch.float64), true, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("function", [lora_linear, beside])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64_it_is_as_near_as_the_framework(
    shape: tuple[int, int, int, int], dtype: torch.dtype, function: Any
) -> None:
    """Twice the framework's own error, and 2 eps: a number here is rounded four times on its way
    (x Aᵀ, its product with B, the layer's product, their sum), and a few may all round luckily."""
    case = Case(shape)
    true = case.run(lora_linear_reference, torch.float64)
    plain = case.run(lora_linear_reference, dtype)
    found = case.run(function, dtype)
    for one, own, wanted in zip(found, plain, true, strict=True):
        assert worst(one, wanted) <= 2 * worst(own, wanted) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("function", [lora_linear, beside])
def test_adapters_in_fp32_beside_half_precision(function: Any) -> None:
    """As peft has them; it computes them in fp32, and here they are rounded like the layer."""
    case = Case((123, 64, 40, 16))
    true = case.run(lora_linear_reference, torch.float64)
    found = case.run(function, torch.bfloat16, torch.float32)
    for one, wanted in zip(found, true, strict=True):
        assert worst(one, wanted) <= 3 * torch.finfo(torch.bfloat16).eps


def test_the_layer_itself_may_be_trained() -> None:
    case = Case((31, 33, 17, 3))
    found = []
    for function in (lora_linear, lora_linear_reference):
        assert case.bias is not None
        trained = [one.clone().requires_grad_() for one in (case.weight, case.bias)]
        function(case.x, *trained, case.a, case.b, 0.5).backward(case.gradient)
        found.append([one.grad for one in trained])
    torch.testing.assert_close(found[0], found[1])


def test_autocast_decides_the_precision() -> None:
    case = Case((31, 33, 17, 3))
    x, weight, a, b = (
        one.float().requires_grad_(one is not case.weight)
        for one in (case.x, case.weight, case.a, case.b)
    )
    with torch.autocast("cpu", torch.bfloat16):
        y = lora_linear(x, weight, None, a, b, 2.0)
        plain = lora_linear_reference(x, weight, None, a, b, 2.0)
        added = lora_add(torch.nn.functional.linear(x, weight).float(), x, a, b, 2.0)
    assert y.dtype == plain.dtype == torch.bfloat16 and added.dtype == torch.float32
    torch.testing.assert_close(y, plain, rtol=0.03, atol=0.1)
    torch.testing.assert_close(added.bfloat16(), plain, rtol=0.03, atol=0.1)
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


@pytest.mark.parametrize("view", ["rows", "batch", "transposed weight", "none"])
def test_views_and_many_dimensions(view: str) -> None:
    case = Case((24, 16, 8, 4), bias=False)
    x, weight = case.x.reshape(2, 3, 4, 16), case.weight
    if view == "rows":
        x = torch.stack([x, x], -1)[..., 0]
    elif view == "batch":
        x = x.transpose(0, 2)
    elif view == "transposed weight":
        weight = weight.t().contiguous().t()
    elif view == "none":
        x = x[:0]
    for function in (lora_linear, beside):
        found, wanted = [], []
        for one, run in ((found, function), (wanted, lora_linear_reference)):
            inputs = [t.detach().clone().requires_grad_() for t in (case.a, case.b)]
            there = x.detach().requires_grad_()
            y = run(there, weight, None, *inputs, 0.7)
            y.sum().backward()
            one += [y, there.grad, *(t.grad for t in inputs)]
        torch.testing.assert_close(found, wanted)


def test_gradients_are_added_and_none_is_made_that_nobody_wants() -> None:
    case = Case((31, 33, 17, 3))
    a, b = (one.requires_grad_() for one in (case.a, case.b))
    for _ in range(2):
        lora_linear(case.x, case.weight, None, a, b, 1.0).backward(case.gradient)
    twice = a.grad
    a.grad = b.grad = None
    lora_linear(case.x, case.weight, None, a, b, 1.0).backward(case.gradient)
    assert twice is not None and a.grad is not None and case.x.grad is None
    torch.testing.assert_close(twice, 2 * a.grad)


@pytest.mark.parametrize("function", [lora_linear, beside])
def test_what_is_kept_is_x_itself_and_what_the_model_holds_anyway(function: Any) -> None:
    case = Case((31, 33, 17, 3), bias=False)
    x = case.x.bfloat16().requires_grad_()
    held = [case.weight.bfloat16(), case.a.float(), case.b.float()]
    given = {one.untyped_storage()._cdata for one in (x, *held)}
    kept = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.untyped_storage()._cdata)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = function(x, held[0], None, held[1].requires_grad_(), held[2].requires_grad_(), 1.0)
    assert x.untyped_storage()._cdata in kept and kept <= given
    del y


def test_the_operators_are_what_torch_takes_them_for() -> None:
    dtype = torch.bfloat16
    case = Case((6, 8, 4, 2))
    assert case.bias is not None
    x, weight, bias, a, b = (
        one.to(dtype) for one in (case.x, case.weight, case.bias, case.a, case.b)
    )
    x = x.reshape(2, 3, 8)
    for one in (x, a, b):
        one.requires_grad_()
    base = torch.nn.functional.linear(x, weight, bias)
    torch.library.opcheck(kernel._lora_linear, (x, weight, bias, a, b, 0.5, dtype))
    # What it is traced to for compilers is slow to check, and alike.
    some = ("test_schema", "test_autograd_registration", "test_faketensor")
    inputs = (base.detach(), x, a, b, 0.5, dtype)
    torch.library.opcheck(kernel._lora_add, inputs, test_utils=some)
