"""The loss whose gradients are made in forward: value, gradients, memory, and its kernels."""

from __future__ import annotations

import contextlib
import functools
from typing import Any
from unittest import mock

import losses
import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")

from memwb.kernels import fused_linear_cross_entropy as module
from memwb.kernels.fused_linear_cross_entropy import (
    fused_linear_cross_entropy,
    fused_linear_cross_entropy_reference,
)

SEVENS = functools.partial(fused_linear_cross_entropy, chunk_size=7)
check = functools.partial(losses.check, reference=fused_linear_cross_entropy_reference)


@pytest.mark.parametrize("options", losses.OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradients(dtype: torch.dtype, reduction: str, options: str) -> None:
    case = losses.case(37, 123, dtype=dtype)
    check(SEVENS, case=case, reduction=reduction, **losses.OPTIONS[options])


@pytest.mark.parametrize(("rows", "words", "width"), [
    (1, 3, 1), (3, 1, 31), (31, 4097, 3), (123, 31, 123), (4097, 3, 31),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_shapes(rows: int, words: int, width: int, dtype: torch.dtype) -> None:
    case = losses.case(rows, words, width, dtype, ignored=0)
    check(functools.partial(SEVENS, chunk_size=1000), case=case, reduction="mean")


@pytest.mark.parametrize("peak", [0.0, 1e-3, 100.0, 3e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_peaky_and_extreme_logits(peak: float, dtype: torch.dtype) -> None:
    case = losses.case(37, 123, dtype=dtype, peak=peak)
    found = losses.outcome(SEVENS, case)
    assert all(one.isfinite().all() for one in found)
    check(SEVENS, case=case, reduction="mean")


def test_labels_are_shifted_and_a_sum_is_divided() -> None:
    case = losses.case(12, 31)
    hidden, labels = case.hidden.view(2, 6, -1), case.labels.view(2, 6)
    found = fused_linear_cross_entropy(hidden, case.weight, labels, shift=True, tokens=5)
    rows = fused_linear_cross_entropy_reference(
        hidden[:, :-1].flatten(0, 1), case.weight, labels[:, 1:].flatten()
    )
    torch.testing.assert_close(found, rows.sum() / 5)
    single = fused_linear_cross_entropy(
        hidden, case.weight, labels, shift=True, reduction="none", chunk_size=4
    )
    torch.testing.assert_close(single[:, :-1].flatten(), rows)
    assert single.shape == labels.shape and single[:, -1].eq(0).all()


def test_gradients_are_given_away_added_up_and_not_given_twice() -> None:
    case = losses.case(12, 31)
    value = SEVENS(*case[:2], case.labels)
    made = value.grad_fn.made[1].untyped_storage().data_ptr()
    value.backward()
    assert case.weight.grad is not None
    assert case.weight.grad.untyped_storage().data_ptr() == made
    once = case.weight.grad.clone()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        value.backward()
    value = SEVENS(*case[:2], case.labels)
    value.backward(retain_graph=True)
    (2 * value + value.square() / value.detach()).backward()
    torch.testing.assert_close(case.weight.grad, 6 * once)
    value = SEVENS(*case[:2], case.labels)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(value, case.weight, create_graph=True)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_no_rows_have_gradients_of_no_rows(reduction: str) -> None:
    case = losses.case(3, 5)
    hidden = case.hidden.detach()[:0].requires_grad_()
    value = SEVENS(hidden, case.weight, case.labels[:0], case.bias, reduction=reduction)
    value.sum().backward()
    assert value.sum() == 0 and hidden.grad is not None and hidden.grad.shape == hidden.shape
    for one in (case.weight, case.bias):
        assert one.grad is not None and one.grad.shape == one.shape and not one.grad.any()


def test_the_same_again_to_the_bit() -> None:
    case = losses.case(123, 321, dtype=torch.bfloat16)
    first, second = (losses.outcome(SEVENS, case) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_gradient_scaler_s_factor_keeps_fp16_from_underflow() -> None:
    case = losses.case(64, 1024, dtype=torch.float16, ignored=0, peak=0.1)
    value = fused_linear_cross_entropy(*case[:2], case.labels, tokens=2**16)
    found = torch.autograd.grad(value, case.hidden, torch.tensor(2.0**16))[0]
    wide = [one.detach().double().requires_grad_() for one in case[:2]]
    truth = fused_linear_cross_entropy_reference(*wide, case.labels).sum()
    expected = torch.autograd.grad(truth, wide[0])[0]
    assert losses.distances([found], [expected])[0] < 3 * 2**-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_stays_within_the_chunk(dtype: torch.dtype) -> None:
    rows, words, width, chunk = 512, 16000, 16, 32
    case = losses.case(rows, words, width, dtype)
    with losses.Largest((words, width)) as seen:
        value = fused_linear_cross_entropy(*case[:2], case.labels, chunk_size=chunk)
        value.backward()
    # A chunk's logits; blocks of 2^20 values in fp32 where these are in half precision.
    size = dtype.itemsize
    assert chunk * words * size == seen.bytes or (size == 2 and seen.bytes <= 4 * 2**20)
    assert seen.bytes < rows * words * size / 4


def test_autocast_changes_nothing_inside() -> None:
    case = losses.case(12, 31)
    plain = losses.outcome(SEVENS, case)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses.outcome(SEVENS, case)
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))


@pytest.mark.parametrize("wrong", [
    {"reduction": "median"}, {"reduction": "none", "tokens": 3}, {"chunk_size": 0}
])  # fmt: skip
def test_wrong_options_are_told(wrong: dict[str, Any]) -> None:
    case = losses.case(3, 5)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fused_linear_cross_entropy(*case[:2], case.labels, **wrong)
    with pytest.raises(ValueError, match="cast one of them"):
        fused_linear_cross_entropy(case.hidden.double(), case.weight, case.labels)


def test_shapes_that_do_not_fit_are_told() -> None:
    hidden, weight, bias, labels = losses.case(6, 5)
    for first, said in ((hidden[:3], "labels"), (hidden[..., :9], "weight"), (hidden[0], "labels")):
        with pytest.raises(ValueError, match=f"{said} (are|is)"):
            fused_linear_cross_entropy(first, weight, labels, bias)
    for name, one in (("weight", weight[:0]), ("weight", weight[0]), ("bias", bias[:4])):
        given = {"weight": weight, "bias": bias, name: one}
        with pytest.raises(ValueError, match=f"{name} is"):
            fused_linear_cross_entropy(hidden, labels=labels, **given)


def test_the_operator_keeps_torch_s_rules() -> None:
    case = losses.case(6, 11)
    inputs = (*case[:3], case.labels, None, -100, -1.0, 0.1, 5.0, 0.5, 0.01, 4, True, True, True)
    torch.library.opcheck(module._flce, (*inputs, True))
    fast = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._flce, (*inputs, False), test_utils=fast)
    torch.library.opcheck(module._flce_scale, (torch.ones(3), torch.tensor(2.0)))


@contextlib.contextmanager
def narrow(words: int) -> Any:
    """Slices of so few words that a small vocabulary has several."""
    with mock.patch.object(
        module, "_flce_width", lambda vocabulary: (words, -(-vocabulary // words))
    ):
        yield


@pytest.mark.parametrize(("dtype", "reduction", "options"), [
    (torch.float32, "mean", "plain"), (torch.float32, "none", "all"),
    (torch.float16, "sum", "capped"), (torch.float16, "mean", "smoothed"),
])  # fmt: skip
def test_the_kernels(interpreted: Any, dtype: torch.dtype, reduction: str, options: str) -> None:
    with interpreted(module) as launched, losses.mixed_products(), narrow(16):
        case = losses.case(7, 37, dtype=dtype, ignored=3)
        check(
            functools.partial(SEVENS, chunk_size=3), case=case, reduction=reduction,
            **losses.OPTIONS[options],
        )  # fmt: skip
    assert {"_flce_slice_kernel", "_flce_finish_kernel"} <= set(launched)
    assert ("_flce_scale_kernel" in launched) == (reduction != "none")


def test_the_kernels_where_logits_are_peaky_or_masked(interpreted: Any) -> None:
    with interpreted(module), losses.mixed_products(), narrow(16):
        case = losses.case(4, 37, dtype=torch.float16, peak=60, ignored=0)
        # Labels that lie apart in memory.
        case = case._replace(labels=torch.stack([case.labels, case.labels + 1], 1)[:, 0])
        check(SEVENS, case=case, reduction="mean")
        case = losses.case(3, 37)
        with torch.no_grad():
            case.bias[16:32] = -torch.inf
        case.labels[:] = torch.tensor([3, 37, -100])
        found = losses.outcome(SEVENS, case, "none")
    # A whole slice is masked; a label outside the vocabulary is nan.
    assert found[0][0].isfinite() and found[0][1].isnan() and found[0][2] == 0
    assert found[2][16:32].isfinite().all()


def test_what_labels_add_to_the_weight_s_gradient_is_rounded_once(interpreted: Any) -> None:
    case = losses.case(40, 250, 16, torch.float16, ignored=8)
    # Many rows of a label, far from each other: more than are added up at a time.
    case.labels[::2] = torch.where(case.labels[::2] < 0, -100, case.labels[17])
    with interpreted(module) as launched, losses.mixed_products(), narrow(256):
        twos = functools.partial(fused_linear_cross_entropy, chunk_size=2)
        found = losses.outcome(twos, case)[2]
    wide = [one.detach().double().requires_grad_() for one in case[:3]]
    sums = fused_linear_cross_entropy_reference(*wide[:2], case.labels, wide[2]).sum()
    truth = losses.gradients(sums / 35, losses.Case(*wide, case.labels), torch.tensor(0.5))[1]
    # In all its chunks 1.1 of these, if each rounded it.
    assert losses.distances([found], [truth])[0] < 0.85 * 2**-11
    assert launched.count("_flce_labels_kernel") == 1


def test_all_rows_may_have_one_label(interpreted: Any) -> None:
    case = losses.case(16, 37, ignored=0)
    case.labels[:] = 36
    with interpreted(module) as launched, losses.mixed_products():
        check(SEVENS, case=case, reduction="mean")
    assert "_flce_labels_kernel" in launched
