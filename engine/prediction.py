"""What a prediction is, as plain data: told by the engine, kept in a cache, shown by everyone."""

from __future__ import annotations

import msgspec

from memwb.engine.memory import Categories, Peak
from memwb.engine.memory import Large as Large

VERDICTS = ("fits", "tight", "exceeds")


class Point(msgspec.Struct, frozen=True):
    """Memory at one moment of the predicted run: a corner or the highest of its slice."""

    phase: str
    step: int
    """0 while loading, 1 the first step, 2 a steady one."""
    allocated: int
    categories: Categories


class Fit(msgspec.Struct, frozen=True):
    """Whether the plan fits a GPU. ``free`` is capacity less need, negative where it exceeds."""

    gpu: str
    capacity: int
    """Bytes that a process may use."""
    verdict: str
    """One of VERDICTS; tight is inside the margin (see gpus.MARGIN)."""
    free: int
    same_kernels: bool = True
    """Whether the GPU is of the target's architecture; another chooses other kernels."""


class Parameters(msgspec.Struct, frozen=True):
    """How many values the model has, and how many of them are trained."""

    total: int
    trainable: int


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan will need on a target. Bytes are integers."""

    target: str
    """The id of a GPU (see gpus.py), or cpu."""
    peak: Peak
    """On a CPU ``device`` is ``allocated``: what the process needs beside tensors is not known."""
    step: int
    """The step of the peak: 0 loading, 1 the first, 2 a steady one."""
    timeline: tuple[Point, ...]
    largest: tuple[Large, ...]
    """Most bytes first."""
    fits: tuple[Fit, ...]
    parameters: Parameters
    words: tuple[str, ...]
    """Sentences: where the peak is and what makes it, and the gaps between the three totals."""
    notes: tuple[str, ...] = ()
    """What was assumed, and what this prediction does not know."""
    seconds: float = 0.0
    """How long the predicting took."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one toggle would make of the plan: switched on, or off where it is on."""

    technique: str
    on: bool
    overrides: tuple[str, ...]
    """What was changed, as ``-o`` takes it: the toggle, and what it needs or excludes."""
    peak: Peak | None = None
    """The peak with the toggle changed; None where it could not be predicted."""
    reason: str = ""
    """Why not, where it could not: it does not fit the plan, or cannot be predicted."""
