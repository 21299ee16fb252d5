"""What both losses without logits owe: masked words, ignored labels, strides, frozen parts."""

from __future__ import annotations

import functools
from typing import Any

import losses
import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")

from memwb.kernels.cut_cross_entropy import cut_cross_entropy
from memwb.kernels.fused_linear_cross_entropy import fused_linear_cross_entropy


@pytest.fixture(params=["cut", "fused"])
def loss(request: pytest.FixtureRequest) -> Any:
    """Each of the losses; the fused one in many chunks."""
    sevens = functools.partial(fused_linear_cross_entropy, chunk_size=7)
    return {"cut": cut_cross_entropy, "fused": sevens}[request.param]


def test_words_that_a_bias_masks(loss: Any) -> None:
    case = losses.case(9, 31)
    with torch.no_grad():
        case.bias[7:13] = -torch.inf
    case.labels[:] = 3
    value, *found = losses.outcome(loss, case)
    assert value.isfinite() and all(one.isfinite().all() for one in found)
    assert found[1][7:13].eq(0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_labels_ignored(loss: Any, reduction: str) -> None:
    case = losses.case(9, 31, ignored=1)
    value, *found = losses.outcome(loss, case, reduction)
    assert value.isnan().all() if reduction == "mean" else value.eq(0).all()
    assert all(one.eq(0).all() for one in found)


def test_other_strides(loss: Any) -> None:
    case = losses.case(12, 31)
    hidden, weight = (one.detach().t().contiguous().t().requires_grad_() for one in case[:2])
    turned = losses.Case(hidden, weight, *case[2:])
    for one, other in zip(
        losses.outcome(loss, turned),
        losses.outcome(loss, case),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient(loss: Any, trained: str) -> None:
    case = losses.case(12, 31)
    alone = losses.Case(*(one.detach() for one in case))
    getattr(alone, trained).requires_grad_()
    loss(alone.hidden, alone.weight, alone.labels, alone.bias).backward()
    found = torch.autograd.grad(
        loss(case.hidden, case.weight, case.labels, case.bias), getattr(case, trained)
    )[0]
    torch.testing.assert_close(getattr(alone, trained).grad, found)
    assert [one.grad is None for one in alone].count(False) == 1
    with torch.no_grad():
        assert not loss(*case[:2], case.labels).requires_grad
