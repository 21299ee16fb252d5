"""LayerNorm against plain torch and fp64: the fallback, and the kernels in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from truth import check, kept, outcome

from memwb.kernels import layer_norm as module
from memwb.kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_reference

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = (torch.float32, torch.float16)
LAUNCHES = ["_layer_norm_forward_kernel", "_layer_norm_backward_kernel"]
SHAPES = [(5, 3), (2, 3, 31), (70, 123), (2, 4097), (4097, 31)]


def made(*shape: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def inputs_of(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    weight, bias = (made(shape[-1], dtype=dtype, seed=seed) for seed in (1, 2))
    return made(*shape, dtype=dtype, scale=scale), weight, bias


def plain_sum(x: torch.Tensor, residual: torch.Tensor, *rest: torch.Tensor) -> Any:
    return layer_norm_reference(x + residual, *rest), x + residual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_near_to_the_truth(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check(layer_norm, layer_norm_reference, inputs_of(*shape, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_so_is_the_sum_with_a_residual(dtype: torch.dtype) -> None:
    x, *rest = inputs_of(3, 5, 31, dtype=dtype)
    check(add_layer_norm, plain_sum, (x, made(3, 5, 31, dtype=dtype, seed=4), *rest))


def test_the_reference_is_torch_s_own() -> None:
    x, weight, bias = inputs_of(6, 31, dtype=torch.float32)
    own = torch.nn.functional.layer_norm(x, (31,), weight, bias)
    torch.testing.assert_close(layer_norm_reference(x, weight, bias), own)
    torch.testing.assert_close(layer_norm(x), torch.nn.functional.layer_norm(x, (31,)))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("scale", [1e-2, 1e4])
def test_small_and_large_values(dtype: torch.dtype, scale: float) -> None:
    check(layer_norm, layer_norm_reference, inputs_of(7, 64, dtype=dtype, scale=scale))


def test_values_far_from_zero_keep_their_differences(interpreted: Any) -> None:
    # A variance of squares minus the mean's square would be lost here.
    x = made(3, 123, dtype=torch.float32) + 1000
    check(layer_norm, layer_norm_reference, (x,))
    with interpreted(module):
        check(layer_norm, layer_norm_reference, (x,))


@pytest.mark.parametrize("dtype", INTERPRETED)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (70, 123), (2, 4097)])
def test_the_kernels_are_as_near(
    interpreted: Any, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    inputs = inputs_of(*shape, dtype=dtype)
    with interpreted(module) as launched:
        check(layer_norm, layer_norm_reference, inputs, cancels=shape[-1] == 1)
    assert launched == LAUNCHES


def test_so_are_those_of_a_sum_over_rows_apart(interpreted: Any) -> None:
    x = made(2, 5, 3, 8, dtype=torch.float32).transpose(1, 2)
    _, *rest = inputs_of(8, dtype=torch.float32)
    with interpreted(module) as launched:
        check(add_layer_norm, plain_sum, (x, made(2, 3, 5, 8, dtype=torch.float32), *rest))
    assert launched == LAUNCHES


def test_what_is_kept_is_the_input_and_two_numbers_a_row() -> None:
    x, weight, bias = (one.requires_grad_() for one in inputs_of(6, 16, dtype=torch.bfloat16))
    bf16, number = torch.bfloat16, ((6,), torch.float32, False)
    rows = [((6, 16), bf16, True), ((16,), bf16, True), number, number]
    assert kept(layer_norm, x, weight, bias) == rows


@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_only_what_is_trained_gets_a_gradient(interpreted: Any, trained: tuple[bool, bool]) -> None:
    x, *rest = inputs_of(40, 8, dtype=torch.float32)

    def gradients() -> list[Any]:
        pairs = zip([x, *rest], (True, *trained), strict=True)
        leaves = [one.clone().requires_grad_(wanted) for one, wanted in pairs]
        layer_norm(*leaves).square().sum().backward()
        return [one.grad for one in leaves]

    plain = gradients()
    assert [one is not None for one in plain[1:]] == list(trained)
    with interpreted(module, processors=1):
        for found, expected in zip(gradients(), plain, strict=True):
            if expected is None:
                assert found is None
            else:
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, *rest = inputs_of(2, 9, 8, dtype=torch.float32)
    inputs, gradients = (x.transpose(0, 1), *rest), [made(9, 2, 8, dtype=torch.float32, seed=3)]
    whole = outcome(layer_norm, inputs, gradients)
    monkeypatch.setattr(module, "LAYER_NORM_CHUNK", 32)
    parts = outcome(layer_norm, inputs, gradients)
    assert all(torch.equal(a, b) for a, b in zip(whole[:2], parts[:2], strict=True))
    torch.testing.assert_close(whole[2:], parts[2:])


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias = inputs_of(2, 3, 8, dtype=torch.float32)
    for sized in ((weight[:1], bias), (weight, bias[:1]), (weight.repeat(2), None)):
        with pytest.raises(ValueError, match="rows of 8 values"):
            layer_norm(x, *sized)
        with pytest.raises(ValueError, match="rows of 8 values"):
            add_layer_norm(x, x, *sized)


def test_the_operators_are_what_torch_expects() -> None:
    x, weight, bias = (one.requires_grad_() for one in inputs_of(2, 3, 8, dtype=torch.float32))
    torch.library.opcheck(module._layer_norm, (x, weight, bias, 1e-5))
    torch.library.opcheck(module._add_layer_norm, (x, x.detach(), weight, None, 1e-5))
    row = torch.ones(2, 3)
    torch.library.opcheck(
        module._layer_norm_backward, (x.detach(), None, x.detach(), None, row, row, True)
    )
