"""The loss that computes its logits again: value, gradients, memory, and its kernels."""

from __future__ import annotations

import contextlib
import functools
from typing import Any
from unittest import mock

import losses
import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")

from memwb.kernels import cut_cross_entropy as module
from memwb.kernels.cut_cross_entropy import (
    cut_cross_entropy,
    cut_cross_entropy_reference,
)

check = functools.partial(losses.check, reference=cut_cross_entropy_reference)


@pytest.mark.parametrize("options", losses.OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradients(dtype: torch.dtype, reduction: str, options: str) -> None:
    case = losses.case(37, 123, dtype=dtype)
    check(cut_cross_entropy, case=case, reduction=reduction, **losses.OPTIONS[options])


@pytest.mark.parametrize(("rows", "words", "width"), [
    (1, 3, 1), (3, 1, 31), (31, 4097, 3), (123, 31, 123), (4097, 3, 31),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_shapes(rows: int, words: int, width: int, dtype: torch.dtype) -> None:
    case = losses.case(rows, words, width, dtype, ignored=0)
    check(cut_cross_entropy, case=case, reduction="mean")


@pytest.mark.parametrize("peak", [0.0, 1e-3, 100.0, 3e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_peaky_and_extreme_logits(peak: float, dtype: torch.dtype) -> None:
    case = losses.case(37, 123, dtype=dtype, peak=peak)
    found = losses.outcome(cut_cross_entropy, case)
    assert all(one.isfinite().all() for one in found)
    check(cut_cross_entropy, case=case, reduction="mean")


def test_labels_are_shifted_and_a_sum_is_divided() -> None:
    case = losses.case(12, 31)
    hidden, labels = case.hidden.view(2, 6, -1), case.labels.view(2, 6)
    found = cut_cross_entropy(hidden, case.weight, labels, shift=True, tokens=5)
    rows = cut_cross_entropy_reference(
        hidden[:, :-1].flatten(0, 1), case.weight, labels[:, 1:].flatten()
    )
    torch.testing.assert_close(found, rows.sum() / 5)
    single = cut_cross_entropy(hidden, case.weight, labels, shift=True, reduction="none")
    torch.testing.assert_close(single[:, :-1].flatten(), rows)
    assert single.shape == labels.shape and single[:, -1].eq(0).all()


def test_gradients_are_taken_over_added_up_and_made_anew() -> None:
    case = losses.case(12, 31)
    value = cut_cross_entropy(*case[:2], case.labels)
    value.backward(retain_graph=True)
    assert case.weight.grad is not None
    once = case.weight.grad.clone()
    value.backward(retain_graph=True)
    (2 * value + value.square() / value.detach()).backward()
    torch.testing.assert_close(case.weight.grad, 6 * once)
    value = cut_cross_entropy(*case[:2], case.labels)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(value, case.weight, create_graph=True)


def test_the_same_again_to_the_bit() -> None:
    case = losses.case(123, 321, dtype=torch.bfloat16)
    first, second = (losses.outcome(cut_cross_entropy, case) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_gradient_scaler_s_factor_keeps_fp16_from_underflow() -> None:
    case = losses.case(64, 1024, dtype=torch.float16, ignored=0, peak=0.1)
    value = cut_cross_entropy(*case[:2], case.labels, tokens=2**16)
    found = torch.autograd.grad(value, case.hidden, torch.tensor(2.0**16))[0]
    wide = [one.detach().double().requires_grad_() for one in case[:2]]
    truth = cut_cross_entropy_reference(*wide, case.labels).sum()
    expected = torch.autograd.grad(truth, wide[0])[0]
    assert losses.distances([found], [expected])[0] < 3 * 2**-10


def test_memory_stays_within_a_slice() -> None:
    rows, words, width = 1536, 8000, 16
    case = losses.case(rows, words, width)
    with losses.Largest((words, width)) as seen:
        cut_cross_entropy(*case[:2], case.labels).backward()
    assert seen.bytes <= 4 * 2**22
    assert seen.bytes < rows * words * 4 / 2


@pytest.mark.parametrize("ignored", [2, 5])
def test_ignored_rows_are_left_out_or_nothing(ignored: int) -> None:
    """Many are not multiplied at all, few are with a gradient of nothing."""
    case = losses.case(64, 31, ignored=ignored)
    check(cut_cross_entropy, case=case, reduction="mean", z_loss=0.01)
    hidden = losses.outcome(cut_cross_entropy, case)[1]
    assert hidden[::ignored].eq(0).all() and hidden[1].ne(0).any()
    ones = torch.ones(64)
    norms = torch.ones(2, 64)
    rows = module._cce_counted(ones, case.hidden.detach(), case.labels, norms, -100)
    assert len(rows[1]) == (32 if ignored == 2 else 64)


def test_autocast_changes_nothing_inside() -> None:
    case = losses.case(12, 31)
    plain = losses.outcome(cut_cross_entropy, case)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses.outcome(cut_cross_entropy, case)
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))


@pytest.mark.parametrize("wrong", [
    {"reduction": "median"}, {"reduction": "none", "tokens": 3}
])  # fmt: skip
def test_wrong_options_are_told(wrong: dict[str, Any]) -> None:
    case = losses.case(3, 5)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cut_cross_entropy(*case[:2], case.labels, **wrong)
    with pytest.raises(ValueError, match="cast one of them"):
        cut_cross_entropy(case.hidden.double(), case.weight, case.labels)


def test_shapes_that_do_not_fit_are_told() -> None:
    hidden, weight, bias, labels = losses.case(6, 5)
    for first, said in ((hidden[:3], "labels"), (hidden[..., :9], "weight"), (hidden[0], "labels")):
        with pytest.raises(ValueError, match=f"{said} (are|is)"):
            cut_cross_entropy(first, weight, labels, bias)
    for name, one in (("weight", weight[:0]), ("weight", weight[0]), ("bias", bias[:4])):
        given = {"weight": weight, "bias": bias, name: one}
        with pytest.raises(ValueError, match=f"{name} is"):
            cut_cross_entropy(hidden, labels=labels, **given)


def test_the_operators_keep_torch_s_rules() -> None:
    case = losses.case(6, 11)
    options = (-100, 0.1, 5.0, 0.5, 0.01)
    torch.library.opcheck(module._cce, (*case[:3], case.labels, *options))
    inputs = [one.detach() for one in case]
    norms = module._cce(*inputs, *options)[1]
    torch.library.opcheck(
        module._cce_backward, (torch.ones(6), *inputs, norms, *options, True, True, True)
    )
    torch.library.opcheck(module._cce_sum, (*case, *options, -1.0, True, True, True))
    # The same kind and strides as its fake, whatever those of the hidden states, without a bias.
    turned, weight = (one.bfloat16() for one in (inputs[0].t().contiguous().t(), inputs[1]))
    few = torch.full_like(case.labels, -100)
    few[0] = 3
    given = (torch.ones(6), turned, weight, None, few, norms, *options, True, True, True)
    torch.library.opcheck(module._cce_backward, given, test_utils="test_faketensor")


@contextlib.contextmanager
def small(whole: bool = False) -> Any:
    """Tiles and slices so small that a small vocabulary has several."""
    form = {"BLOCK_N": 16, "BLOCK_V": 16, "BLOCK_K": 16, "WHOLE": whole, "PRECISION": "ieee"}
    with (
        mock.patch.object(module, "_cce_width", lambda *_: 32),
        mock.patch.object(module, "_cce_form", lambda *_: form),
        mock.patch.object(module, "_cce_made_ahead", lambda *_: False),
    ):
        yield


@pytest.mark.parametrize(("dtype", "reduction", "options"), [
    (torch.float32, "mean", "plain"), (torch.float32, "none", "all"),
    (torch.float16, "sum", "capped"), (torch.float16, "mean", "smoothed"),
])  # fmt: skip
def test_the_kernels(interpreted: Any, dtype: torch.dtype, reduction: str, options: str) -> None:
    # fp16: 2 x 17 of 123 words lend their gradient's memory; fp32 has no use for it.
    with interpreted(module) as launched, losses.mixed_products(), small(reduction == "mean"):
        case = losses.case(17, 123, 16, dtype, ignored=7)
        check(cut_cross_entropy, case=case, reduction=reduction, **losses.OPTIONS[options])
    assert launched.count("_cce_lse_kernel") == 1
    assert launched.count("_cce_slope_kernel") == (7 if dtype == torch.float16 else 4)


def test_memory_is_borrowed_only_where_it_fits() -> None:
    x = torch.zeros(5, 8, dtype=torch.bfloat16)
    total, words = module._cce_borrowed(d_weight := torch.zeros(20, 8, dtype=torch.bfloat16), x)
    assert words == 10 and total is not None and total.shape == x.shape
    total.fill_(1)
    assert d_weight[:10].eq(0).all() and d_weight[10:].ne(0).any(1).all()
    for other in (d_weight[:19], torch.zeros(8, 20, dtype=torch.bfloat16).t(), d_weight[:0]):
        assert module._cce_borrowed(other, x) == (None, 0)
    assert module._cce_borrowed(d_weight, x[:0]) == (None, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_kernels_where_all_labels_are_ignored(interpreted: Any, dtype: torch.dtype) -> None:
    with interpreted(module), losses.mixed_products(), small():
        case = losses.case(5, 37, 16, dtype, ignored=1)
        value, *found = losses.outcome(cut_cross_entropy, case, "sum")
    assert value.eq(0) and all(one.eq(0).all() for one in found)


def test_the_kernels_where_logits_are_peaky_or_masked(interpreted: Any) -> None:
    with interpreted(module), losses.mixed_products(), small():
        case = losses.case(4, 37, dtype=torch.float16, peak=60, ignored=0)
        # Labels that lie apart in memory.
        case = case._replace(labels=torch.stack([case.labels, case.labels + 1], 1)[:, 0])
        check(cut_cross_entropy, case=case, reduction="mean")
        case = losses.case(7, 37, ignored=2)
        with torch.no_grad():
            case.bias[16:32] = -torch.inf
        case.labels[:] = torch.tensor([3, 37, -100, -100, -100, -100, -100])
        found = losses.outcome(cut_cross_entropy, case, "none")
    # A whole tile is masked; a label outside the vocabulary is nan.
    assert found[0][0].isfinite() and found[0][1].isnan() and found[0][2:].eq(0).all()
    assert found[2][16:32].isfinite().all()


@pytest.mark.parametrize(("dtype", "width", "chip", "softcap", "tile"), [
    (torch.bfloat16, 4096, (9, 0), 0.0, (128, 256, 64)),
    (torch.bfloat16, 4096, (9, 0), 30.0, (128, 128, 64)),
    (torch.float16, 896, (8, 0), 0.0, (128, 128, 64)),
    (torch.bfloat16, 900, (9, 0), 0.0, (64, 64, 32)),
    (torch.float32, 4096, (8, 9), 0.0, (64, 64, 32)),
])  # fmt: skip
def test_tiles_follow_dtype_width_and_chip(
    dtype: torch.dtype, width: int, chip: tuple[int, int], softcap: float, tile: tuple[int, ...]
) -> None:
    with mock.patch.object(torch.cuda, "get_device_capability", lambda *_: chip):
        form = module._cce_form(torch.empty(1, width, dtype=dtype), softcap)
    assert (form["BLOCK_N"], form["BLOCK_V"], form["BLOCK_K"]) == tile
    assert form["WHOLE"] == (width % tile[2] == 0)


def test_gradients_made_ahead_are_those_made_in_backward() -> None:
    case = losses.case(250, 40000, 8)
    assert module._cce_made_ahead(*case[:2])
    # Three chunks, of rows that are gathered.
    found = losses.outcome(cut_cross_entropy, case, "sum", **losses.OPTIONS["all"])
    with mock.patch.object(module, "_cce_made_ahead", lambda *_: False):
        expected = losses.outcome(cut_cross_entropy, case, "sum", **losses.OPTIONS["all"])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # Too many words for a chunk worth its products; half precision would be rounded in between.
    assert not module._cce_made_ahead(case.hidden, torch.empty(2**16 + 1, 8))
    assert not module._cce_made_ahead(case.hidden.bfloat16(), case.weight)
    assert not module._cce_made_ahead(case.hidden.to("meta"), case.weight)


def test_gradients_that_were_given_away_are_told() -> None:
    case = losses.case(12, 31)
    value = cut_cross_entropy(*case[:2], case.labels)
    value.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        value.backward()
