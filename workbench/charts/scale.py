"""Round ticks for an axis, and bytes as text."""

from __future__ import annotations

import math

from memwb.engine.memory import figure
from memwb.engine.memory import sized as gib

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "TIB",
    "UNITS",
    "delta",
    "figure",
    "gib",
    "number",
    "step_of",
    "ticks",
]

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
UNITS = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_ROUND = (1, 2, 5, 10)


def delta(size: float) -> str:
    """A difference in bytes with its sign: ``+1.20 GiB``, ``−512 MiB``, ``±0 B``."""
    sign = "±" if size == 0 else "+" if size > 0 else "\N{MINUS SIGN}"
    return f"{sign}{gib(abs(size))}"


def step_of(span: float, most: int) -> float:
    """The smallest 1-2-5 step that cuts ``span`` into at most ``most`` intervals."""
    if span <= 0 or not math.isfinite(span):
        return 1.0
    rough = span / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    # A ratio a hair above a round number is that round number.
    return power * next(digit for digit in _ROUND if digit >= rough / power * (1 - 1e-9))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of a 1-2-5 step inside ``[low, high]``, about ``most`` intervals of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        return []
    step = step_of(high - low, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float, step: float) -> str:
    """A tick's label with as many decimals as its step needs: ``0.25``, ``12``, ``1e+06``."""
    if step >= 1e6 or (value and abs(value) < 1e-4):
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    return f"{value:,.{decimals}f}"


def byte_unit(top: float, largest: int = TIB) -> tuple[int, str]:
    """The largest binary unit, up to one, of which ``top`` bytes hold at least one."""
    known = (pair for pair in UNITS if pair[0] <= min(top, largest))
    return next(known, (1, "B"))


def byte_ticks(top: float, most: int) -> list[tuple[int, str]]:
    """Ticks from zero to ``top`` bytes, round in one binary unit, with their labels."""
    unit, name = byte_unit(top)
    step = step_of(top / unit, most)
    if unit == 1:
        step = max(1.0, step)
    return [
        (round(index * step * unit), f"{number(index * step, step)} {name}")
        for index in range(math.floor(top / unit / step + 1e-9) + 1)
    ]


def intervals(rows: int) -> int:
    """How many intervals between ticks a byte axis of so many rows bears."""
    return max(2, round(rows / 2.5))


def byte_top(peak: float, rows: int) -> int:
    """The top of a byte axis: a little above ``peak``, on a quarter of a tick.

    It moves in quarter ticks so that a growing peak does not rescale the chart at every sample.
    """
    peak = max(1.0, peak * 1.03)
    unit, _ = byte_unit(peak)
    quarter = step_of(peak / unit, intervals(rows)) * unit / 4
    return max(1, math.ceil(math.ceil(peak / quarter - 1e-9) * quarter))
