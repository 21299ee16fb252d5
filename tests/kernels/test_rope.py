"""Rotary positions: bit by bit those of plain torch, as the fallback and as the kernel has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from truth import kept, outcome

from memwb.kernels import rope as module
from memwb.kernels.rope import rope, rope_reference

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Batch, query heads, key heads, tokens, width of a head, rotated width.
SHAPES = [(1, 1, 1, 1, 2, 2), (2, 4, 2, 3, 8, 8), (1, 3, 1, 31, 12, 6), (2, 5, 5, 7, 246, 82)]


def made(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype, angles: Any = None) -> list[Any]:
    """Queries and keys as a projection makes them: transposed views. cos and sin, unrelated."""
    batch, q_heads, k_heads, tokens, width, rotated = shape
    q = made(batch, tokens, q_heads, width, dtype=dtype).transpose(1, 2)
    k = made(batch, tokens, k_heads, width, dtype=dtype, seed=1).transpose(1, 2)
    return [q, k, *(made(1, tokens, rotated, dtype=angles or dtype, seed=seed) for seed in (2, 3))]


def both(function: Any, inputs: list[Any]) -> Any:
    """Results and gradients; the angles have none."""
    q, k, cos, sin = inputs
    with torch.no_grad():
        shapes = [one.shape for one in function(q, k, cos, sin)]
    gradients = [made(*shape, dtype=torch.float32, seed=9) for shape in shapes]
    return outcome(lambda q, k: function(q, k, cos, sin), (q, k), gradients)


def same(ours: Any, plain: Any, inputs: list[Any]) -> None:
    for found, expected in zip(both(ours, inputs), both(plain, inputs), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_plain_torch_s_bit_by_bit(
    shape: tuple[int, ...], dtype: torch.dtype, interleaved: bool
) -> None:
    ours, plain = (partial(one, interleaved=interleaved) for one in (rope, rope_reference))
    same(ours, plain, inputs_of(shape, dtype))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [SHAPES[0], (1, 3, 1, 3, 12, 6), (1, 5, 5, 2, 246, 82)])
def test_so_is_the_kernel(
    interpreted: Any, shape: tuple[int, ...], dtype: torch.dtype, interleaved: bool
) -> None:
    ours, plain = (partial(one, interleaved=interleaved) for one in (rope, rope_reference))
    with interpreted(module) as launched:
        same(ours, plain, inputs_of(shape, dtype))
    assert set(launched) == {"_rope_kernel"}


@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
)
def test_angles_of_more_precision(interpreted: Any, dtypes: tuple[Any, Any]) -> None:
    # As under autocast: projections in half precision, angles in that of the residual stream.
    inputs = inputs_of(SHAPES[1], *dtypes)
    same(rope, rope_reference, inputs)
    if torch.bfloat16 not in dtypes:
        with interpreted(module):
            same(rope, rope_reference, inputs)


def test_rows_and_angles_may_lie_anywhere(interpreted: Any) -> None:
    q, k, cos, sin = inputs_of(SHAPES[1], torch.float32)
    packed = made(2, 3, 64, dtype=torch.float32).unflatten(-1, (8, 8)).transpose(1, 2)
    of_each = [one.expand(2, -1, -1).contiguous() * 0.5 for one in (cos, sin)]
    turned = [one.transpose(-1, -2).contiguous().transpose(-1, -2) for one in (q, k, cos, sin)]
    cases = [
        [q.contiguous(), k.contiguous(), cos, sin],
        [packed[:, :4], packed[:, 4:6], *of_each],
        [q, k, cos.expand(2, -1, -1), sin.expand(2, -1, -1)],
        turned,
        [q[:, :, :0], k[:, :, :0], cos[:, :0], sin[:, :0]],
    ]
    for inputs in cases:
        same(rope, rope_reference, inputs)
        with interpreted(module):
            same(rope, rope_reference, inputs)


def test_it_is_llama_s_own() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    inputs = inputs_of((2, 4, 2, 5, 8, 8), torch.bfloat16)
    same(rope, apply_rotary_pos_emb, inputs)


def test_nothing_is_kept_but_the_angles_and_nothing_is_written() -> None:
    inputs = inputs_of(SHAPES[1], torch.float32)
    before = [one.clone() for one in inputs]
    q, k, cos, sin = inputs
    angle = ((1, 3, 8), torch.float32, True)
    leaves = q.detach().requires_grad_(), k.detach().requires_grad_()
    assert kept(rope, *leaves, cos, sin) == [angle, angle]
    both(rope, inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_turning_back_gives_what_was_turned() -> None:
    q, k, *_ = inputs_of((1, 2, 1, 31, 8, 8), torch.float64)
    angle = made(1, 31, 4, dtype=torch.float64).repeat(1, 1, 2)
    turned = rope(q, k, angle.cos(), angle.sin())
    back = rope(*turned, angle.cos(), -angle.sin())
    torch.testing.assert_close(back, (q, k))


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROPE_CHUNK", 100)
    same(rope, rope_reference, inputs_of(SHAPES[2], torch.bfloat16))


def test_what_does_not_fit_is_refused() -> None:
    q, k, cos, sin = inputs_of(SHAPES[1], torch.float32)
    for angles in ((cos, sin[..., :4]), (cos[..., :3], sin[..., :3]), (cos.repeat(1, 1, 2),) * 2):
        with pytest.raises(ValueError, match="heads of 8 values"):
            rope(q, k, *angles)
    others = ((k, cos[:, :2], sin[:, :2]), (k[:1], cos, sin), (k[:, :, :2], cos, sin))
    for one in (*others, (k[..., :4], cos, sin), (k, cos.repeat(3, 1, 1), sin.repeat(3, 1, 1))):
        with pytest.raises(ValueError, match="queries"):
            rope(q, *one)


def test_the_operators_are_what_torch_expects() -> None:
    q, k, cos, sin = inputs_of(SHAPES[2], torch.float32)
    leaves = q.detach().requires_grad_(), k.detach().requires_grad_()
    torch.library.opcheck(module._rope, (*leaves, cos, sin, False))
    kinds = (torch.bfloat16, torch.float32)
    torch.library.opcheck(module._rope_backward, (q, k, cos, sin, True, *kinds))
