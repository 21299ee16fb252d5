"""An engine that plays recorded events: the workbench's other side in tests and pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from memwb.engine.protocol import (
    Command,
    Device,
    Ended,
    Event,
    Hello,
    Quit,
    Ready,
    Start,
    Started,
    Stop,
    decode_event,
)

GIB = 2**30
CPU = Device(kind="cpu", name="CPU", capacity=16 * GIB)
GPU = Device(kind="cuda", name="NVIDIA H200", capacity=141 * GIB)


def recorded(path: Path) -> list[Event]:
    """The events of a file of JSON lines."""
    return [decode_event(line) for line in path.read_bytes().splitlines()]


class ScriptedEngine:
    """Answers each start with the next of its bursts; ``hold`` stops before the end of one.

    A burst that is ``None`` makes the process die. ``commands`` keeps what it was sent.
    """

    def __init__(
        self,
        *bursts: Sequence[Event] | None,
        device: Device = CPU,
        ready: bool = True,
        hold: bool = False,
    ) -> None:
        self.bursts = list(bursts)
        self.commands: list[Command] = []
        self.started = 0
        self.closed = False
        self.device = device
        self.ready = ready
        self.hold = hold
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    @property
    def alive(self) -> bool:
        return not self.closed

    async def start(self) -> None:
        self.started += 1
        self._queue.put_nowait(Hello(version="0", pid=1))
        if self.ready:
            self.become_ready()

    def become_ready(self) -> None:
        self._queue.put_nowait(Ready(device=self.device, versions={}))

    def send(self, command: Command) -> None:
        self.commands.append(command)
        match command:
            case Start():
                self._play(command)
            case Stop():
                self.emit(Ended(burst="1", outcome="stopped", title="Stopped"))
            case Quit():
                self._queue.put_nowait(None)

    def emit(self, *events: Event) -> None:
        for event in events:
            self._queue.put_nowait(event)

    def die(self) -> None:
        self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event

    async def close(self) -> None:
        self.closed = True
        self._queue.put_nowait(None)

    def _play(self, command: Start) -> None:
        burst = self.bursts.pop(0)
        if burst is None:
            self.die()
            return
        for event in burst:
            if self.hold and isinstance(event, Ended):
                return
            if isinstance(event, Started):
                event = msgspec.structs.replace(event, device=self.device)
            self.emit(event)
