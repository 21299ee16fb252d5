"""Stochastic gradient descent, with or without momentum."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of SGD."""

    momentum: Annotated[float, Meta(ge=0, lt=1, description="0 keeps no state at all")] = 0.0
    weight_decay: Annotated[float, Meta(ge=0, description="weight decay")] = 0.0


technique = Technique(
    name="sgd",
    title="SGD",
    group="optimizer",
    shrinks=("optimizer",),
    saves="All of AdamW's states without momentum, half of them with it.",
    costs="Transformers train far slower with it, and want another learning rate.",
    not_when="Few weights are trained (adapters): their states are small anyway.",
    source="torch.optim.SGD",
    params=Params,
)


def build_optimizer(
    model: Any, learning_rate: float, *, momentum: float, weight_decay: float
) -> Any:
    """SGD over whatever is trainable."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.SGD(weights, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Nothing, or one momentum like the weights."""
    after = facts.trained_bytes * facts.trainable if params.momentum else 0
    formula = f"{facts.trained_bytes} B × {facts.trainable:,} trained values"
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=after,
            formula=f"1 momentum × {formula}" if params.momentum else "no state without momentum",
        )
    ]
