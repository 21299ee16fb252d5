"""After how many decoder layers a model, or a technique's use of it, repeats itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def period_of(layers: Sequence[Hashable]) -> int:
    """The least distance at which all layers are alike; the whole number of them if none is."""
    for distance in range(1, len(layers)):
        if all(layers[i] == layers[i + distance] for i in range(len(layers) - distance)):
            return distance
    return max(len(layers), 1)
