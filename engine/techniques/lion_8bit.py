"""Lion with its one moment in 8 bits."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw_8bit import blockwise_effect


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of Lion 8-bit."""

    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="share of the moment in a step")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the moment")] = 0.99


technique = Technique(
    name="lion_8bit",
    title="Lion 8-bit",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Seven eighths of AdamW's fp32 states: one moment of one byte, and a scale per 256.",
    costs="Every value moves by the learning rate: take a third to a tenth of AdamW's.",
    not_when="Few weights are trained (adapters), or the learning rate is tuned for AdamW.",
    source="arXiv:2302.06675; bitsandbytes.optim.Lion8bit",
    params=Params,
    packages=("bitsandbytes",),
    # The sign of a moment in place of AdamW's quotient: other steps, no curve is owed.
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """bitsandbytes' Lion with a block-wise 8-bit state over whatever is trainable."""
    import bitsandbytes

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return bitsandbytes.optim.Lion8bit(
        weights, lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay
    )


def effects(params: Params, facts: Facts) -> list[Effect]:
    """One moment of 1 byte, its scales, and two shared maps."""
    return [blockwise_effect(facts, moments=1)]
