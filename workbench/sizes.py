"""How the panels share the screen: borders moved by keys or the mouse, kept as fractions.

``Session.sizes`` holds the plan's share of the width and those of the panels at the right of their
height. What nobody has moved is not in it, and has the size that the style sheet gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

RIGHT = ("memory", "loss", "peak", "runs")
"""The panels at the right, from the top."""
FEWEST = 4
"""Lines of a panel: its borders and two of what is in it."""
NARROWEST = 30
"""Columns of the plan, and of the panels at its right."""
STRIDE = {"width": 4, "height": 2}
"""Cells by which a key moves a border."""


def width(sizes: Mapping[str, float], columns: int) -> int | None:
    """The columns of the plan on a screen of so many; None for the usual ones."""
    share = _share(sizes.get("plan"))
    return _width(round(share * columns), columns) if share is not None else None


def heights(sizes: Mapping[str, float], lines: int) -> list[int] | None:
    """The lines of the panels at the right, which have so many; None for the usual ones."""
    shares = [share for name in RIGHT if (share := _share(sizes.get(name))) is not None]
    if len(shares) != len(RIGHT) or lines < FEWEST * len(RIGHT):
        return None
    # Rounded as edges, so that together they are exactly the lines that there are.
    edges = [round(edge * lines / sum(shares)) for edge in accumulate(shares, initial=0.0)]
    found = [after - before for before, after in pairwise(edges)]
    for place, size in enumerate(found):
        if size < FEWEST:
            most = max(range(len(found)), key=found.__getitem__)
            found[most] -= FEWEST - size
            found[place] = FEWEST
    return found


def widened(sizes: Mapping[str, float], to: int, columns: int) -> dict[str, float]:
    """The sizes with so many columns for the plan."""
    return {**sizes, "plan": round(_width(to, columns) / columns, 4)}


def moved(now: Sequence[int], border: int, by: int) -> list[int]:
    """The heights with the border below a panel moved down by so many lines, or up.

    Whoever is in the way gives room until it has the fewest lines, then the next one does.
    """
    found = list(now)
    gaining, giving = border, range(border + 1, len(found))
    if by < 0:
        gaining, giving = border + 1, range(border, -1, -1)
    left = abs(by)
    for place in giving:
        part = max(0, min(left, found[place] - FEWEST))
        found[place] -= part
        found[gaining] += part
        left -= part
    return found


def grown(now: Sequence[int], place: int, by: int) -> list[int]:
    """The heights with more lines for one panel, or fewer: its lower border moves.

    The lowest has none, nor has one whose neighbours below have nothing to give: the upper moves.
    """
    last = len(now) - 1
    found = moved(now, place, by) if place < last else list(now)
    return moved(now, place - 1, -by) if place and found == list(now) else found


def as_shares(sizes: Mapping[str, float], now: Sequence[int]) -> dict[str, float]:
    """The sizes with these heights of the panels at the right."""
    shares = (round(size / sum(now), 4) for size in now)
    return {**sizes, **dict(zip(RIGHT, shares, strict=True))}


def _share(value: float | None) -> float | None:
    """What a session file says, if it can be meant."""
    return value if value is not None and 0 < value < 1 else None


def _width(wanted: int, columns: int) -> int:
    return max(NARROWEST, min(wanted, columns - NARROWEST))
