"""The tensors of a model, told from its config alone: names, shapes, how often. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from memwb.engine.families import ALIASES, FAMILIES, Row


class Weight(msgspec.Struct, frozen=True):
    """One parameter tensor, or the same one in each of ``count`` decoder layers."""

    name: str
    """Path inside its decoder layer (``self_attn.q_proj.weight``) or inside the model."""
    shape: tuple[int, ...]
    """As torch keeps it: a linear layer's is (outputs, inputs), a GPT-2 Conv1D's the reverse."""
    kind: str
    """embedding, linear, bias, norm or head."""
    count: int = 1
    transposed: bool = False
    """True for a Conv1D's weight, which torch keeps as (inputs, outputs)."""

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
    """The shape of a model from the content of its config.json; None for a family not known.

    A model whose stored weights are packed is not known either: its tensors are its packer's.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or config.get("quantization_config") or config.get("add_cross_attention"):
        return None
    given = {ALIASES.get(key, key): value for key, value in config.items()}
    values = {**family.defaults, **given}
    sizes = _dimensions(values)
    tied = bool(values["tie_word_embeddings"])
    values["untied"] = not tied
    weights = [_weight(row, sizes, 1) for row in family.ends if _there(row, values)]
    layers = values["num_hidden_layers"]
    weights += [_weight(row, sizes, layers) for row in family.layer if _there(row, values)]
    return Shape(
        family=str(config["model_type"]),
        layers=layers,
        hidden=sizes["hidden"],
        heads=values["num_attention_heads"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        intermediate=sizes["intermediate"],
        vocabulary=sizes["vocabulary"],
        tied=tied,
        weights=tuple(weights),
    )


def _dimensions(values: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a family's tables name; null means what a left-out key means there."""
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    head_dim = values.get("head_dim") or hidden // heads
    kv_heads = 1 if values.get("multi_query") else values.get("num_key_value_heads") or heads
    intermediate = values.get("intermediate_size") or 4 * hidden
    return {
        "vocabulary": values["vocab_size"],
        "positions": values.get("max_position_embeddings", 0),
        "hidden": hidden,
        "intermediate": intermediate,
        "gate_up": 2 * intermediate,
        "head_dim": head_dim,
        "kv_heads": kv_heads,
        "queries": heads * head_dim,
        "keys": kv_heads * head_dim,
        "queries_keys_values": (heads + 2 * kv_heads) * head_dim,
    }


def _there(row: Row, values: Mapping[str, Any]) -> bool:
    return not row.when or bool(values.get(row.when))


def _weight(row: Row, sizes: Mapping[str, int], count: int) -> Weight:
    shape = tuple(sizes[name] for name in row.dimensions)
    return Weight(row.name, shape, row.kind, count, row.transposed)
