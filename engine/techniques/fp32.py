"""Single precision: weights, gradients and optimizer states in fp32."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

technique = Technique(
    name="fp32",
    title="fp32",
    group="precision",
    saves="Nothing: it is the reference the others are measured against.",
    costs="4 bytes for each weight, gradient and activation; matrix units run far below bf16.",
    not_when="The device computes in bf16: then fp32 is the slowest and largest choice.",
    source="https://docs.pytorch.org/docs/stable/tensor_attributes.html",
    exact=True,
)


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in fp32."""
    import torch

    return {**options, "dtype": torch.float32}


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The reference itself."""
    return precision_effects(facts)
