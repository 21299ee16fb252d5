"""Gradient buffers kept and set to zero after each step."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique

technique = Technique(
    name="zero_in_place",
    title="zero in place",
    group="zeroing",
    saves="Allocations: gradients keep their buffers, so the allocator's pool is never broken up.",
    costs="All gradients stay through forward, and backward makes each anew to add it to zero.",
    not_when="Activations are the peak: gradients stand beside all of them.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
    exact=True,
    conflicts=(
        Relation(("optimizer_in_backward",), "it frees each gradient as soon as it is used"),
    ),
)


def patch_optimizer(model: Any, optimizer: Any) -> Any:
    """Have zero_grad fill the gradients with zeros in place of dropping them."""
    from functools import partial

    optimizer.zero_grad = partial(optimizer.zero_grad, set_to_none=False)
    return optimizer


def effects(params: Any, facts: Facts) -> list[Effect]:
    """Gradients that forward had none of stand all through it."""
    size = facts.trained_bytes * facts.trainable
    return [
        Effect(
            category="gradients",
            before=0,
            after=size,
            formula=f"{facts.trained_bytes} B × {facts.trainable:,} trained values",
            phase="forward",
        )
    ]
