"""The events of a recorded burst with the moment of each, so that it can be told again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memwb.engine.protocol import Event, Loaded, Samples, Step, Timeline


def timed(events: Iterable[Event]) -> Iterator[tuple[float, Event]]:
    """Each event with its moment, in seconds since the burst began.

    Events carry no clock of their own: samples tell it, and for a step without any (those that
    are not traced) its duration does.
    """
    now, last = 0.0, 0.0
    for event in events:
        if isinstance(event, Samples | Timeline) and event.samples:
            now = max(now, event.samples[-1].time)
        elif isinstance(event, Loaded):
            now = max(now, event.seconds)
        elif isinstance(event, Step):
            now = last = now if now > last else now + event.seconds
        yield now, event
