"""Adafactor: the second moment of a matrix kept as one row and one column."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states, tensors


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of Adafactor."""

    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0


technique = Technique(
    name="adafactor",
    title="Adafactor",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Nearly all of AdamW's states: rows + columns of each matrix in place of two copies.",
    costs="No first moment; updates are scaled and clipped, so learning rates differ from AdamW's.",
    not_when="Few weights are trained (adapters): their states are small anyway.",
    source="arXiv:1804.04235; torch.optim.Adafactor",
    params=Params,
)


def build_optimizer(model: Any, learning_rate: float, *, weight_decay: float) -> Any:
    """torch's Adafactor over whatever is trainable."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.Adafactor(weights, lr=learning_rate, weight_decay=weight_decay)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """One row and one column for each matrix, a whole moment for each vector."""
    values = sum(
        weight.count * (sum(weight.shape) if len(weight.shape) == 2 else weight.size)
        for weight in facts.trained
    )
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=values * facts.trained_bytes + 4 * tensors(facts),
            formula=f"rows + columns of each matrix: {values:,} values × {facts.trained_bytes} B"
            f" + 4 B of step counter × {tensors(facts)} tensors",
        )
    ]
