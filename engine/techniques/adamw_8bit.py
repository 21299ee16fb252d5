"""AdamW with both moments in 8 bits."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of 8-bit AdamW."""

    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the first moment")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the second moment")] = 0.999


technique = Technique(
    name="adamw_8bit",
    title="AdamW 8-bit",
    group="optimizer",
    saves="Three quarters of AdamW's fp32 states: one byte a moment, and a scale per 256.",
    costs="Moments rounded block by block: steps differ slightly from AdamW's.",
    not_when="Few weights are trained, or tensors are under 4096 values (these stay in fp32).",
    source="arXiv:2110.02861; bitsandbytes.optim.AdamW8bit",
    params=Params,
    packages=("bitsandbytes",),
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """bitsandbytes' AdamW with block-wise 8-bit states over whatever is trainable."""
    import bitsandbytes

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return bitsandbytes.optim.AdamW8bit(
        weights, lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay
    )
