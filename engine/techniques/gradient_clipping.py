"""Gradients scaled down together when their common norm is above a limit."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import tensors


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of gradient clipping."""

    max_norm: Annotated[float, Meta(gt=0, description="limit of the gradients' 2-norm")] = 1.0


technique = Technique(
    name="gradient_clipping",
    title="gradient clipping",
    group="step",
    saves="No memory: it keeps one bad batch from throwing the weights off.",
    costs="Every gradient is read once more, and must exist until all are there.",
    not_when="Memory is what is short. AdamW forgives the scale of gradients, not a single spike.",
    source="arXiv:1211.5063; torch.nn.utils.clip_grad_norm_",
    params=Params,
    # Above the limit other steps are taken: no curve is owed.
)


def patch_optimizer(model: Any, optimizer: Any, *, max_norm: float) -> Any:
    """Clip the gradients of whatever the optimizer steps, just before it does."""
    from torch.nn.utils import clip_grad_norm_

    def clip(optimizer: Any, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        clip_grad_norm_(weights, max_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Nothing is kept: gradients are scaled in place."""
    size = facts.trained_bytes * facts.trainable
    return [
        Effect(
            category="gradients",
            before=size,
            after=size,
            formula=f"scaled in place; a norm of {facts.trained_bytes} B for each of "
            f"{tensors(facts):,} tensors comes and goes",
        )
    ]
