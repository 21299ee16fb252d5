"""A recorded run told again in the charts, at its own pace, faster, or at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from memwb.workbench import history, library, workers
from memwb.workbench.commands import key_for, keyed
from memwb.workbench.replay import Moments

if TYPE_CHECKING:
    from textual.worker import Worker

    from memwb.engine.protocol import Event
    from memwb.engine.runs import Summary
    from memwb.workbench.app import Workbench

PACES = (1.0, 4.0)
"""How fast a run is told; the next after the last is at once."""
FRAME = 0.05
"""Seconds that events are gathered for: more often than that no screen is drawn for them."""

PART = 64
"""Events that are read at a time."""


class Replay:
    """Tells one run at a time; the charts are those of a live burst."""

    def __init__(self, app: Workbench) -> None:
        self.app = app
        self.folder = ""
        """Of the run that is being told; empty while none is."""
        self.pace = 0.0
        self.number = 0
        self._worker: Worker[None] | None = None

    def press(self, run: Summary) -> None:
        """Tell a run again; pressed again, four times as fast, then at once."""
        if self.folder != run.folder:
            self._begin(run)
        elif self.pace < PACES[-1]:
            self.pace = PACES[PACES.index(self.pace) + 1]
            self.app.bursts.show()
        else:
            self.end()

    def end(self) -> bool:
        """Leave off and show the run as a whole; False when none is being told."""
        if not self.leave():
            return False
        self.app.show_runs()
        return True

    def leave(self) -> bool:
        """Leave off, since something else is about to be shown; False when none is being told."""
        told = bool(self.folder)
        self.folder, self.pace = "", 0.0
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        if told:
            self.app.bursts.show()
        return told

    @property
    def doing(self) -> str:
        """What the header says of it."""
        if not self.folder:
            return ""
        again, stop = (key_for(name, self.app.settings.keymap) for name in ("replay", "stop"))
        faster = f"{again} 4×" if self.pace == PACES[0] else f"{again} at once"
        return f"replaying #{self.number} at {self.pace:g}× · {faster} · {stop} stops"

    def _begin(self, run: Summary) -> None:
        app = self.app
        self.leave()
        if run.outcome == "running":
            app.notify("It is still running: there is no end to tell yet.")
            return
        self.folder, self.pace, self.number = run.folder, PACES[0], run.run
        app.show_run(run.folder, charts=False)
        app.main.watch_charts()
        app.bursts.show()
        self._worker = workers.displace(app, "replay", self._tell, run)

    async def _tell(self, run: Summary) -> None:
        app = self.app
        events = library.events(run.folder)
        part = await asyncio.to_thread(_part, events)
        if not part:
            self._worker = None
            self.leave()
            told = "It has no events to read. $take_plan takes over its plan, $run runs that again."
            told = keyed(told, app.settings.keymap)
            app.main.tell("warning", f"#{run.run} cannot be replayed", told)
            return
        number, known = f"#{run.run}", app.recorded
        trace = await asyncio.to_thread(library.empty_trace, run.folder, number, known)
        now = 0.0
        clock = asyncio.get_running_loop().time
        last = clock()
        moments = Moments()
        while part:
            for event in part:
                moment = moments.of(event)
                while now < moment:
                    await asyncio.sleep(min(FRAME, (moment - now) / self.pace))
                    # The pace may have changed meanwhile: what was waited counts at that of now.
                    before, last = last, clock()
                    now += (last - before) * self.pace
                trace.apply(event)
                app.main.take(event, trace)
            # Of a burst of hours never all events are held at once; and keys are heard between.
            part = await asyncio.to_thread(_part, events)
        self._worker = None
        self.leave()
        await history.show(app)


def _part(events: Iterator[Event]) -> list[Event]:
    return list(islice(events, PART))
