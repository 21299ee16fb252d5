"""An engine that plays recorded events, and the workbench with it in the place of a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from memwb.engine.plan import Plan
from memwb.engine.prediction import Change, Fit, Large, Parameters, Point, Prediction
from memwb.engine.protocol import (
    AllPredicted,
    Categories,
    Command,
    Device,
    Ended,
    Event,
    Hello,
    Peak,
    Predict,
    Predicted,
    Quit,
    Ready,
    Start,
    Started,
    Stop,
    Timeline,
    Toggled,
    Unpredicted,
    decode_event,
)
from memwb.engine.technique import techniques
from memwb.workbench.app import Workbench
from memwb.workbench.start import open_workbench

DATA = Path(__file__).parents[1] / "data"
FAKE = Path(__file__).with_name("fake_engine.py")

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


MIB = 2**20
CONTEXT = 512 * MIB


def foretold(target: str = "cpu", scale: float = 1.01, base: int = 0) -> Prediction:
    """A made-up prediction: what the recorded burst measured, a hundredth more of it.

    ``base`` bytes are added to the weights of every moment.
    """

    def more(parts: Categories | None) -> Categories:
        assert parts is not None
        sizes = {name: round(getattr(parts, name) * scale) for name in parts.__struct_fields__}
        return Categories(**sizes | {"weights": sizes["weights"] + base})

    points = tuple(
        Point(sample.phase, sample.step, more(sample.categories).total, more(sample.categories))
        for event in recorded("full")
        if isinstance(event, Timeline)
        for sample in event.samples[::4]
    )
    # A hundredth more of the first kinds that it had alive at its peak.
    kinds = [
        msgspec.structs.replace(large, bytes=round(large.bytes * scale))
        for event in recorded("full")
        if isinstance(event, Ended) and event.alive is not None
        for large in event.alive.largest[:4]
    ]
    top = max((point for point in points if point.step == 2), key=lambda point: point.allocated)
    held = top.allocated if target == "cpu" else round(top.allocated * 1.06)
    used = held if target == "cpu" else held + CONTEXT
    cards = (("rtx-2060-6gb", 6), ("rtx-4070", 12), ("rtx-4080", 16), ("rtx-4090", 24))
    cards += (("a100-40gb", 40), ("a100-80gb", 80), ("h200", 141))
    return Prediction(
        target=target,
        peak=Peak(top.allocated, held, used, top.phase, top.categories),
        step=2,
        timeline=points,
        largest=(
            Large(32 * MIB, "activations", "lm_head", "aten.mm", (4096, 2048), "float32"),
            Large(12 * MIB, "weights", "model.layers.*.mlp", "", (768, 256), "float32", 16),
            Large(8 * MIB, "activations", "", "aten._log_softmax", (4096, 512), "float32"),
            *kinds,
        ),
        fits=tuple(_fit(name, size * GIB, top.allocated + CONTEXT) for name, size in cards),
        parameters=Parameters(2_460_096, 2_460_096),
        words=(
            "The peak is in backward, in step 2: fp32 logits of lm_head 32.0 MiB.",
            "The allocator holds 6 % more than what is allocated; the context takes 512 MiB.",
        ),
        notes=("The weights are random: their values change nothing here.",),
        seconds=0.4,
    )


def _fit(name: str, capacity: int, wanted: int) -> Fit:
    free = capacity - wanted
    verdict = "exceeds" if free < 0 else "tight" if free < capacity // 20 else "fits"
    return Fit(name, capacity, verdict, free)


def changed(result: Prediction) -> list[Change]:
    """Made-up changes: each technique another one, one of none, one that cannot be predicted."""
    found = []
    for at, name in enumerate(techniques()):
        gap = (at - 12) * (result.peak.allocated // 40)
        peak = msgspec.structs.replace(
            result.peak,
            allocated=result.peak.allocated + gap,
            reserved=result.peak.reserved + gap,
            device=result.peak.device + gap,
        )
        lacks = name == "torch_compile"
        found.append(
            Change(
                technique=name,
                on=True,
                overrides=(f"{name}=on",),
                peak=None if lacks else peak,
                reason="compiled code allocates past the dispatcher" if lacks else "",
            )
        )
    return found


class ScriptedEngine:
    """Answers each start with the next of its bursts; ``hold`` stops before the end of one.

    A burst that is ``None`` makes the process die. ``commands`` keeps what it was sent but
    questions for predictions, which are in ``questions``: each is answered with ``forecast`` and
    its changes, with what ``forecast`` makes of the question, or that there is none.
    """

    def __init__(
        self,
        *bursts: Sequence[Event] | None,
        device: Device = CPU,
        ready: bool = True,
        hold: bool = False,
        forecast: Prediction | Callable[[Predict], Sequence[Event]] | None = None,
    ) -> None:
        self.forecast = forecast
        self.questions: list[Predict] = []
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
        if isinstance(command, Predict):
            self.questions.append(command)
            for event in self._answers(command):
                self._queue.put_nowait(event)
            return
        self.commands.append(command)
        match command:
            case Start():
                self._play(command)
            case Stop():
                self.emit(Ended(burst="1", outcome="stopped", title="Stopped"))
            case Quit():
                self._queue.put_nowait(None)

    def _answers(self, question: Predict) -> Sequence[Event]:
        name = question.prediction
        if self.forecast is None:
            return [Unpredicted(name, "No prediction")]
        if not isinstance(self.forecast, Prediction):
            return self.forecast(question)
        told = changed(self.forecast) if question.changes else []
        toggled = [Toggled(name, change) for change in told]
        return [Predicted(name, self.forecast), *toggled, AllPredicted(name, 1.0)]

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
        *names: str | Sequence[Event] | None,
        plan: Plan | None = None,
        guide: bool = False,
        **how: object,
    ) -> Workbench:
        bursts = [recorded(name) if isinstance(name, str) else name for name in names]
        engine = ScriptedEngine(*bursts, **how)  # type: ignore[arg-type]
        app = open_workbench(plan, lambda: engine, guide=guide)
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


@pytest.fixture
def forecast() -> Callable[..., Prediction]:
    """The ``foretold`` of this file."""
    return foretold


@pytest.fixture
def changes() -> Callable[[Prediction], list[Change]]:
    """The ``changed`` of this file."""
    return changed


@pytest.fixture
def bursts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose how bursts and predictions of the fake engine's process go."""

    def choose(how: str) -> None:
        monkeypatch.setenv("MEMWB_ENGINE", f"'{sys.executable}' -P '{FAKE}' '{how}'")

    choose("done")
    return choose
