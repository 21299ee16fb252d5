"""The dispatch mode of a burst: hands every operator's results to a meter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from memwb.engine.trainer.alive import Origin, Request
from memwb.engine.trainer.origins import Origins, name_of, op_of
from memwb.engine.trainer.outcome import is_oom, requested

# Operators of these namespaces have compiled kernels: nothing in them could be looked into.
_COMPILED = frozenset(("aten", "prim", "prims", "profiler", "inductor", "c10d"))
_CPU_KEY = torch._C.DispatchKey.CPU
_CPU = torch._C.DispatchKeySet(_CPU_KEY)

See = Callable[[torch.Tensor, Any], None]
"""Takes a tensor and the operator that gave it."""


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators as they are, and tells of their results, and of those that find no memory.

    With ``fill``, on a CPU, operators whose kernels are Python code are looked into: the mode stays
    on in there, and ``fill`` takes their results afterwards.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        see: See,
        origins: Origins,
        failed: Callable[[Request], None],
        fill: See | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see
        self._origins = origins
        self._failed = failed
        self._fill = fill

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let torch.compile compile: under any other mode it runs the plain code instead.

        While it compiles the mode is off; what it has compiled runs with the mode on.
        """
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            # Tensors that wrap others: their own code goes first, with the mode still on, so that
            # the inner tensors are seen.
            return NotImplemented
        kwargs = kwargs or {}
        self._origins.pass_by()
        if isinstance(func, torch._ops.HigherOrderOperator):
            # Python code around other operators: a random state kept, a subgraph.
            key = _CPU_KEY if self._fill else torch._C.DispatchKey.CUDA
            with self:
                out = func.dispatch(key, *args, **kwargs)  # type: ignore[no-untyped-call]
        elif self._fill is None or func.namespace in _COMPILED:
            try:
                out = func(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if is_oom(error):
                    self._failed(_request(self._origins, func, args, kwargs, str(error)))
                raise
        else:
            # The kernel may be Python code that allocates tensors of its own: run it with the
            # mode still on. Dispatching below the mode's own key keeps it from coming back here.
            with self, _autocast_as_outside():
                out = func.redispatch(_CPU, *args, **kwargs)
            for made in tree_flatten(out)[0]:
                if isinstance(made, torch.Tensor):
                    self._fill(made, func)
        if isinstance(out, torch.Tensor):
            self._see(out, func)
        elif isinstance(out, list | tuple):
            for part in out:
                if isinstance(part, torch.Tensor):
                    self._see(part, func)
                elif isinstance(part, list | tuple):
                    for inner in part:
                        if isinstance(inner, torch.Tensor):
                            self._see(inner, func)
        return out


def _autocast_as_outside() -> contextlib.AbstractContextManager[Any]:
    """Autocast inside a mode's handler, if the operator was called under it.

    Autocast stands aside while a mode is at work; a kernel of Python code would compute in
    another precision than without the meter.
    """
    # Checkpointing recomputes within an autocast that may be switched off, so being within one
    # says nothing: the state is asked for as it was when the operator was called.
    with enable_reentrant_dispatch():
        outside = torch.is_autocast_enabled("cpu")
    if not outside:
        return contextlib.nullcontext()
    guard = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCPU, False)
    return cast(contextlib.AbstractContextManager[Any], guard)


def _request(origins: Origins, func: Any, args: Any, kwargs: Any, message: str) -> Request:
    """What an operator wanted that found no memory: one of its results, or scratch of its own."""
    asked = requested(message)
    shape: tuple[int, ...] = ()
    dtype = "uint8"
    for made in _results(func, args, kwargs):
        size = made.untyped_storage().nbytes()
        # A GPU's allocator tells its request rounded, in words.
        if asked and abs(size - asked) <= asked / 100:
            asked, shape, dtype = size, tuple(made.shape), name_of(made.dtype)
            break
    return Request(asked, Origin(origins.at_work(), op_of(func), shape, dtype))


def _results(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The results of an operator without values or memory; none where these cannot be told."""

    def bare(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            size, stride = value.size(), value.stride()
            return torch.empty_strided(size, stride, dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    try:
        out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    except Exception:
        return []
    return [one for one in tree_flatten(out)[0] if isinstance(one, torch.Tensor)]
