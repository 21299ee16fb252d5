"""What the workbench and the engine say to each other: one JSON object a line, both ways.

Bytes are integers, times are seconds. ``categories`` are always in the order of CATEGORIES.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    Loss = float
else:
    # JSON has no NaN and no infinity: both travel as null, and null is read as NaN.
    Loss = float | None

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporary")
PHASES = ("load", "forward", "loss", "backward", "optimizer")


def _number(loss: float | None) -> float:
    return math.nan if loss is None else loss


class Categories(msgspec.Struct, frozen=True):
    """Bytes alive by category; their sum is what is allocated.

    weights: parameters and buffers, with what a quantised weight needs to be read;
    gradients: ``.grad`` of parameters; optimizer: the optimizer's state; activations: what
    forward and loss allocated and backward found alive; temporary: everything else.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    temporary: int = 0

    @property
    def total(self) -> int:
        """The allocated bytes."""
        return sum(getattr(self, name) for name in CATEGORIES)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """Memory at one moment. ``reserved`` and ``device`` are the last known figures."""

    time: float
    """Seconds since the burst began."""
    step: int
    """0 while loading, then from 1."""
    phase: str
    """One of PHASES; empty in a step that is not traced."""
    allocated: int
    reserved: int
    device: int
    categories: Categories | None = None
    """None where only totals are known (CUDA, before a traced step is over)."""


class Peak(msgspec.Struct, frozen=True):
    """The moment of the most allocated bytes, with the highest reserved and device figures."""

    allocated: int
    reserved: int
    device: int
    phase: str
    categories: Categories


class Device(msgspec.Struct, frozen=True):
    """Where a burst runs. ``capacity`` is the card's memory, or the machine's on a CPU."""

    kind: str
    """cuda or cpu."""
    name: str
    capacity: int


# Commands: client to engine.


class Start(msgspec.Struct, frozen=True, tag="start", forbid_unknown_fields=True):
    """Run one burst of a plan (plain data, as in the TOML)."""

    plan: dict[str, object]
    device: str = "auto"
    """auto, cpu or cuda."""
    burst: str = "1"
    """The client's name for this burst; every event of it carries the name."""
    allow_pickle: bool = False
    trust_remote_code: bool = False


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Stop the running burst: ask, then terminate, then kill."""


class Quit(msgspec.Struct, frozen=True, tag="quit"):
    """Stop the burst and end the engine."""


Command = Start | Stop | Quit


# Events: engine to client.


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The engine is alive; the heavy libraries are still being imported."""

    version: str
    pid: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The fork server is warm. ``versions`` maps a package to its version."""

    device: Device
    versions: dict[str, str]


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A burst runs. ``script`` is the text of the train.py that is running."""

    burst: str
    device: Device
    model: str
    weights: str
    """pretrained or random."""
    parameters: int
    steps: int
    traced: tuple[int, ...]
    """The steps whose every allocation is recorded; tokens/s comes from the others."""
    script: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model stands: counted parameters and bytes of weights."""

    burst: str
    parameters: int
    trainable: int
    weights: int
    seconds: float


class Samples(msgspec.Struct, frozen=True, tag="samples"):
    """Memory as it happens, coalesced with every peak kept; provisional in its categories."""

    burst: str
    samples: list[Sample]


class Timeline(msgspec.Struct, frozen=True, tag="timeline"):
    """A traced step (or the loading, step 0) once it is over: replaces its live samples."""

    burst: str
    step: int
    samples: list[Sample]


class Step(msgspec.Struct, frozen=True, tag="step"):
    """One optimizer step is over."""

    burst: str
    step: int
    loss: Loss
    seconds: float
    tokens: int
    """Those it was trained on: labels that are somebody's next token, without padding."""
    traced: bool

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "loss", _number(self.loss))


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The burst is over. ``message`` says what happened and what to do unless it is done."""

    burst: str
    outcome: str
    """done, oom, failed, stopped, or refused (nothing had run: the plan or its input is wrong)."""
    peak: Peak | None = None
    losses: list[Loss] = []
    tokens_per_second: float | None = None
    seconds: float = 0.0
    title: str = ""
    what: str = ""
    fix: str = ""
    padding: float | None = None
    """The share of positions that trained nothing, of 1; None where it is not known."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "losses", [_number(loss) for loss in self.losses])


class Problem(msgspec.Struct, frozen=True, tag="problem"):
    """A command could not be taken; nothing changed."""

    title: str
    what: str = ""
    fix: str = ""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Nothing new, but alive; at least one event a second arrives while a burst runs."""

    burst: str = ""


Event = Hello | Ready | Started | Loaded | Samples | Timeline | Step | Ended | Problem | Beat

_command: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def encode(message: Command | Event) -> bytes:
    """One line: the message as JSON, with the newline."""
    return _encoder.encode(message) + b"\n"


def decode_command(line: bytes | str) -> Command:
    """The command of one line. Raises msgspec.DecodeError on anything else."""
    command: Command = _command.decode(line)
    return command


def decode_event(line: bytes | str) -> Event:
    """The event of one line. Raises msgspec.DecodeError on anything else."""
    event: Event = _event.decode(line)
    return event
