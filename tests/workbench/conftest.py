"""An engine that plays recorded events, and the workbench with it in the place of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from memwb.engine.plan import Plan
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
from memwb.workbench.app import Workbench
from memwb.workbench.start import open_workbench

DATA = Path(__file__).parents[1] / "data"

GIB = 2**30
CPU = Device(kind="cpu", name="CPU", capacity=16 * GIB)
GPU = Device(kind="cuda", name="NVIDIA H200", capacity=141 * GIB)


def recorded(name: str) -> list[Event]:
    """The events of a recorded burst of tests/data."""
    return [decode_event(line) for line in (DATA / f"{name}.jsonl").read_bytes().splitlines()]


def ended(outcome: str, title: str, what: str = "", fix: str = "") -> list[Event]:
    """A burst that ends before it has done anything."""
    start = recorded("full")[:1] if outcome != "refused" else []
    return [*start, Ended("1", outcome, title=title, what=what, fix=fix)]


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


Bench = Callable[..., Workbench]


@pytest.fixture
def bench() -> Bench:
    """Opens the workbench as it was left, with a scripted engine that plays these bursts."""

    def build(
        *names: str | Sequence[Event] | None, plan: Plan | None = None, **how: object
    ) -> Workbench:
        bursts = [recorded(name) if isinstance(name, str) else name for name in names]
        engine = ScriptedEngine(*bursts, **how)  # type: ignore[arg-type]
        app = open_workbench(plan, lambda: engine)
        app.scripted = engine  # type: ignore[attr-defined]
        return app

    return build


async def until(pilot: Pilot[None], done: Callable[[], object], patience: float = 10.0) -> None:
    """Wait for something to become true, with every message handled."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not done():
        assert loop.time() < end, "it never came to be"
        await pilot.pause(0.02)
    await pilot.pause()


@pytest.fixture
def waiting() -> Callable[..., object]:
    """The ``until`` of this file."""
    return until


@pytest.fixture
def play() -> Callable[[str], list[Event]]:
    """The ``recorded`` of this file."""
    return recorded


@pytest.fixture
def short() -> Callable[..., list[Event]]:
    """The ``ended`` of this file."""
    return ended
