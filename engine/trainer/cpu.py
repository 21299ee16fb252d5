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

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import torch

from memwb.engine.protocol import Categories, Peak, Sample
from memwb.engine.trainer.alive import Birth, Origin, Request, Snapshot
from memwb.engine.trainer.meter import Clock, Send
from memwb.engine.trainer.mode import Mode, See
from memwb.engine.trainer.origins import Origins, filled_by, op_of
from memwb.engine.trainer.trace import (
    Pulse,
    Reading,
    Row,
    Trace,
    downsample,
    higher,
    sample,
    samples,
)


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a counted storage that knows its name, size and address."""

    __slots__ = ("address", "name", "size")
    address: int
    name: int
    size: int


def _watch_thread_pools(mode: Callable[[], Mode]) -> Callable[[], None]:
    """A dispatch mode is of one thread: have pools enter one for each job. Gives the undoing."""
    original = ThreadPoolExecutor.submit

    def submit(
        pool: ThreadPoolExecutor, job: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        def seen() -> Any:
            with mode():
                return job(*args, **kwargs)

        return original(pool, seen)

    def restore() -> None:
        ThreadPoolExecutor.submit = original  # type: ignore[method-assign]

    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign,assignment]
    return restore


_watching: list[See] = []
"""Who sees the buffers of inductor's code: the meter that is recording, if one is."""


def _watch_inductor(see: See) -> None:
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
            watcher(made, original)
        return made

    empty_strided.watched = True  # type: ignore[attr-defined]
    guards._empty_strided_cpu = empty_strided


class CpuMeter:
    """See the module. ``reserved`` is ``allocated``: a CPU has no caching pool."""

    def __init__(self, clock: Clock, send: Send) -> None:
        self.trace = Trace()
        self.origins = Origins()
        self._clock = clock
        self._process = psutil.Process()
        self._readings: list[Reading] = []
        self._alive: dict[int, _Storage] = {}
        self._names = 0
        self._peak: Row | None = None
        self._most_resident = 0
        self._snapshot: Snapshot | None = None
        self._asked: Request | None = None
        self._failure: Snapshot | None = None
        self._births: dict[int, Origin] = {}
        self._titles: dict[int, str] = {}
        self._mode: Mode | None = None
        self._unwatch: Callable[[], None] = _nothing
        # A finalizer may run while its own thread counts: the lock has to let it through.
        self._lock = threading.RLock()
        self._pulse = Pulse(lambda rows: send([sample(row, self._read()) for row in rows]))

    def start(self) -> None:
        """Begin to record."""
        self._unwatch = _watch_thread_pools(self._new_mode)
        _watch_inductor(self._see)
        self._mode = self._new_mode()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.mark(0, "load")

    def mark(self, step: int, phase: str) -> None:
        """A phase begins."""
        if self._mode is not None:
            now = self._clock()
            self.origins.mark(step, phase)
            self.trace.mark(now, step, phase)
            self._pulse.beat(now, self.trace)

    def sight(self, category: int, tensors: Iterable[torch.Tensor]) -> None:
        """Label living tensors; those that no operator made are counted from now."""
        if self._mode is None:
            return
        for tensor in tensors:
            self._see(tensor, None)
            storage = self._alive.get(_address(tensor))
            if storage is not None:
                self.trace.label(storage.name, category)

    def settle(self) -> list[Sample]:
        """The span is over: its samples with resolved categories."""
        self._pulse.flush(self._clock(), self.trace)
        rows = self.trace.settle()
        at = higher(rows, self._peak)
        if at is not None:
            self._peak = rows[at]
            self._snapshot = self._snapshot_of(rows, at)
        # One that was survived in the span before is not what ends the burst.
        self._failure = None
        if rows and self._asked is not None and self.trace.failed is not None:
            self._failure = self._snapshot_of(rows, self.trace.failed)._replace(asked=self._asked)
        # Of what is gone nothing is asked any more.
        self.trace.forget()
        living = {known.name for known in self._alive.values()}
        self._births = {name: self._births[name] for name in living & self._births.keys()}
        self._titles = {name: self._titles[name] for name in living & self._titles.keys()}
        made = samples(downsample(rows), self._readings)
        self._readings = self._readings[-1:]
        return made

    def title(self, tensor: torch.Tensor, name: str) -> None:
        """Give a living tensor's storage a better name than that of the module that made it."""
        storage = self._alive.get(_address(tensor))
        if storage is not None:
            self._titles[storage.name] = name

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

    def snapshot(self) -> Snapshot | None:
        """The tensors at the highest moment."""
        return self._snapshot

    def failure(self) -> Snapshot | None:
        """The tensors that were there when an allocation failed."""
        return self._failure

    def _snapshot_of(self, rows: Sequence[Row], at: int) -> Snapshot:
        members = []
        for name, (size, category) in self.trace.alive(at).items():
            module, op, shape, dtype = self._births[name]
            title = self._titles.get(name, module)
            members.append((size, Birth(category, title, op, shape, dtype)))
        return Snapshot(rows[at], members, rows[at].total)

    def _new_mode(self) -> Mode:
        return Mode(self._see, self.origins, self._failed, self._fill)

    def _failed(self, request: Request) -> None:
        with self._lock:
            self._asked = request
            self.trace.fail()

    def _see(self, tensor: torch.Tensor, func: Any) -> None:
        address = _address(tensor)
        known = self._alive.get(address)
        if known is not None:
            size = tensor.untyped_storage().nbytes()
            if size != known.size:
                with self._lock:
                    self._change(known, size - known.size)
        elif address:
            with self._lock:
                self._count(tensor, address, func)

    def _fill(self, tensor: torch.Tensor, func: Any) -> None:
        known = self._alive.get(_address(tensor))
        if known is not None:
            self._births[known.name] = filled_by(self._births[known.name], func)

    def _count(self, tensor: torch.Tensor, address: int, func: Any) -> None:
        storage = tensor.untyped_storage()
        if storage.device.type != "cpu" or address in self._alive or self._mode is None:
            return
        known = _Storage(storage, self._gone)
        known.address, known.size = address, 0
        known.name = self._names = self._names + 1
        self._alive[address] = known
        self._births[known.name] = self.origins.origin(tensor, op_of(func))
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
