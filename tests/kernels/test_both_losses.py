"""What both losses without logits owe: masked words, ignored labels, strides, frozen parts."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import losses
import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")

from memwb.kernels import cut_cross_entropy as cut
from memwb.kernels import fused_linear_cross_entropy as fused
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


def sure() -> losses.Case:
    """Logits of about 300, and rows so sure of their labels that losses are of a hundredth."""
    case = losses.case(12, 37, 16, ignored=0)
    with torch.no_grad():
        towards = torch.nn.functional.normalize(case.weight[case.labels], dim=1)
        case.hidden.copy_(4 * towards)
        case.bias.copy_(300 + 0.1 * case.bias)
    return case


@pytest.mark.parametrize("options", ["plain", "smoothed"])
def test_small_losses_of_large_logits(loss: Any, options: str) -> None:
    """The log-sum-exp as one number errs by 2e-5 there: a thousandth of the loss."""
    check = functools.partial(losses.check, loss, cut.cut_cross_entropy_reference, sure())
    for reduction in ("mean", "none"):
        check(reduction=reduction, **losses.OPTIONS[options])


def test_so_they_are_of_the_kernels(interpreted: Any) -> None:
    with interpreted(cut), mock.patch.object(cut, "_cce_made_ahead", lambda *_: False):
        losses.check(cut_cross_entropy, cut.cut_cross_entropy_reference, sure(), "mean")
    with interpreted(fused):
        losses.check(fused_linear_cross_entropy, cut.cut_cross_entropy_reference, sure(), "mean")


@pytest.mark.parametrize(("wrong", "said"), [
    ({"labels": torch.zeros(6)}, "int64"), ({"labels": torch.ones(6, dtype=torch.bool)}, "int64"),
    ({"hidden": torch.ones(6, 24, dtype=torch.int64)}, "torch.int64"),
    ({"hidden": torch.tensor(1.0)}, "states"), ({"labels": torch.zeros(6, device="meta")}, "int64"),
    ({"weight": torch.zeros(5, 24, device="meta")}, "weight on meta"),
    ({"tokens": -1}, "tokens"), ({"label_smoothing": 1.5}, "between 0 and 1"),
])  # fmt: skip
def test_what_no_kernel_can_take_is_told(loss: Any, wrong: dict[str, Any], said: str) -> None:
    case = losses.case(6, 5)
    given = {"hidden": case.hidden, "weight": case.weight, "labels": case.labels}
    with pytest.raises(ValueError, match=said):
        loss(**(given | wrong))


def test_a_sum_over_no_tokens_is_not_the_mean(loss: Any) -> None:
    case = losses.case(6, 5)
    assert loss(*case[:2], case.labels, tokens=0).isinf()
    assert loss(*case[:2], torch.full_like(case.labels, -100), tokens=0).isnan()
