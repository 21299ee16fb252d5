"""The last product of a gated MLP: the reference's results and gradients, and two kept tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from memwb.kernels import lora_mlp as kernel
from memwb.kernels.lora_mlp import Packed4Bit, lora_mlp, lora_mlp_reference

SHAPES = [(1, 1, 1, 1), (3, 5, 2, 1), (31, 33, 17, 3), (123, 64, 40, 16), (2, 4097, 3, 2)]
"""Rows, inputs, outputs, rank."""
ACTIVATIONS = ["silu", "gelu", "tanh"]


class Case:
    """Inputs of one shape in fp64, and what comes of them in a precision."""

    def __init__(self, shape: tuple[int, int, int, int], spread: float = 2.0) -> None:
        rows, inputs, outputs, rank = shape
        make = torch.Generator().manual_seed(rows + inputs)

        def draw(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=make, dtype=torch.float64)

        self.both = draw(rows, 2 * inputs) * spread
        self.weight = draw(outputs, inputs) / inputs**0.5
        self.bias = draw(outputs)
        self.a = draw(rank, inputs) / inputs**0.5
        self.b = draw(outputs, rank)
        self.gradient = draw(rows, outputs)

    def run(
        self, function: Any, dtype: torch.dtype, activation: str, packed: bool = False
    ) -> list[torch.Tensor]:
        """The result and the gradients of gate, up, A and B, in fp64.

        ``packed`` has gate and up side by side in one tensor.
        """
        parts = [self.both.to(dtype, copy=True)] if packed else self.both.to(dtype).chunk(2, -1)
        roots = [one.detach().clone().requires_grad_() for one in parts]
        gate, up = roots[0].chunk(2, -1) if packed else roots
        a, b = (one.to(dtype, copy=True).requires_grad_() for one in (self.a, self.b))
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        y = function(gate, up, weight, bias, a, b, 1.5, activation)
        y.backward(self.gradient.to(dtype))
        gradients = [one.grad for one in roots]
        joined = torch.cat([one for one in gradients if one is not None], -1)
        assert a.grad is not None and b.grad is not None and y.dtype == dtype
        return [one.detach().double() for one in (y, joined, a.grad, b.grad)]


def worst(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp64_only_the_order_of_sums_differs(
    shape: tuple[int, int, int, int], activation: str, packed: bool
) -> None:
    case = Case(shape)
    true = case.run(lora_mlp_reference, torch.float64, activation)
    found = case.run(lora_mlp, torch.float64, activation, packed)
    for one, wanted in zip(found, true, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-11)


def as_near(case: Case, dtype: torch.dtype, activation: str) -> None:
    """Twice the framework's own error, and 3 eps: a number here is rounded six times on its way
    (activation, h, h Aᵀ, its product with B, the layer's product, their sum), and a few may all
    round luckily."""
    true = case.run(lora_mlp_reference, torch.float64, activation)
    plain = case.run(lora_mlp_reference, dtype, activation)
    found = case.run(lora_mlp, dtype, activation)
    for one, own, wanted in zip(found, plain, true, strict=True):
        assert worst(one, wanted) <= 2 * worst(own, wanted) + 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64_it_is_as_near_as_the_framework(
    shape: tuple[int, int, int, int], activation: str, dtype: torch.dtype
) -> None:
    as_near(Case(shape), dtype, activation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[4]])
def test_so_are_the_kernels_of_the_gpu(
    shape: tuple[int, int, int, int], activation: str, dtype: torch.dtype, interpreted: Any
) -> None:
    case = Case(shape)
    with interpreted(kernel) as launched:
        as_near(case, dtype, activation)
        packed = case.run(lora_mlp, dtype, activation, packed=True)
        apart = case.run(lora_mlp, dtype, activation)
    assert {*launched} == {"_lora_mlp_gate_kernel", "_lora_mlp_backward_kernel"}
    torch.testing.assert_close(packed, apart, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_gates_give_no_nan(activation: str, interpreted: Any) -> None:
    case = Case((3, 33, 2, 1))
    case.both[0] = torch.linspace(-3e4, 3e4, 66, dtype=torch.float64)
    case.both[1] = 0
    true = case.run(lora_mlp_reference, torch.float64, activation)
    for on_a_gpu in (False, True):
        if on_a_gpu:
            with interpreted(kernel):
                found = case.run(lora_mlp, torch.float32, activation)
        else:
            found = case.run(lora_mlp, torch.float32, activation)
        for one, wanted in zip(found, true, strict=True):
            assert worst(one, wanted) < 1e-5


def test_what_is_kept_is_gate_and_up_and_what_the_model_holds_anyway() -> None:
    case = Case((31, 33, 17, 3))
    gate, up = (one.bfloat16().requires_grad_() for one in case.both.chunk(2, -1))
    held = [case.weight.bfloat16(), case.a.float().requires_grad_(), case.b.float()]
    given = {one.untyped_storage()._cdata for one in (gate, up, *held)}
    kept = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.untyped_storage()._cdata)
        return tensor

    inputs = [gate.contiguous(), up.contiguous()]
    given |= {one.untyped_storage()._cdata for one in inputs}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = lora_mlp(*inputs, held[0], None, held[1], held[2], 1.0, "silu")
    assert {one.untyped_storage()._cdata for one in inputs} <= kept <= given
    del y


def test_a_trained_layer_is_refused() -> None:
    case = Case((3, 5, 2, 1))
    gate, up = case.both.chunk(2, -1)
    weight = case.weight.requires_grad_()
    with pytest.raises(NotImplementedError, match="frozen"):
        lora_mlp(gate, up, weight, None, case.a, case.b, 1.0, "silu").sum().backward()
    with pytest.raises(ValueError, match="relu"):
        lora_mlp(gate, up, weight, None, case.a, case.b, 1.0, "relu")
    with pytest.raises(ValueError, match="gate is"):
        lora_mlp(gate, up[:1], weight, None, case.a, case.b, 1.0, "silu")


@pytest.mark.parametrize("nested", [False, True])
def test_4_bit_blocks_are_expanded_as_their_library_does(nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    case = Case((7, 128, 64, 4))
    values, state = functional.quantize_4bit(
        case.weight.float(), quant_type="nf4", compress_statistics=nested
    )
    wide = functional.dequantize_4bit(values, state)
    packed = Packed4Bit(state.absmax, state.blocksize, state.quant_type)
    if nested:
        inner = state.state2
        packed = packed._replace(
            nested_absmax=inner.absmax, nested_code=inner.code, offset=state.offset
        )

    def quantized(gate: Any, up: Any, weight: Any, *rest: Any) -> torch.Tensor:
        return lora_mlp(gate, up, values, *rest, packed=packed)

    case.weight = wide.double()
    true = case.run(lora_mlp_reference, torch.float32, "silu")
    for one, wanted in zip(case.run(quantized, torch.float32, "silu"), true, strict=True):
        assert worst(one, wanted) < 1e-5


def test_the_operators_are_what_torch_takes_them_for() -> None:
    case = Case((6, 8, 4, 2))
    gate, up = (one.float().contiguous() for one in case.both.chunk(2, -1))
    a, b = case.a.float().requires_grad_(), case.b.float().requires_grad_()
    some = ("test_schema", "test_autograd_registration", "test_faketensor")
    check = torch.library.opcheck
    check(kernel._lora_mlp_gate, (gate, up, "silu", torch.float32), test_utils=some)
    check(kernel._lora_mlp_gate_backward, (gate.clone(), gate, up, "tanh"), test_utils=some)
    inputs = (gate.requires_grad_(), up.requires_grad_(), case.weight.float(), None, a, b)
    check(
        kernel._lora_mlp,
        (*inputs, 0.5, "gelu", torch.float32, None, None, None, None, 0, ""),
    )
