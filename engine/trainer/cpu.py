"""The meter for bursts on a CPU: every tensor's storage, to the byte.

A dispatch mode sees the outputs of every operator (also in backward and in the optimizer) and
counts each storage once, by identity, from its first sight until a finalizer says it is gone.
Sizes are the storages' own ``nbytes``, nothing is rounded. Operators whose kernels are written
in Python (bitsandbytes' on a CPU) are looked into, and so is the work of thread pools
(transformers loads pretrained weights in one). Code that torch.compile made runs with the mode
on; the buffers that inductor's code allocates past the dispatcher are seen where it asks for
them.

Not seen: scratch memory inside a compiled kernel that never becomes a tensor (a matrix library's
packing buffers), and Python's own objects. They are in the resident memory, which is given as
``device``.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import psutil
import torch
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from memwb.engine.protocol import Categories, Peak, Sample
from memwb.engine.trainer.meter import Clock, Send
from memwb.engine.trainer.trace import (
    Pulse,
    Reading,
    Row,
    Trace,
    downsample,
    highest,
    sample,
    samples,
)

# Operators of these namespaces have compiled kernels: nothing in them could be looked into.
_COMPILED = frozenset(("aten", "prim", "prims", "profiler", "inductor", "c10d"))
_CPU_KEY = torch._C.DispatchKey.CPU
_CPU = torch._C.DispatchKeySet(_CPU_KEY)


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a counted storage that knows its name, size and address."""

    __slots__ = ("address", "name", "size")
    address: int
    name: int
    size: int


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operator's outputs to ``see``."""

    supports_higher_order_operators = True

    def __init__(self, see: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

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
        if isinstance(func, torch._ops.HigherOrderOperator):
            # Python code around other operators: a random state kept, a subgraph.
            with self:
                out = func.dispatch(_CPU_KEY, *args, **(kwargs or {}))  # type: ignore[no-untyped-call]
        elif func.namespace in _COMPILED:
            out = func(*args, **(kwargs or {}))
        else:
            # The kernel may be Python code that allocates tensors of its own: run it with the
            # mode still on. Dispatching below the mode's own key keeps it from coming back here.
            with self, _autocast_as_outside():
                out = func.redispatch(_CPU, *args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self._see(out)
        elif isinstance(out, list | tuple):
            for part in out:
                if isinstance(part, torch.Tensor):
                    self._see(part)
                elif isinstance(part, list | tuple):
                    for inner in part:
                        if isinstance(inner, torch.Tensor):
                            self._see(inner)
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


def _watch_thread_pools(see: Callable[[torch.Tensor], None]) -> Callable[[], None]:
    """A dispatch mode is of one thread: have pools enter one for each job. Gives the undoing."""
    original = ThreadPoolExecutor.submit

    def submit(
        pool: ThreadPoolExecutor, job: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        def seen() -> Any:
            with _Mode(see):
                return job(*args, **kwargs)

        return original(pool, seen)

    def restore() -> None:
        ThreadPoolExecutor.submit = original  # type: ignore[method-assign]

    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign,assignment]
    return restore


_watching: list[Callable[[torch.Tensor], None]] = []
"""Who sees the buffers of inductor's code: the meter that is recording, if one is."""


def _watch_inductor(see: Callable[[torch.Tensor], None]) -> None:
    """Hand the buffers that inductor's code allocates, past every mode, to ``see``.

    A compiled module looks the allocating function up once, when it is loaded, and stays loaded
    for the process's life. So the function is replaced once and for all.
    """
    guards: Any = torch._C._dynamo.guards
    original: Any = guards._empty_strided_cpu
    _watching[:] = [see]
    if hasattr(original, "watched"):
        return

    def empty_strided(*args: Any) -> torch.Tensor:
        made: torch.Tensor = original(*args)
        for watcher in _watching:
            watcher(made)
        return made

    empty_strided.watched = True  # type: ignore[attr-defined]
    guards._empty_strided_cpu = empty_strided


class CpuMeter:
    """See the module. ``reserved`` is ``allocated``: a CPU has no caching pool."""

    def __init__(self, clock: Clock, send: Send) -> None:
        self.trace = Trace()
        self._clock = clock
        self._process = psutil.Process()
        self._readings: list[Reading] = []
        self._alive: dict[int, _Storage] = {}
        self._names = 0
        self._peak: Row | None = None
        self._most_resident = 0
        self._mode: _Mode | None = None
        self._unwatch: Callable[[], None] = _nothing
        # A finalizer may run while its own thread counts: the lock has to let it through.
        self._lock = threading.RLock()
        self._pulse = Pulse(lambda rows: send([sample(row, self._read()) for row in rows]))

    def start(self) -> None:
        """Begin to record."""
        self._unwatch = _watch_thread_pools(self._see)
        _watch_inductor(self._see)
        self._mode = _Mode(self._see)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.mark(0, "load")

    def mark(self, step: int, phase: str) -> None:
        """A phase begins."""
        if self._mode is not None:
            now = self._clock()
            self.trace.mark(now, step, phase)
            self._pulse.beat(now, self.trace)

    def sight(self, category: int, tensors: Iterable[torch.Tensor]) -> None:
        """Label living tensors; those that no operator made are counted from now."""
        if self._mode is None:
            return
        for tensor in tensors:
            self._see(tensor)
            storage = self._alive.get(_address(tensor))
            if storage is not None:
                self.trace.label(storage.name, category)

    def settle(self) -> list[Sample]:
        """The span is over: its samples with resolved categories."""
        self._pulse.flush(self._clock(), self.trace)
        rows = self.trace.settle()
        self._peak = highest([*([self._peak] if self._peak else []), *rows])
        made = samples(downsample(rows), self._readings)
        self._readings = self._readings[-1:]
        return made

    def stop(self) -> None:
        """End of recording; the finalizers of what still lives do nothing from here on."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._mode = None
            self._unwatch()
            _watching.clear()
            self._alive.clear()

    def finish_step(self) -> None:
        """A CPU's operators are done when they return."""
        self._read()

    def close(self) -> None:
        """Nothing runs beside the burst."""
        self.stop()

    def peak(self) -> Peak | None:
        """The highest moment of the loading and the traced steps."""
        if self._peak is None:
            return None
        return Peak(
            allocated=self._peak.total,
            reserved=self._peak.total,
            device=self._most_resident,
            phase=self._peak.phase,
            categories=Categories(*self._peak.totals),
        )

    def _read(self) -> Reading:
        reading = Reading(self._clock(), -1, self._process.memory_info().rss)
        self._most_resident = max(self._most_resident, reading.device)
        if self._mode is not None:
            self._readings.append(reading)
        return reading

    def _see(self, tensor: torch.Tensor) -> None:
        address = _address(tensor)
        known = self._alive.get(address)
        if known is not None:
            size = tensor.untyped_storage().nbytes()
            if size != known.size:
                with self._lock:
                    self._change(known, size - known.size)
        elif address:
            with self._lock:
                self._count(tensor.untyped_storage(), address)

    def _count(self, storage: torch.UntypedStorage, address: int) -> None:
        if storage.device.type != "cpu" or address in self._alive or self._mode is None:
            return
        known = _Storage(storage, self._gone)
        known.address, known.size = address, 0
        known.name = self._names = self._names + 1
        self._alive[address] = known
        self._change(known, storage.nbytes())

    def _change(self, known: _Storage, change: int) -> None:
        now = self._clock()
        known.size += change
        self.trace.change(now, known.name, change)
        self._pulse.beat(now, self.trace)

    def _gone(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(reference, _Storage)
        with self._lock:
            if self._alive.get(reference.address) is reference:
                del self._alive[reference.address]
                now = self._clock()
                self.trace.free(now, reference.name)
                self._pulse.beat(now, self.trace)


def _nothing() -> None:
    """What there is to undo before anything is done."""


def _address(tensor: torch.Tensor) -> int:
    """The identity of the tensor's storage; 0 for tensors that have none (sparse ones)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return 0
