"""SwiGLU and GeGLU against plain torch and fp64: fallbacks, and kernels in Triton's interpreter."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from truth import check, kept, outcome

from memwb.kernels import geglu as gelu_module
from memwb.kernels import swiglu as silu_module
from memwb.kernels.geglu import geglu, geglu_packed, geglu_reference
from memwb.kernels.swiglu import swiglu, swiglu_packed, swiglu_reference

KINDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "silu": (silu_module, swiglu, swiglu_packed, swiglu_reference),
    **{
        name: (
            gelu_module,
            partial(geglu, tanh=tanh),
            partial(geglu_packed, tanh=tanh),
            partial(geglu_reference, tanh=tanh),
        )
        for name, tanh in (("tanh", True), ("erf", False))
    },
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = (torch.float32, torch.float16)
SHAPES = [(1, 1), (5, 3), (2, 3, 31), (123, 123), (1, 4097), (4097, 1)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Any, Any, Any, Any]:
    return KINDS[request.param]


def made(*shape: int, dtype: torch.dtype, scale: float = 2.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def pair(*shape: int, dtype: torch.dtype, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    return made(*shape, dtype=dtype, scale=scale), made(*shape, dtype=dtype, seed=1)


def halved(plain: Any) -> Any:
    return lambda both: plain(*both.chunk(2, dim=-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_as_near_to_the_truth(kind: Any, dtype: torch.dtype) -> None:
    _, ours, packed, plain = kind
    for shape in SHAPES:
        check(ours, plain, pair(*shape, dtype=dtype))
        both = made(*shape[:-1], 2 * shape[-1], dtype=dtype)
        check(packed, halved(plain), (both,))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("scale", [1e-4, 1e2])
def test_small_and_large_values(kind: Any, dtype: torch.dtype, scale: float) -> None:
    _, ours, _, plain = kind
    check(ours, plain, pair(7, 64, dtype=dtype, scale=scale))


def test_huge_values_are_the_gate_s_or_nothing(kind: Any, interpreted: Any) -> None:
    module, ours, _, _ = kind
    gate = torch.tensor([[1e30, -1e30, 1e4, -1e4, 0.0]])
    gradients = [torch.ones_like(gate)]

    def right() -> None:
        y, d_gate, d_up = outcome(ours, (gate, torch.ones_like(gate)), gradients)
        expected = torch.tensor([[1e30, 0.0, 1e4, 0.0, 0.0]])
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(d_up, expected)
        torch.testing.assert_close(d_gate, torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.5]]))

    right()
    with interpreted(module):
        right()


@pytest.mark.parametrize("dtype", INTERPRETED)
def test_the_kernels_are_as_near(kind: Any, interpreted: Any, dtype: torch.dtype) -> None:
    module, ours, packed, plain = kind
    with interpreted(module) as launched:
        for shape in SHAPES[:-2]:
            small = shape if shape[0] < 9 else (9, 123)
            check(ours, plain, pair(*small, dtype=dtype))
            check(packed, halved(plain), (made(*small[:-1], 2 * small[-1], dtype=dtype),))
        check(ours, plain, pair(1, 4097, dtype=dtype))
    name = module.__name__.rpartition(".")[2]
    assert launched == 9 * [f"_{name}_forward_kernel", f"_{name}_backward_kernel"]


def test_rows_may_lie_apart(kind: Any, interpreted: Any) -> None:
    module, ours, _, plain = kind
    views = [
        made(4, 48, dtype=torch.float32).chunk(2, -1),
        [one.transpose(0, 1) for one in pair(3, 4, 8, dtype=torch.float32)],
        [one.t() for one in pair(8, 4, dtype=torch.float32)],
        [one[0] for one in pair(2, 8, dtype=torch.float32)],
        pair(0, 8, dtype=torch.float32),
    ]
    for inputs in views:
        check(ours, plain, inputs)
        with interpreted(module):
            check(ours, plain, inputs)


def test_only_gate_and_up_are_kept_and_never_written(kind: Any, interpreted: Any) -> None:
    module, ours, packed, _ = kind
    gate, up = (one.requires_grad_() for one in pair(6, 16, dtype=torch.bfloat16))
    both = made(6, 32, dtype=torch.bfloat16).requires_grad_()
    assert kept(ours, gate, up) == 2 * [((6, 16), torch.bfloat16, True)]
    assert kept(packed, both) == [((6, 32), torch.bfloat16, True)]
    inputs = pair(6, 16, dtype=torch.float32)
    before = [one.clone() for one in inputs]
    with interpreted(module):
        outcome(ours, inputs, [torch.ones(6, 16)])
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_the_fallback_s_result_is_plain_torch_s_bit_by_bit(kind: Any) -> None:
    _, ours, _, plain = kind
    for dtype in DTYPES:
        inputs = pair(9, 123, dtype=dtype)
        assert torch.equal(ours(*inputs), plain(*inputs))


def test_precisions_mix_as_in_plain_torch(kind: Any) -> None:
    _, ours, _, plain = kind
    gate, up = made(3, 8, dtype=torch.bfloat16), made(3, 8, dtype=torch.float32)
    check(ours, plain, (gate, up))


def test_chunks_make_no_difference(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, ours, _, _ = kind
    inputs, gradients = pair(9, 8, dtype=torch.float32), [made(9, 8, dtype=torch.float32, seed=3)]
    whole = outcome(ours, inputs, gradients)
    name = next(name for name in vars(module) if name.endswith("_CHUNK"))
    monkeypatch.setattr(module, name, 24)
    for one, other in zip(whole, outcome(ours, inputs, gradients), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_add_up_over_two_uses(kind: Any) -> None:
    _, ours, _, plain = kind

    def twice(function: Any) -> list[Any]:
        leaves = [one.requires_grad_() for one in pair(3, 8, dtype=torch.float32)]
        for _ in range(2):
            function(*leaves).square().sum().backward()
        return [one.grad for one in leaves]

    torch.testing.assert_close(twice(ours), twice(plain))


def test_what_does_not_fit_is_refused(kind: Any) -> None:
    _, ours, packed, _ = kind
    with pytest.raises(ValueError, match="gate is"):
        ours(torch.ones(2, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match="of one size"):
        packed(torch.ones(2, 3))


def test_the_operators_are_what_torch_expects() -> None:
    gate, up = (one.requires_grad_() for one in pair(3, 8, dtype=torch.float32))
    both = made(3, 16, dtype=torch.bfloat16).requires_grad_()
    grad = torch.ones(3, 8)
    cheap = ("test_schema", "test_faketensor")
    for module, name, more in ((silu_module, "swiglu", ()), (gelu_module, "geglu", (True,))):
        torch.library.opcheck(getattr(module, f"_{name}"), (gate, up, *more))
        torch.library.opcheck(getattr(module, f"_{name}_packed"), (both, *more))
        inputs = (grad, gate.detach(), up.detach(), *more)
        torch.library.opcheck(getattr(module, f"_{name}_backward"), inputs, test_utils=cheap)
        inputs = (grad.bfloat16(), both.detach(), *more)
        torch.library.opcheck(getattr(module, f"_{name}_packed_backward"), inputs, test_utils=cheap)
