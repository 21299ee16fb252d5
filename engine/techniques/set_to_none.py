"""Gradients freed after each step: what acts when nothing else is named."""

from __future__ import annotations

from memwb.engine.technique import Technique

technique = Technique(
    name="set_to_none",
    title="set to none",
    group="zeroing",
    saves="All gradients while the forward pass runs: backward allocates them anew.",
    costs="Nothing: torch does so by default.",
    not_when="The peak is in the optimizer's step, where the gradients stand anyway.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
    exact=True,
)
