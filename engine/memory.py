"""The words for memory that everyone shares: its categories, and what is told of a moment."""

from __future__ import annotations

import msgspec

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporary")
PHASES = ("load", "forward", "loss", "backward", "optimizer")


class Categories(msgspec.Struct, frozen=True, gc=False):
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


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class Large(msgspec.Struct, frozen=True):
    """Tensors alive in one moment that are alike: of one operator, shape and place in a layer."""

    bytes: int
    """Of all of them together."""
    category: str
    module: str
    """The module that made it; ``*`` stands for a layer's number when there are several."""
    op: str
    """The operator that made it, as ``aten.mm``; empty for what no operator made."""
    shape: tuple[int, ...]
    dtype: str
    count: int = 1


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """What was alive in one moment of a burst: at its peak, or when an allocation failed.

    ``largest``, ``others`` and ``unexplained`` add up to ``allocated``.
    """

    step: int
    """0 while loading, then from 1."""
    phase: str
    allocated: int
    largest: tuple[Large, ...]
    """Most bytes first."""
    others: int = 0
    """Bytes of the tensors that are not among the largest."""
    more: int = 0
    """How many tensors these are."""
    unexplained: int = 0
    """What the allocator counts beyond its tensors: it rounds up, and libraries take workspaces.
    Nothing on a CPU."""
    words: tuple[str, ...] = ()
    """Sentences: where the moment is and what makes it."""
    asked: Large | None = None
    """The allocation that failed in that moment; None where none did. It has no category, and no
    shape where it is not known."""


def sized(size: float) -> str:
    """Bytes with three significant digits and a binary unit: ``9.97 GiB``, ``512 MiB``, ``7 B``.

    GiB is the largest unit: memory of accelerators is compared in it.
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        # What rounds up to a whole larger unit is shown in that unit.
        if abs(size) >= unit * 0.9995:
            return f"{figure(size / unit)} {name}"
    return f"{size:.0f} B"


def figure(value: float) -> str:
    """A number to three significant digits, without exponents."""
    size = abs(value)
    return f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:,.0f}"
