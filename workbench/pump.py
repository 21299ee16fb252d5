"""The engine's events carried to the screen, each burst recorded on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from textual.message import Message

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data
from memwb.engine.protocol import Command, Ended, Event, Peak, Start, Started

if TYPE_CHECKING:
    from memwb.engine.runs import Recorder
    from memwb.workbench.settings import Settings


class Engine(Protocol):
    """What the workbench needs of an engine; the client of the engine's process has it."""

    async def start(self) -> None:
        """Bring the process up."""

    def send(self, command: Command) -> None:
        """Give it a command."""

    def events(self) -> AsyncIterator[Event]:
        """Its events until it is gone."""

    async def close(self) -> None:
        """End it."""


class EngineEvent(Message):
    """One event of the engine, after it was recorded."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class RunOpened(Message):
    """A burst has started and has a folder."""

    def __init__(self, folder: str, number: int) -> None:
        super().__init__()
        self.folder = folder
        self.number = number


class NotRecorded(Message):
    """The burst goes on, but its folder could not be written."""

    def __init__(self, error: MemwbError) -> None:
        super().__init__()
        self.error = error


class EngineGone(Message):
    """The engine's process is no more; ``reason`` says why it could not be used, if known."""

    def __init__(self, reason: MemwbError | None = None) -> None:
        super().__init__()
        self.reason = reason


AHEAD = 256
"""Events that may be on their way to the screen: an engine that says more waits in its pipe."""


class Pump:
    """Holds one engine: starts it, takes its events in order, records its bursts."""

    def __init__(self, factory: Callable[[], Engine], post: Callable[[Message], object]) -> None:
        self._engine = factory()
        self._post = post
        self._plan: Plan | None = None
        self._predicted: Peak | None = None
        self._recorder: Recorder | None = None
        self._bursts = 0
        self._room = asyncio.Semaphore(AHEAD)

    async def run(self) -> None:
        """Until the engine is gone. Files are written in a thread: a slow disk delays no key."""
        reason: MemwbError | None = None
        try:
            await self._engine.start()
            async for event in self._engine.events():
                try:
                    await self._record(event)
                except MemwbError as error:
                    self._give_up()
                    self._post(NotRecorded(error))
                await self._room.acquire()
                self._post(EngineEvent(event))
        except MemwbError as error:
            reason = error
        except OSError as error:
            reason = MemwbError("The engine could not be started", str(error))
        self._give_up()
        self._post(EngineGone(reason))

    def heard(self) -> None:
        """An event has reached the screen."""
        self._room.release()

    def start(self, plan: Plan, settings: Settings, predicted: Peak | None = None) -> None:
        """Run a burst of the plan where and with what the settings allow.

        What was predicted of it is kept with the run.
        """
        self._plan, self._predicted = plan, predicted
        self._bursts += 1
        self._engine.send(
            Start(
                plan=plan_data(plan),
                device=settings.device,
                burst=str(self._bursts),
                allow_pickle=settings.allow_pickle,
                trust_remote_code=settings.trust_remote_code,
            )
        )

    def send(self, command: Command) -> None:
        """Any other command."""
        self._engine.send(command)

    async def foretell(self, peak: Peak) -> None:
        """Keep with the burst what was predicted of it after it had been started."""
        self._predicted = peak
        if self._recorder is not None:
            # Unless it can be written, the run is without it: the burst itself will say so.
            with contextlib.suppress(MemwbError):
                await asyncio.to_thread(self._recorder.foretold, peak)

    def _give_up(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    async def close(self) -> None:
        """End the engine and wait for it."""
        await self._engine.close()

    async def _record(self, event: Event) -> None:
        if isinstance(event, Started) and self._plan is not None:
            from memwb.engine.runs import record

            # The recorder keeps the event it is made from.
            self._recorder = await asyncio.to_thread(
                record, self._plan, event, predicted=self._predicted
            )
            self._post(RunOpened(str(self._recorder.folder), self._recorder.summary.run))
        elif self._recorder is not None:
            await asyncio.to_thread(self._recorder.event, event)
            if isinstance(event, Ended):
                self._recorder = None
