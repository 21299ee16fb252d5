"""Gradients freed after each step: what acts when nothing else is named."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique

technique = Technique(
    name="set_to_none",
    title="set to none",
    group="zeroing",
    shrinks=("gradients",),
    saves="All gradients while the forward pass runs: backward allocates them anew.",
    costs="Nothing: torch does so by default.",
    not_when="The peak is in the optimizer's step, where the gradients stand anyway.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
    exact=True,
)


def effects(params: Any, facts: Facts) -> list[Effect]:
    """Against buffers that are kept: none stands while forward runs."""
    size = facts.trained_bytes * facts.trainable
    return [
        Effect(
            category="gradients",
            before=size,
            after=0,
            formula=f"{facts.trained_bytes} B × {facts.trainable:,} trained values, which "
            "zero in place keeps",
            phase="forward",
        )
    ]
