"""From a sample to a column of cells: what is stacked, how high, and which cells show it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

from memwb.engine.protocol import CATEGORIES, Sample
from memwb.workbench.charts.palette import LETTER, Code
from memwb.workbench.charts.timeline import ALLOCATED, Measure

Hidden = frozenset[int]
"""Bands that are not drawn: what stands on them comes down."""
NONE: Hidden = frozenset()

EMPTY: Code = (0, -1, -1)
_FULL: tuple[Code, ...] = tuple((8, band, band) for band in range(8))


def values(sample: Sample) -> tuple[int, int, int, int, int, int]:
    """Bytes by band: the five categories, and what is allocated beyond their sum."""
    parts = sample.categories
    if parts is None:
        return (0, 0, 0, 0, 0, sample.allocated)
    weights, gradients, optimizer = parts.weights, parts.gradients, parts.optimizer
    activations, temporary = parts.activations, parts.temporary
    rest = sample.allocated - weights - gradients - optimizer - activations - temporary
    return (weights, gradients, optimizer, activations, temporary, rest if rest > 0 else 0)


def drawn(sample: Sample, hidden: Hidden) -> Sequence[int]:
    """Bytes by band, none of those that are hidden."""
    parts = values(sample)
    if not hidden:
        return parts
    return [0 if band in hidden else size for band, size in enumerate(parts)]


@functools.cache
def measure(hidden: Hidden) -> Measure:
    """How high a sample is drawn: what is allocated, or the bands of it that are not hidden.

    One object for one set of bands, so that it can be compared.
    """
    away = [name for band, name in enumerate(CATEGORIES) if band in hidden]
    if not away:
        return ALLOCATED
    # Asked of every sample for a frame: a look at few fields, and no tuple of all of them.
    if len(away) == 1:
        one = attrgetter(away[0])
        return lambda s: s.allocated if s.categories is None else _rest(s) - one(s.categories)
    some = attrgetter(*away)
    return lambda s: s.allocated if s.categories is None else _rest(s) - sum(some(s.categories))


def _rest(sample: Sample) -> int:
    """What is allocated, or the categories' sum where that is more."""
    parts = sample.categories
    if parts is None:
        return sample.allocated
    total = parts.weights + parts.gradients + parts.optimizer + parts.activations + parts.temporary
    return total if total > sample.allocated else sample.allocated


def bounds(parts: Sequence[int], top: int, rows: int) -> list[int]:
    """The upper edge of each band in eighths of a cell, rounded once from the running sum.

    Rounding the sum and not each part keeps the total exact however many bands there are.
    """
    scale, half = rows * 8, top // 2
    edges = [(total * scale + half) // top for total in accumulate(parts)]
    return edges if edges[-1] <= scale else [min(scale, edge) for edge in edges]


def stack(edges: Sequence[int], rows: int) -> list[Code]:
    """The cells of a column from the bottom up."""
    cells: list[Code] = []
    row = band = 0
    count = len(edges)
    while band < count:
        edge = edges[band]
        full = edge // 8 - row
        if full > 0:
            cells += [_FULL[band]] * full
            row += full
        if edge <= row * 8:
            band += 1
            continue
        if row >= rows:
            break
        # The edge is inside this cell; mostly it is the only one.
        low, above = row * 8, band + 1
        while above < count and edges[above] == edge:
            above += 1
        if above == count:
            cells.append((edge - low, band, -1))
        elif edges[above] >= low + 8:
            cells.append((edge - low, band, above))
        else:
            cells.append(_boundary(edges, band, low))
        row += 1
        while band < count and edges[band] <= row * 8:
            band += 1
    cells += [EMPTY] * (rows - row)
    return cells


def _boundary(edges: Sequence[int], band: int, low: int) -> Code:
    """The cell above ``low``, in which ``band`` ends: one cell can show one edge.

    Where the stack ends inside the cell, that edge is shown, with the band that fills most of
    what is below it: the total is never bent for the sake of a band. Otherwise the two largest.
    """
    high = low + 8
    parts: list[tuple[int, int]] = []
    below = low
    for index in range(band, len(edges)):
        edge = min(edges[index], high)
        if edge > below:
            parts.append((edge - below, index))
            below = edge
    if below < high:
        return (below - low, max(parts)[1], -1)
    if len(parts) == 1:
        return _FULL[parts[0][1]]
    larger = sorted(sorted(parts, reverse=True)[:2], key=lambda part: part[1])
    (lower_size, lower), (_, upper) = larger
    # What is below the lower of the two joins it, so that its edge stays where it is.
    start = low + sum(size for size, index in parts if index < lower)
    return (start - low + lower_size, lower, upper)


def lettered(cells: Sequence[Code], column: int) -> list[Code]:
    """The cells with a band's letter in its middle, at every eighth column."""
    found = list(cells)
    if column % 8 != 4:
        return found
    for band in {code[1] for code in cells if code[0] == 8}:
        rows = [row for row, code in enumerate(cells) if code == _FULL[band]]
        found[rows[len(rows) // 2]] = (LETTER, band, band)
    return found
