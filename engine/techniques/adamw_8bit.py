"""AdamW with both moments in 8 bits."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of an optimizer with two moments, whatever these are kept in."""

    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the first moment")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the second moment")] = 0.999


technique = Technique(
    name="adamw_8bit",
    title="AdamW 8-bit",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Three quarters of AdamW's fp32 states: one byte a moment, and a scale per 256.",
    costs="Moments rounded block by block: steps differ slightly from AdamW's.",
    not_when="Few weights are trained, or tensors are under 4096 values (these stay in fp32).",
    source="arXiv:2110.02861; bitsandbytes.optim.AdamW8bit",
    params=Params,
    packages=("bitsandbytes",),
    # Other steps are taken: a moment is rounded to one of 256 values of its block, and how far the
    # loss may part from AdamW's hangs on the gradients of every step. No curve is owed.
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


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Two moments of 1 byte, their scales, and two shared maps."""
    return [blockwise_effect(facts, moments=2)]


def blockwise_effect(facts: Facts, moments: int, where: str = "") -> Effect:
    """bitsandbytes' 8-bit states in place of AdamW's; ``where`` is added to the reckoning."""
    return Effect(
        category="optimizer",
        before=adamw_states(facts),
        after=blockwise_states(facts, moments),
        formula=blockwise_formula(facts, moments) + where,
    )


def blockwise_states(facts: Facts, moments: int) -> int:
    """Bytes of bitsandbytes' 8-bit states, maps included (both are made even if one is used).

    A tensor under 4096 values keeps its moments in fp32.
    """
    each = (
        weight.count
        * moments
        * (4 * weight.size if weight.size < 4096 else weight.size + 4 * -(-weight.size // 256))
        for weight in facts.trained
    )
    return sum(each) + 2 * 256 * 4


def blockwise_formula(facts: Facts, moments: int) -> str:
    """The reckoning of ``blockwise_states`` in words."""
    large = sum(w.count * w.size for w in facts.trained if w.size >= 4096)
    small = facts.trainable - large
    return (
        f"{moments} × 1 B × {large:,} values + an fp32 scale per 256 + {moments} × 4 B × {small:,}"
        " values of tensors under 4096 + 2 maps of 256 fp32 values"
    )
