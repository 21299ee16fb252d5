"""How near is near enough: measured against fp64, in units of the framework's own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

FACTOR = 2.0
"""How many times the framework's own error ours may be: sums in another order err differently."""

FLOORS = {torch.float64: 1e-12, torch.float32: 2**-21, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""What is allowed anyway, relative to the largest value: two roundings in the result's precision.

The framework may hit the truth by luck where few values are compared.
"""

Function = Callable[..., Any]


def outcome(function: Function, inputs: Sequence[Any], gradients: Sequence[torch.Tensor]) -> Any:
    """What a function gives, then the gradients of those inputs that take part."""
    inputs = [one.detach().requires_grad_() if floating(one) else one for one in inputs]
    made = function(*inputs)
    made = made if isinstance(made, tuple) else (made,)
    wanted = [one for one in inputs if floating(one)]
    pairs = [(y, g.to(y.dtype)) for y, g in zip(made, gradients, strict=True)]
    found = torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs])
    return [one.detach() for one in (*made, *found)]


def floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def check(ours: Function, plain: Function, inputs: Sequence[Any], *, cancels: bool = False) -> None:
    """Results and gradients of ours are as near to fp64 as those of the plain operators are.

    ``cancels`` where a gradient is the difference of terms that are nearly equal: what is allowed
    anyway is then in relation to the gradients that came in.
    """
    exact = [one.double() if floating(one) else one for one in inputs]
    with torch.no_grad():
        made = plain(*exact)
    made = made if isinstance(made, tuple) else (made,)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in made]
    # The plain run in the same precision sees gradients rounded to it, and so does the truth.
    low = next(one.dtype for one in inputs if floating(one))
    gradients = [one.to(low).double() for one in gradients]
    truth = outcome(plain, exact, gradients)
    theirs = outcome(plain, inputs, gradients)
    found = outcome(ours, inputs, gradients)
    for place, (got, own, right) in enumerate(zip(found, theirs, truth, strict=True)):
        assert got.shape == own.shape and got.dtype == own.dtype, place
        size = max(map(scale, [right, *gradients])) if cancels else scale(right)
        allowed = FACTOR * error(own, right) + FLOORS[got.dtype] * size
        assert error(got, right) <= allowed, (place, error(got, right), error(own, right))


def error(got: torch.Tensor, right: torch.Tensor) -> float:
    return (got.double() - right).abs().max().item() if right.numel() else 0.0


def scale(right: torch.Tensor) -> float:
    return right.abs().max().item() if right.numel() else 0.0


def kept(function: Function, *inputs: Any) -> list[tuple[tuple[int, ...], torch.dtype, bool]]:
    """What a function keeps for backward: shape, dtype, and whether it is one of its inputs."""
    found = []
    own = {one.untyped_storage().data_ptr() for one in inputs if isinstance(one, torch.Tensor)}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found.append(
            (tuple(tensor.shape), tensor.dtype, tensor.untyped_storage().data_ptr() in own)
        )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*inputs)
    return found
