"""The events of a recorded burst with the moment of each, so that it can be told again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memwb.engine.protocol import Event, Loaded, Samples, Step, Timeline


class Moments:
    """Tells the moment of each event of a burst, in seconds since it began.

    Events carry no clock of their own: samples tell it, and for a step without any (those that
    are not traced) its duration does.
    """

    def __init__(self) -> None:
        self._now = self._last = 0.0

    def of(self, event: Event) -> float:
        """The moment of the next event."""
        if isinstance(event, Samples | Timeline) and event.samples:
            self._now = max(self._now, event.samples[-1].time)
        elif isinstance(event, Loaded):
            self._now = max(self._now, event.seconds)
        elif isinstance(event, Step):
            now = self._now
            self._now = self._last = now if now > self._last else now + event.seconds
        return self._now


def timed(events: Iterable[Event]) -> Iterator[tuple[float, Event]]:
    """Each event with its moment."""
    moments = Moments()
    return ((moments.of(event), event) for event in events)
