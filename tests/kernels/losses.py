"""What the tests of both losses share: cases, the truth in fp64, and how far from it we are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[..., Tensor]

OPTIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "capped": {"softcap": 5.0},
    "all": {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 0.01, "logit_scale": 0.3},
}


class Case(NamedTuple):
    """Inputs of a loss, of which the first three take gradients."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor


def case(
    rows: int, words: int, width: int = 24, dtype: torch.dtype = torch.float32, peak: float = 2.0,
    ignored: int = 5,
) -> Case:  # fmt: skip
    """Random inputs; ``peak`` spreads the logits, each ``ignored``-th label is ignored."""
    draw = torch.Generator().manual_seed(rows + words)
    found = [
        torch.randn(*shape, generator=draw).mul(factor).to(dtype).requires_grad_()
        for shape, factor in (
            ((rows, width), peak / width**0.5),
            ((words, width), 1),
            ((words,), 1),
        )
    ]
    labels = torch.randint(0, words, (rows,), generator=draw)
    if ignored:
        labels[::ignored] = -100
    return Case(*found, labels)


def gradients(value: Tensor, case: Case, upstream: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, case[:3], upstream.to(value.dtype)))


def reduced(losses: Tensor, labels: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.sum() / (labels != -100).sum()
    return losses.sum() if reduction == "sum" else losses


def outcome(loss: Loss, case: Case, reduction: str = "mean", **options: Any) -> list[Tensor]:
    """The value and the three gradients, of an upstream gradient that is not 1."""
    value = loss(case.hidden, case.weight, case.labels, case.bias, reduction=reduction, **options)
    upstream = 0.5 + torch.arange(value.numel()).view(value.shape) % 3
    return [value.detach(), *gradients(value, case, upstream)]


def distances(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Relative distance of each."""
    return [
        ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
        for a, b in zip(found, truth, strict=True)
    ]


def check(loss: Loss, reference: Loss, case: Case, reduction: str, **options: Any) -> None:
    """Our error against fp64 is that of torch's own operators in the same precision, at most twice.

    The floor is one rounding of a result and of each of the factors of its products.
    """
    names = {name: value for name, value in options.items() if name in OPTIONS["all"]}

    def theirs(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor, **_: Any) -> Tensor:
        return reduced(reference(hidden, weight, labels, bias, **names), labels, reduction)

    wide = [one.detach().double().requires_grad_() for one in case[:3]]
    truth = outcome(theirs, Case(*wide, case.labels))
    ours = distances(outcome(loss, case, reduction, **options), truth)
    framework = distances(outcome(theirs, case), truth)
    # In fp64 the truth has rounded as often as we have.
    floor = torch.finfo(case.hidden.dtype).eps * (16 if case.hidden.dtype == torch.float64 else 3)
    assert all(a <= max(2 * b, floor) for a, b in zip(ours, framework, strict=True)), (
        ours, framework
    )  # fmt: skip


_mm, _addmm = torch.mm, torch.addmm


@contextlib.contextmanager
def mixed_products() -> Iterator[None]:
    """Products of half precision with a result in fp32, which torch only has on a GPU."""

    def mm(a: Tensor, b: Tensor, *, out: Tensor, out_dtype: Any = None) -> Tensor:
        return _mm(a, b, out=out) if out_dtype is None else _mm(a.float(), b.float(), out=out)

    def addmm(total: Tensor, a: Tensor, b: Tensor, *, out: Tensor, out_dtype: Any) -> Tensor:
        assert out is total and out.dtype == out_dtype == torch.float32
        return out.add_(a.float() @ b.float())

    with mock.patch.object(torch, "mm", mm), mock.patch.object(torch, "addmm", addmm):
        yield


class Largest(TorchDispatchMode):
    """The largest tensor that any operator makes, in bytes, but for shapes that are expected."""

    def __init__(self, *expected: tuple[int, ...]) -> None:
        super().__init__()
        self.bytes, self._expected = 0, expected

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "memwb":
            keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
            with self:
                return func.redispatch(keys, *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor) and tuple(one.shape) not in self._expected:
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return out
