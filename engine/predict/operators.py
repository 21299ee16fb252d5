"""What is known of an operator once and for all: its names, and what it does to memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

RUN, FRESH, IN_PLACE, VIEW = range(4)

_RESHAPING = frozenset(
    """resize_ resize_as_ set_ squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_ as_strided_
    """.split()  # noqa: SIM905
)
_VIEWS = frozenset(
    "alias detach expand permute select slice t transpose unsqueeze view".split()  # noqa: SIM905
)
"""Those that never copy. (Others, as ``to``, give a view where there is nothing to do.)"""
_INDEXING = frozenset(("index", "index_put", "index_put_", "_unsafe_index"))


class Operator(NamedTuple):
    """One overload of an operator."""

    name: str
    """As ``aten.mm``."""
    overload: str
    """As ``aten.mm.default``."""
    kind: int
    """FRESH makes tensors of its own, IN_PLACE changes the values of its first argument alone,
    VIEW shows its first argument otherwise, RUN is anything else."""
    reads: bool
    """It gives a value to Python."""
    indexes: bool
    """Its second argument are indices, masks among them."""
    own: bool
    """It is one of memwb's own, from ``kernels``."""
    returns: bool
    """It gives something back."""


_SCHEMAS = ("aten", "bitsandbytes")
"""Namespaces whose schemas say truly what an operator changes, and whose results on meta follow
from sizes, strides and types alone."""

SEQUENCES = (list, tuple)
"""A tuple of types, since ``list | tuple`` makes a new object each time it is asked for."""

_known: dict[int, tuple[Any, Operator]] = {}


def operator_of(func: Any) -> Operator:
    """What is known of an overload."""
    # By identity: the hash of an overload is Python code, and this is asked at every call.
    known = _known.get(id(func))
    if known is None:
        known = _known[id(func)] = (func, _learned(func))
    return known[1]


def _learned(func: Any) -> Operator:
    name = func._schema.name.partition("::")[2]
    return Operator(
        name=f"{func.namespace}.{name}",
        overload=str(func),
        kind=_kind_of(func, name),
        reads=func is torch.ops.aten._local_scalar_dense.default,
        indexes=func.namespace == "aten" and name in _INDEXING,
        own=func.namespace == "memwb",
        returns=bool(func._schema.returns),
    )


def _kind_of(func: Any, name: str) -> int:
    schema = func._schema
    if func.namespace not in _SCHEMAS or func is torch.ops.aten.lift_fresh.default:
        return RUN
    if func.namespace == "aten" and name in _VIEWS:
        return VIEW
    aliased = [one for one in schema.arguments if one.alias_info is not None]
    if schema.is_mutable:
        first = len(aliased) == 1 and schema.arguments[0].alias_info is not None
        return IN_PLACE if first and name.endswith("_") and name not in _RESHAPING else RUN
    return RUN if aliased or any(one.alias_info is not None for one in schema.returns) else FRESH


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments or results, those in lists included."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, SEQUENCES):
            found += tensors_in(value)
    return found
