"""The one interface of the meters, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from memwb.engine.protocol import Peak, Sample
from memwb.engine.trainer.alive import Snapshot
from memwb.engine.trainer.origins import Origins

Send = Callable[[list[Sample]], None]
Clock = Callable[[], float]


class Meter(Protocol):
    """Watches memory from outside the script.

    Between ``start`` and ``stop`` every allocation is recorded; ``settle`` ends a span (the
    loading, or one step) and gives its resolved samples. ``close`` ends what still runs beside
    the burst.
    """

    origins: Origins
    """Knows the module at work."""

    def start(self) -> None:
        """Begin to record."""

    def mark(self, step: int, phase: str) -> None:
        """A phase begins."""

    def sight(self, category: int, tensors: Iterable[torch.Tensor]) -> None:
        """What these living tensors turned out to be (``trace.WEIGHTS`` and so on)."""

    def title(self, tensor: torch.Tensor, name: str) -> None:
        """Give a living tensor's storage a better name than that of the module that made it."""

    def settle(self) -> list[Sample]:
        """The span is over: its samples with resolved categories, at most a few hundred."""

    def stop(self) -> None:
        """End of recording; steps after this run with no tracing."""

    def finish_step(self) -> None:
        """Wait until the device has done what was asked of it, so that time can be told."""

    def close(self) -> None:
        """The burst is over."""

    def peak(self) -> Peak | None:
        """The highest moment so far."""

    def snapshot(self) -> Snapshot | None:
        """The tensors of that moment."""

    def failure(self) -> Snapshot | None:
        """The tensors that were there when an allocation failed; None where none did."""


def meter_for(kind: str, clock: Clock, send: Send) -> Meter:
    """The meter of a device kind, ``cuda`` or ``cpu``; live samples go to ``send``."""
    if kind == "cuda":
        from memwb.engine.trainer.cuda import CudaMeter

        return CudaMeter(clock, send)
    from memwb.engine.trainer.cpu import CpuMeter

    return CpuMeter(clock, send)
