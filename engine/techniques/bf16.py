"""Pure bfloat16: weights, gradients and optimizer states in bf16."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

WEIGHT_BYTES = 2
COMPUTE_BYTES = 2

technique = Technique(
    name="bf16",
    title="bf16",
    group="precision",
    shrinks=("weights", "gradients", "optimizer", "activations"),
    saves="Half of weights, gradients, optimizer states and activations against fp32.",
    costs="Weights have 8 significant bits: updates below 1/256 of a weight round away.",
    not_when="Small learning rates must move large weights: take amp bf16, or train adapters.",
    source="arXiv:1905.12322",
    # No tolerance: what rounds away from an update makes other steps than fp32's.
)


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in bf16; gradients and optimizer states follow the weights."""
    import torch

    return {**options, "dtype": torch.bfloat16}


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Half of weights and gradients."""
    return precision_effects(facts)
