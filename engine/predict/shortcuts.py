"""Results of operators on meta tensors, remembered: running one costs up to a millisecond.

Layers and steps repeat each other, so that nearly every call has been made before with tensors
of the same sizes, strides and types. What is remembered is what the results look like.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch

from memwb.engine.errors import CannotPredict
from memwb.engine.predict.operators import FRESH, IN_PLACE, SEQUENCES, Operator, tensors_in

_MOST = 50_000
_META = torch.device("meta")


class _Look(NamedTuple):
    """What a fresh result looks like."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


_results: dict[Hashable, tuple[type | None, tuple[_Look | None, ...]]] = {}


def run(func: Any, operator: Operator, args: Any, kwargs: dict[str, Any]) -> Any:
    """What ``func(*args, **kwargs)`` gives, all tensors being on meta."""
    if operator.kind == IN_PLACE:
        # It would change values, and there are none.
        return args[0] if operator.returns else None
    if operator.kind != FRESH:
        return func(*args, **kwargs)
    try:
        key = (operator.overload, _key(args), _key(tuple(kwargs.items())) if kwargs else ())
        known = _results.get(key)
    except TypeError:  # an argument that cannot be hashed
        return func(*args, **kwargs)
    if known is not None:
        return _made(*known)
    _same_types(operator, args)
    out = func(*args, **kwargs)
    looks = _looks(out, args)
    if looks is not None and len(_results) < _MOST:
        _results[key] = looks
    return out


_PRODUCTS = {"aten.mm": 0, "aten.bmm": 0, "aten.addmm": 1, "aten.baddbmm": 1}
"""Operators, and the place of the first of their two factors."""


def _same_types(operator: Operator, args: Any) -> None:
    """Raise CannotPredict for a product of two types, which devices refuse and meta does not."""
    first = _PRODUCTS.get(operator.name)
    if first is None or args[first].dtype == args[first + 1].dtype:
        return
    one, other = (str(args[first + at].dtype).removeprefix("torch.") for at in (0, 1))
    raise CannotPredict(
        "The plan would fail: precisions that do not go together",
        f"{operator.name} would multiply {one} by {other}, which torch refuses",
        "Leave out the technique that computes in another precision than the model.",
    )


def known() -> int:
    """How many results are remembered."""
    return len(_results)


def told(since: int) -> bytes:
    """What was remembered after the first ``since`` results, for another process of this one's
    libraries to ``learn``."""
    return pickle.dumps(list(itertools.islice(_results.items(), since, None)))


def learn(data: bytes) -> None:
    """Remember what a forked process has told: its bytes are taken for true."""
    for key, looks in pickle.loads(data):
        if len(_results) < _MOST:
            _results.setdefault(key, looks)


def _key(values: tuple[Any, ...]) -> Hashable:
    found: list[Hashable] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append((value.size(), value.stride(), value.dtype))
        elif isinstance(value, SEQUENCES):
            found.append(_key(tuple(value)))
        else:
            # 1, 1.0 and True are equal, and make results of other types.
            found.append((value, type(value)))
    return tuple(found)


def _looks(out: Any, args: Any) -> tuple[type | None, tuple[_Look | None, ...]] | None:
    """What the results look like; None for what cannot be made again from that."""
    parts = (out,) if isinstance(out, torch.Tensor) else out
    if not isinstance(parts, list | tuple):
        return None
    found: list[_Look | None] = []
    # Some operators give views and do not say so (``_unsafe_view``).
    seen = {tensor.untyped_storage()._cdata for tensor in tensors_in(args)}
    for part in parts:
        if part is None:
            found.append(None)
            continue
        if type(part) is not torch.Tensor or not part.is_meta:
            return None
        storage = part.untyped_storage()
        reach = 1 + sum((n - 1) * s for n, s in zip(part.shape, part.stride(), strict=True))
        size = reach * part.element_size() if part.numel() else 0
        if part.storage_offset() or storage.nbytes() != size or storage._cdata in seen:
            return None
        seen.add(storage._cdata)
        found.append(_Look(part.size(), part.stride(), part.dtype))
    return (None if isinstance(out, torch.Tensor) else type(out)), tuple(found)


def _made(kind: type | None, looks: tuple[_Look | None, ...]) -> Any:
    if kind is None:
        return _like(looks[0])
    parts = [_like(look) for look in looks]
    return parts if kind is list else tuple(parts)


def _like(look: _Look | None) -> torch.Tensor | None:
    if look is None:
        return None
    return torch.empty_strided(look.size, look.stride, dtype=look.dtype, device=_META)
