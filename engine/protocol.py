"""What the workbench and the engine say to each other: one JSON object a line, both ways.

Bytes are integers, times are seconds. ``categories`` are always in the order of CATEGORIES.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from memwb.engine.memory import CATEGORIES as CATEGORIES
from memwb.engine.memory import PHASES as PHASES
from memwb.engine.memory import Alive as Alive
from memwb.engine.memory import Categories as Categories
from memwb.engine.memory import Peak as Peak
from memwb.engine.memory import Sample as Sample
from memwb.engine.prediction import Change, Prediction

if TYPE_CHECKING:
    Loss = float
else:
    # JSON has no NaN and no infinity: both travel as null, and null is read as NaN.
    Loss = float | None


def _number(loss: float | None) -> float:
    return math.nan if loss is None else loss


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


class Predict(msgspec.Struct, frozen=True, tag="predict", forbid_unknown_fields=True):
    """Predict a plan, in a process of its own beside whatever runs.

    A new one takes the place of the one before it: the answers to that are no longer sent.
    """

    plan: dict[str, object]
    target: str = ""
    """The id of a GPU, or cpu; empty means this machine's GPU, or its CPU."""
    prediction: str = "1"
    """The client's name for it; every answer carries the name."""
    changes: bool = False
    """Whether each toggle of the plan is predicted too, after the plan itself."""
    first: tuple[str, ...] = ()
    """The techniques whose toggles are predicted before the others, in this order."""
    trust_remote_code: bool = False


Command = Start | Stop | Quit | Predict


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
    alive: Alive | None = None
    """What was alive at the peak, or when memory ran out; None where it was not recorded."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "losses", [_number(loss) for loss in self.losses])


class Predicted(msgspec.Struct, frozen=True, tag="predicted"):
    """What a plan will need."""

    prediction: str
    result: Prediction


class Toggled(msgspec.Struct, frozen=True, tag="toggled"):
    """What a plan would need with one technique switched on or off."""

    prediction: str
    change: Change


class Unpredicted(msgspec.Struct, frozen=True, tag="unpredicted"):
    """No prediction can be told: the plan is wrong, or a technique cannot be predicted."""

    prediction: str
    title: str
    what: str = ""
    fix: str = ""
    technique: str = ""
    """The technique it is due to, where it is one."""


class AllPredicted(msgspec.Struct, frozen=True, tag="all_predicted"):
    """Everything that a Predict asked for has been told."""

    prediction: str
    seconds: float


class Problem(msgspec.Struct, frozen=True, tag="problem"):
    """A command could not be taken; nothing changed."""

    title: str
    what: str = ""
    fix: str = ""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Nothing new, but alive; at least one event a second arrives while a burst runs."""

    burst: str = ""


Event = (
    Hello
    | Ready
    | Started
    | Loaded
    | Samples
    | Timeline
    | Step
    | Ended
    | Predicted
    | Toggled
    | Unpredicted
    | AllPredicted
    | Problem
    | Beat
)

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
