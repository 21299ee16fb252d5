"""Which tensors a model and an optimizer hold, wherever they keep them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

_OPAQUE = (
    str,
    bytes,
    int,
    float,
    type,
    ModuleType,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    torch.nn.Module,
    torch.dtype,
    torch.device,
)


def weights_of(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers, with what a quantised one needs to be read.

    bitsandbytes keeps a weight's quantisation state (absolute maxima, code, offset, and the same
    once more for double quantisation) on the parameter, its 8-bit layers on the module.
    """
    # One walk over the modules, which asks each type of value once where it is from: a burst and a
    # prediction come here at every settling.
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                yield tensor
                own = getattr(tensor, "__dict__", None)
                if own:
                    yield from tensors_in(own)
        for value in vars(module).values():
            if _of_bitsandbytes(value.__class__):
                yield from tensors_in(value)


@functools.lru_cache(1024)
def _of_bitsandbytes(kind: Any) -> bool:
    return str(kind.__module__).startswith("bitsandbytes")


def gradients_of(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The gradients that parameters hold now."""
    return (parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def state_of(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The optimizer's state, and the tensors it shares among parameters (quantisation maps)."""
    yield from tensors_in(list(optimizer.state.values()))
    for group in optimizer.param_groups:
        yield from tensors_in({key: value for key, value in group.items() if key != "params"})
    own = {key: value for key, value in vars(optimizer).items() if key not in _KNOWN}
    yield from tensors_in(own)


_KNOWN = ("state", "param_groups")


def tensors_in(value: Any, depth: int = 6) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers and plain objects, models excepted."""
    return _walk(value, depth, set())


def _walk(value: Any, depth: int, seen: set[int]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        # A subclass that wraps tensors has none of its own bytes (torchao's 4-bit states).
        flatten = getattr(value, "__tensor_flatten__", None)
        if flatten is None:
            yield value
        else:
            for name in flatten()[0]:
                yield from _walk(getattr(value, name), depth, seen)
        return
    if value is None or isinstance(value, _OPAQUE) or depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    inner: Iterable[Any]
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    for part in inner:
        yield from _walk(part, depth - 1, seen)


def count(parameters: Iterable[torch.nn.Parameter]) -> int:
    """How many numbers the parameters stand for: packed 4-bit weights count unpacked."""
    total = 0
    for parameter in parameters:
        state = getattr(parameter, "quant_state", None)
        shape = getattr(state, "shape", None)
        total += torch.Size(shape).numel() if shape is not None else parameter.numel()
    return total


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind the tensors."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
