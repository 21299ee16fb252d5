"""Mixed precision: fp32 weights, matrix products in bf16 under autocast."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

COMPUTE_BYTES = 2

technique = Technique(
    name="amp_bf16",
    title="amp bf16",
    group="precision",
    saves="About half of the activations against fp32, and the time of the matrix products.",
    costs="A bf16 copy of each weight while a step runs, on top of the fp32 weights.",
    not_when="Weights and optimizer fill the memory: both stay in fp32.",
    source="https://docs.pytorch.org/docs/stable/amp.html",
)


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in fp32: the masters."""
    import torch

    return {**options, "dtype": torch.float32}


def patch_model(model: Any) -> Any:
    """Run the decoder and the output head under autocast to bf16; the loss stays in fp32."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for module in (base.get_decoder(), base.get_output_embeddings()):
        autocast = torch.autocast(base.device.type, dtype=torch.bfloat16)
        module.forward = autocast(module.forward)
    return model


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Nothing off weights and gradients: the masters are fp32."""
    return precision_effects(facts)
