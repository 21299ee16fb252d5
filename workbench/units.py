"""Figures as a person reads them: bytes with their unit, counts, rates."""

from __future__ import annotations

import functools
import os
from datetime import datetime

from memwb.workbench.charts.scale import delta, gib

__all__ = [
    "count",
    "delta",
    "gib",
    "loss",
    "moment",
    "name",
    "padding",
    "parameters",
    "printable",
    "rate",
    "seconds",
]


def parameters(count: int | None) -> str:
    """A model's size, as ``1.54 B`` or ``135 M``."""
    if count is None:
        return "size unknown"
    # From where a figure would be rounded up to a thousand of the smaller unit.
    if count >= 999_500_000:
        return f"{count / 10**9:.2f} B"
    if count >= 99_950_000:
        return f"{count / 10**6:.0f} M"
    return f"{count / 10**6:.1f} M"


def rate(value: float | None) -> str:
    """Tokens a second; a dash where no untraced step was timed."""
    if value is None:
        return "–"
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.1f} tok/s"


def padding(share: float | None) -> str:
    """How much of all positions trained nothing; empty where that is not known."""
    if share is None:
        return ""
    return f"{share * 100:.0f} % padding" if share >= 0.005 or not share else "<1 % padding"


def count(value: int | None) -> str:
    """A whole number with thousands apart, or a dash."""
    return "–" if value is None else f"{value:,}"


def loss(value: float) -> str:
    """A loss to four decimals: enough to see a step move."""
    return f"{value:.4f}"


def name(model: str, room: int = 32) -> str:
    """A model's name in so many columns: of a long folder the end tells it from others."""
    from rich.cells import cell_len

    if cell_len(model) <= room:
        return model
    end = model[1 - room :]
    while cell_len(end) >= room:
        end = end[1:]
    return "…" + end


def seconds(value: float | None) -> str:
    """A duration: ``0.8 s``, ``12.4 s``, ``3 min 20 s``, ``2 h 5 min``; a dash for none."""
    if value is None:
        return "–"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@functools.lru_cache(maxsize=4096)
def moment(created: str) -> str:
    """When a run started, where its reader is: ``11-21 23:54``; empty where that is not known."""
    try:
        return f"{datetime.fromisoformat(created).astimezone():%m-%d %H:%M}"
    except ValueError:
        return ""


def printable(text: str) -> str:
    """A text on one line: what would move a terminal's cursor, or worse, becomes a space."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def place(path: str) -> str:
    """A path as a person knows it: under the home folder with a ``~``."""
    home = os.path.expanduser("~") + os.sep
    return f"~/{path.removeprefix(home)}" if path.startswith(home) else path
