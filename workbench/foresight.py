"""Whether a predicted peak fits: the arithmetic that the workbench and the command line share."""

from __future__ import annotations

from typing import NamedTuple

from memwb.engine.prediction import Prediction
from memwb.engine.protocol import Device, Peak
from memwb.workbench.outlook import Outlook, fit_of


def capacity_of(outlook: Outlook, device: Device | None) -> int | None:
    """Bytes that the plan may use on its target, as far as that is known."""
    if outlook.result is None:
        return None
    fit = fit_of(outlook.result)
    if fit is not None:
        return fit.capacity
    here = device is not None and (not outlook.target or outlook.target == device.kind)
    return device.capacity if here and device is not None else None


OTHER_KERNELS = "~ another architecture chooses other kernels: predict for it to be sure"
"""What the mark before a GPU means whose kernels are not those that were predicted."""


def need(peak: Peak) -> int:
    """Bytes without which it cannot run: what is allocated, and the context.

    Not what the allocator holds beyond that, which it gives back before it gives up.
    """
    return peak.allocated + peak.device - peak.reserved


def exceeds(peak: Peak, capacity: int | None) -> bool:
    """Whether it needs more than there is."""
    return bool(capacity) and need(peak) > (capacity or 0)


class Room(NamedTuple):
    """How a predicted peak stands to what there is."""

    verdict: str
    """fits, tight or exceeds."""
    free: int
    """Bytes; negative where there are too few."""
    capacity: int


def room_on(result: Prediction, device: Device | None, capacity: int | None = None) -> Room | None:
    """The verdict on a prediction's own target; None where it is not known what there is.

    ``capacity`` is what there is, where it is known already; else a CPU's is that of ``device``.
    """
    fit = fit_of(result)
    if fit is not None:
        return Room(fit.verdict, fit.free, fit.capacity)
    if capacity is None and device is not None and result.target == device.kind:
        capacity = device.capacity
    if capacity is None:
        return None
    word = "exceeds" if exceeds(result.peak, capacity) else "fits"
    return Room(word, capacity - need(result.peak), capacity)
