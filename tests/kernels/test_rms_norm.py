"""RMSNorm against plain torch and fp64: the fallback, and the kernels in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from truth import check, kept, outcome

from memwb.kernels import rms_norm as module
from memwb.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference

KINDS = {"plain": (0.0, False), "llama": (0.0, True), "gemma": (1.0, False)}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = (torch.float32, torch.float16)
LAUNCHES = ["_rms_norm_forward_kernel", "_rms_norm_backward_kernel"]


def made(*shape: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def norms(kind: str, eps: float = 1e-6) -> tuple[Any, Any]:
    offset, cast_first = KINDS[kind]

    def ours(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return rms_norm(x, weight, eps, offset=offset, cast_first=cast_first)

    def plain(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return rms_norm_reference(x, weight, eps, offset=offset, cast_first=cast_first)

    return ours, plain


def adding(kind: str) -> tuple[Any, Any]:
    offset, cast_first = KINDS[kind]

    def ours(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
        return add_rms_norm(x, residual, weight, offset=offset, cast_first=cast_first)

    def plain(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
        total = x + residual
        return rms_norm_reference(total, weight, offset=offset, cast_first=cast_first), total

    return ours, plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 3, 31), (123, 123), (2, 4097), (4097, 2)])
def test_it_is_as_near_to_the_truth(kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    inputs = (made(*shape, dtype=dtype), made(shape[-1], dtype=dtype, seed=1))
    check(*norms(kind), inputs, cancels=shape[-1] == 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_so_is_the_sum_with_a_residual(dtype: torch.dtype) -> None:
    for kind in KINDS:
        rows = [made(3, 5, 31, dtype=dtype, seed=seed) for seed in (0, 1)]
        check(*adding(kind), (*rows, made(31, dtype=dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_small_and_large_values(dtype: torch.dtype, scale: float) -> None:
    check(*norms("llama"), (made(7, 64, dtype=dtype, scale=scale), made(64, dtype=dtype)))


def test_values_whose_squares_vanish_or_overflow_are_those_of_plain_torch() -> None:
    for scale in (1e-30, 1e30):
        x = made(3, 8, dtype=torch.float32, scale=scale)
        ours, plain = norms("llama")
        torch.testing.assert_close(ours(x, None), plain(x, None))


@pytest.mark.parametrize("dtype", INTERPRETED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 31), (70, 123), (2, 4097)])
def test_the_kernels_are_as_near(
    interpreted: Any, kind: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    inputs = (made(*shape, dtype=dtype), made(shape[-1], dtype=dtype, seed=1))
    with interpreted(module) as launched:
        check(*norms(kind), inputs, cancels=shape[-1] == 1)
    assert launched == LAUNCHES


@pytest.mark.parametrize("dtype", INTERPRETED)
def test_so_are_those_of_a_sum(interpreted: Any, dtype: torch.dtype) -> None:
    rows = [made(2, 5, 31, dtype=dtype, seed=seed) for seed in (0, 1)]
    with interpreted(module) as launched:
        check(*adding("gemma"), (*rows, made(31, dtype=dtype)))
    assert launched == LAUNCHES


def views() -> list[torch.Tensor]:
    """Rows that lie apart: heads of a projection, a slice, one row for all, columns apart."""
    heads = made(2, 5, 3, 8, dtype=torch.float32)
    return [
        heads.transpose(1, 2),
        made(4, 24, dtype=torch.float32)[:, 8:16],
        made(1, 8, dtype=torch.float32).expand(6, 8),
        made(8, 6, dtype=torch.float32).t(),
        made(2, 2, 2, 3, 8, dtype=torch.float32).transpose(1, 2),
        made(8, dtype=torch.float32),
        made(0, 8, dtype=torch.float32),
    ]


@pytest.mark.parametrize("place", range(len(views())))
def test_rows_may_lie_anywhere(interpreted: Any, place: int) -> None:
    inputs = (views()[place], made(8, dtype=torch.float32))
    check(*norms("gemma"), inputs)
    with interpreted(module):
        check(*norms("gemma"), inputs)


def test_a_gradient_may_lie_anywhere(interpreted: Any) -> None:
    x = made(4, 8, dtype=torch.float32)

    def expanded() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        rms_norm(leaf).sum().backward()
        assert leaf.grad is not None
        return [leaf.grad]

    plain = expanded()
    with interpreted(module):
        torch.testing.assert_close(expanded(), plain)


def test_what_is_kept_is_the_input_and_a_number_a_row() -> None:
    x = made(6, 16, dtype=torch.bfloat16).requires_grad_()
    weight = made(16, dtype=torch.bfloat16).requires_grad_()
    bf16, wide = torch.bfloat16, torch.float32
    rows = [((6, 16), bf16, True), ((16,), bf16, True), ((6,), wide, False)]
    assert kept(rms_norm, x, weight) == rows
    # Of a sum: the sum, which is also a result.
    assert kept(add_rms_norm, x, x, weight)[0] == ((6, 16), bf16, False)


def test_precisions_mix_as_in_the_families() -> None:
    x, weight = made(3, 8, dtype=torch.bfloat16), made(8, dtype=torch.float32)
    for kind, expected in (("llama", torch.float32), ("gemma", torch.bfloat16)):
        ours, plain = norms(kind)
        assert ours(x, weight).dtype == plain(x, weight).dtype == expected
        torch.testing.assert_close(ours(x, weight), plain(x, weight))


def test_a_frozen_weight_costs_nothing(interpreted: Any) -> None:
    x, weight = made(40, 8, dtype=torch.float32), made(8, dtype=torch.float32)
    results = []
    for trained in (True, False):
        with interpreted(module, processors=1):
            leaf, factor = x.clone().requires_grad_(), weight.clone().requires_grad_(trained)
            rms_norm(leaf, factor).square().sum().backward()
        assert (factor.grad is not None) == trained
        results.append(leaf.grad)
    torch.testing.assert_close(*results)
    dx, dw = module._rms_norm_backward(x, None, x, weight, x[:, 0].contiguous(), 0.0, False, False)
    assert dx.shape == x.shape and dw.numel() == 0


def test_rows_too_wide_for_shares_beside_them(
    interpreted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their weight's gradient is added up by another kernel, in blocks of columns.
    monkeypatch.setattr(module, "RMS_NORM_SUMMED", 64)
    inputs = made(3, 17, 300, dtype=torch.float16), made(300, dtype=torch.float16)
    for kind in ("llama", "gemma"):
        with interpreted(module) as launched:
            check(*norms(kind), inputs)
        assert launched == [*LAUNCHES, "_rms_norm_columns_kernel"]


def test_gradients_add_up_and_repeat_bit_by_bit(interpreted: Any) -> None:
    x, weight = made(70, 31, dtype=torch.float32), made(31, dtype=torch.float32)

    def twice() -> list[torch.Tensor]:
        leaf, factor = x.clone().requires_grad_(), weight.clone().requires_grad_()
        for _ in range(2):
            rms_norm(leaf, factor).square().sum().backward()
        return [leaf.grad, factor.grad]  # type: ignore[list-item]

    plain = outcome(norms("plain")[1], (x, weight), [2 * 2 * rms_norm(x, weight)])
    for found in (twice(), twice()):
        torch.testing.assert_close(found, plain[1:], rtol=1e-4, atol=1e-5)
    with interpreted(module):
        first, second = twice(), twice()
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        torch.testing.assert_close(first, plain[1:], rtol=1e-4, atol=1e-5)


def test_the_sum_alone_may_be_used() -> None:
    x = made(3, 8, dtype=torch.float32).requires_grad_()
    add_rms_norm(x, x)[1].sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full_like(x, 2.0))


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (made(2, 9, 8, dtype=torch.float32).transpose(0, 1), made(8, dtype=torch.float32))
    gradients = [made(9, 2, 8, dtype=torch.float32, seed=3)]
    whole = outcome(norms("llama")[0], inputs, gradients)
    monkeypatch.setattr(module, "RMS_NORM_CHUNK", 32)
    parts = outcome(norms("llama")[0], inputs, gradients)
    assert all(torch.equal(a, b) for a, b in zip(whole[:2], parts[:2], strict=True))
    torch.testing.assert_close(whole[2], parts[2])


def test_what_does_not_fit_is_refused(interpreted: Any) -> None:
    with pytest.raises(ValueError, match="residual is"):
        add_rms_norm(torch.ones(2, 4), torch.ones(1, 4))
    for size in (1, 3, 5):
        with pytest.raises(ValueError, match="weight is"):
            rms_norm(torch.ones(2, 4), torch.ones(size))
        with pytest.raises(ValueError, match="weight is"):
            add_rms_norm(torch.ones(2, 4), torch.ones(2, 4), torch.ones(size))
    with interpreted(module), pytest.raises(ValueError, match="no kernel for rows of"):
        rms_norm(torch.ones(1, 2**14 + 1))
    with interpreted(module), pytest.raises(ValueError, match="float64"):
        rms_norm(torch.ones(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("trained", [True, False])
def test_the_operators_are_what_torch_expects(trained: bool) -> None:
    x = made(2, 3, 8, dtype=torch.float32).requires_grad_()
    weight = made(8, dtype=torch.float32).requires_grad_(trained)
    view = made(2, 3, 2, 8, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
    for given in ((x, weight, 1e-6, 0.0, True), (view, weight, 1e-6, 1.0, False)):
        torch.library.opcheck(module._rms_norm, given)
    torch.library.opcheck(module._add_rms_norm, (x, x.detach(), weight, 1e-6, 1.0, False))
    rstd = torch.ones(2, 3)
    torch.library.opcheck(
        module._rms_norm_backward,
        (x.detach(), None, x.detach(), weight.detach(), rstd, 0.0, True, trained),
    )
