"""The tensors of a model, told from its config alone: names, shapes, how often. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec


class Weight(msgspec.Struct, frozen=True):
    """One parameter tensor, or the same one in each of ``count`` decoder layers."""

    name: str
    """Path inside its decoder layer (``self_attn.q_proj.weight``) or inside the model."""
    shape: tuple[int, ...]
    """As torch keeps it: a linear layer's is (outputs, inputs), a GPT-2 Conv1D's the reverse."""
    kind: str
    """embedding, linear, bias, norm or head."""
    count: int = 1

    @property
    def size(self) -> int:
        """Values in one of them."""
        return math.prod(self.shape)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A model's dimensions and all of its parameter tensors (a tied head is not repeated)."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    weights: tuple[Weight, ...]

    @property
    def parameters(self) -> int:
        """How many values the model has."""
        return sum(weight.size * weight.count for weight in self.weights)


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape of a model from the content of its config.json; None for a family not known."""
    return None
