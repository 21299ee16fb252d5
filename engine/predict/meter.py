"""The meter of a pretended run: every operator's results, counted where the target would hold them.

It is to a prediction what the meters of CPU and CUDA are to a burst, and finds the same categories.
Besides, it notes the origin of each storage: the module, the operator, shape and dtype.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memwb.engine.predict import shortcuts
from memwb.engine.predict.libraries import Kernel
from memwb.engine.predict.operators import IN_PLACE, VIEW, Operator, operator_of, tensors_in
from memwb.engine.predict.places import MOST_VALUES, Kept, Place, Places, storage_of
from memwb.engine.predict.record import Record
from memwb.engine.predict.stream import Stream
from memwb.engine.protocol import Peak, Sample
from memwb.engine.trainer.alive import Origin, Snapshot
from memwb.engine.trainer.origins import Origins, filled_by

ScratchBytes = Mapping[str, Callable[[Sequence[Any], dict[str, Any]], Iterable[int]]]
"""By an operator's overload: the bytes of what its kernel allocates for itself, one number an
allocation, from its arguments."""

Results = Mapping[str, Callable[[Sequence[Any], Any], Any]]
"""By an operator's overload: its kernel's results, from its arguments and those of the meta kernel
where the two differ."""


class MetaMeter:
    """Watches a pretended run. See the Meter protocol; it sends nothing while it watches."""

    def __init__(
        self, scratch: ScratchBytes, host: Place = Place.HOST, results: Results | None = None
    ) -> None:
        self.record = Record()
        self.places = Places(host)
        self.places.gone = self._gone
        self.paused = True
        self.forced: Place | None = None
        """Where new storages are, whatever their operator's inputs say."""
        self.origins = Origins()
        self.kernels: Mapping[str, Kernel] = {}
        """Of operators that are looked into: see libraries.py."""
        self.own_kernel: Kernel | None = None
        """Of memwb's own operators, whichever they are."""
        self.compiles = False
        """The plan has code compiled while it runs."""
        self.pretence: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        """What is off inside of an operator, and on in such a kernel."""
        self.scratch = scratch
        self.results: Results = results or {}
        self._names = 0
        self._training = False
        self._births: dict[int, Origin] = {}
        self._titles: dict[int, str] = {}
        self._mode = _Mode(self)

    @contextlib.contextmanager
    def placing(self, place: Place) -> Iterator[None]:
        """Whatever is made within is there."""
        before, self.forced = self.forced, place
        try:
            yield
        finally:
            self.forced = before

    def start(self) -> None:
        """Begin to record."""
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.paused = False
        self.mark(0, "load")

    def mark(self, step: int, phase: str) -> None:
        """A phase begins."""
        self._training = step > 0
        self.origins.mark(step, phase)
        if not self.paused:
            if self.compiles:
                # The compiler's fake tensors share the storage of what they were made of, which
                # real tensors would not, and lie in cycles until they are collected.
                gc.collect()
            self.record.mark(step, phase)

    def sight(self, category: int, tensors: Iterable[torch.Tensor]) -> None:
        """Label living tensors."""
        with torch._C.DisableTorchFunction():
            for tensor in tensors:
                kept = self.places.find(tensor)
                if kept is not None and kept.name:
                    self.record.label(kept.name, category)

    def title(self, tensor: torch.Tensor, name: str) -> None:
        """Give a tensor's storage a better name than that of the module that made it."""
        with torch._C.DisableTorchFunction():
            kept = self.places.find(tensor)
        if kept is not None and kept.name:
            self._titles[kept.name] = name

    def settle(self) -> list[Sample]:
        """The span is over: its categories hold from here on."""
        self.record.settle()
        return []

    def stop(self) -> None:
        """End of recording."""
        if not self.paused:
            self.paused = True
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.places.clear()

    def finish_step(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """End of everything."""
        self.stop()

    def peak(self) -> Peak | None:
        """Told by the stream, not here."""
        return None

    def snapshot(self) -> Snapshot | None:
        """Likewise."""
        return None

    def failure(self) -> Snapshot | None:
        """Nothing is allocated, and nothing fails."""
        return None

    def stream(self) -> Stream:
        """Everything that was recorded."""
        return self.record.stream(self._births, self._titles)

    def took(self, sizes: Iterable[int], op: str) -> None:
        """A kernel's own scratch: it comes, and goes when the operator is done."""
        names = []
        for size in sizes:
            self._names = name = self._names + 1
            self._births[name] = Origin(self.origins.at_work(), op, (size,), "uint8")
            self._change(name, size)
            names.append((name, size))
        for name, size in names:
            self._change(name, -size)

    def see(self, tensor: torch.Tensor, place: Place, op: str) -> None:
        """Count a tensor's storage if it is new and the target's, or has grown."""
        storage = storage_of(tensor)
        if storage is None:
            return
        kept = self.places.of(storage)
        if kept is None:
            kept = self.places.keep(storage, place)
            if place is not Place.TARGET:
                return
            self._names = kept.name = self._names + 1
            self._births[kept.name] = self.origins.origin(tensor, op)
        elif not kept.name:
            return
        size = storage.nbytes()
        if size != kept.size:
            self._change(kept.name, size - kept.size)
            kept.size = size

    def _change(self, storage: int, change: int) -> None:
        self.record.storages.append(storage)
        self.record.changes.append(change)

    def fill(self, tensor: torch.Tensor, func: Any) -> None:
        """An operator that was looked into gives a tensor back."""
        kept = self.places.find(tensor)
        if kept is not None and kept.name in self._births:
            self._births[kept.name] = filled_by(self._births[kept.name], func)

    def unasked(self, tensor: torch.Tensor) -> Place:
        """Where something is that torch's own code made of nothing.

        Once a model trains, what is on meta is the target's: zeros for results without gradient,
        a causal mask. What a script makes itself is told its place.
        """
        if self._training and tensor.is_meta:
            return Place.TARGET
        return self.places.unseen(tensor)

    def _gone(self, kept: Kept) -> None:
        if kept.name and not self.paused and kept.size:
            self._change(kept.name, -kept.size)

    def twin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without values in place of a real one, for operators that take both kinds."""
        made = torch.empty_strided(
            tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        # Its name stays 0: it stands for what the real one holds, and is no allocation of its own.
        # Who keeps it (a checkpoint that was computed again) would keep the real one.
        kept = self.places.put(made, self.places.place(tensor))
        if kept is not None:
            kept.real = tensor
        return made


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators on whatever has values, else on meta, and hands the results to the meter."""

    supports_higher_order_operators = True

    def __init__(self, meter: MetaMeter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._meter = meter

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """As the CPU's meter: what is compiled is compiled without the mode."""
        return True

    def _look_into(self, kernel: Kernel, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run a kernel of Python code with its own operators counted, where its inputs are."""
        meter = self._meter
        with torch._C.DisableTorchFunction():
            meter.origins.pass_by()
            inputs = tensors_in((*args, *kwargs.values()))
            place = max((meter.places.place(one) for one in inputs), default=Place.NOWHERE)
            if kernel is not meter.own_kernel:
                # Ours read what has values: how many labels there are.
                args, kwargs = tuple(self._replaced(args)), self._replaced(kwargs)
        with self, meter.pretence, meter.placing(place), torch.no_grad():
            out = kernel(func, *args, **kwargs)
        with torch._C.DisableTorchFunction():
            for made in tensors_in((out,)):
                meter.fill(made, func)
        return out

    def _run(self, func: Any, operator: Operator, args: Any, kwargs: dict[str, Any]) -> Any:
        meter = self._meter
        if operator.kind == VIEW and args[0].is_meta and meter.places.find(args[0]) is not None:
            # Nothing comes or goes. (Two operators of five are of this kind.)
            meter.origins.pass_by()
            return func(*args, **kwargs)
        inputs = tensors_in(args)
        if kwargs:
            inputs += tensors_in(kwargs.values())
        place = Place.NOWHERE
        place_of = meter.places.place
        meta = real = False
        for tensor in inputs:
            there = place_of(tensor)
            if there > place:
                place = there
            if tensor.is_meta:
                meta = True
            else:
                real = True
        meter.origins.pass_by()
        if real and not meta and not func.is_view:
            # A mask of every position with every other: too large to have values.
            meta = _grows(operator, args, inputs)
        if not meta:
            out = func(*args, **kwargs)
        elif operator.reads:
            return _answer(args[0])
        elif real:
            mixed, kwargs = self._mixed(operator, args), self._replaced(kwargs)
            out = shortcuts.run(func, operator, mixed, kwargs)
            if out is mixed[0]:
                out = args[0]
            args = mixed
        else:
            out = shortcuts.run(func, operator, args, kwargs)
        if meter.paused:
            return out
        if meta:
            scratch = meter.scratch.get(operator.overload)
            if scratch is not None:
                meter.took(scratch(args, kwargs), operator.name)
            if operator.kind == IN_PLACE:
                return out
            other = meter.results.get(operator.overload)
            if other is not None:
                out = other(args, out)
        for made in (out,) if isinstance(out, torch.Tensor) else tensors_in((out,)):
            if meter.forced is not None:
                there = meter.forced
            else:
                there = place if inputs else meter.unasked(made)
            meter.see(made, there, operator.name)
        return out

    def _mixed(self, operator: Operator, args: Any) -> Any:
        """Arguments of which some are real: these lose their values, but not their meaning."""
        if operator.indexes:
            # A mask that selects is as long as what it selects.
            indices: list[Any] = []
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    indices += index.nonzero().unbind(1) if not index.is_meta else [index]
                else:
                    indices.append(index)
            args = (args[0], indices, *args[2:])
        return tuple(self._replaced(args))

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value if value.is_meta else self._meter.twin(value)
        if isinstance(value, list | tuple):
            return [self._replaced(part) for part in value]
        if isinstance(value, dict):
            return {key: self._replaced(part) for key, part in value.items()}
        return value


def _dispatch(
    mode: _Mode, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
) -> Any:
    for kind in types:
        if kind is not torch.Tensor and _wraps(kind):
            return NotImplemented
    kwargs = kwargs or {}
    # Most are overloads, of which that is asked much faster.
    if type(func) is not torch._ops.OpOverload and isinstance(func, torch._ops.HigherOrderOperator):
        with mode:
            return func.dispatch(torch._C.DispatchKey.CPU, *args, **kwargs)  # type: ignore[no-untyped-call]
    operator = operator_of(func)
    kernel = mode._meter.own_kernel if operator.own else None
    kernel = kernel or mode._meter.kernels.get(operator.overload)
    if kernel is not None:
        return mode._look_into(kernel, func, args, kwargs)
    with torch._C.DisableTorchFunction():
        return mode._run(func, operator, args, kwargs)


# Set afterwards: torch wraps the method of a class body so that no compiler looks into it, which
# costs as much again as counting does, at every operator.
_Mode.__torch_dispatch__ = _dispatch  # type: ignore[method-assign,assignment]


@functools.lru_cache(256)
def _wraps(kind: type) -> bool:
    """Whether tensors of a type are made of others."""
    return hasattr(kind, "__tensor_flatten__")


def _grows(operator: Operator, args: Any, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether a result has more values than are kept for real, and more than any input has."""
    if operator.indexes:
        # The indices are broadcast together, and each of their rows is taken whole.
        whole: int = math.prod(args[0].shape[len(args[1]) :])
        spread = whole * _spread(tensors_in(args[1]))
    else:
        spread = _spread(inputs)
    return spread > MOST_VALUES and spread > max(map(torch.numel, inputs))


def _spread(tensors: Iterable[torch.Tensor]) -> int:
    """How many values the tensors have when they are broadcast together."""
    sizes: list[int] = []
    for tensor in tensors:
        shape = tensor.shape[::-1]
        sizes += [1] * (len(shape) - len(sizes))
        for place, size in enumerate(shape):
            sizes[place] = max(sizes[place], size)
    return math.prod(sizes)


def _answer(tensor: torch.Tensor) -> bool | int | float:
    """A value where there is none: nothing is wrong, and there is one of it."""
    if tensor.dtype is torch.bool:
        return False
    return 1.0 if tensor.is_floating_point() else 1
