"""Mixed precision: fp32 weights, matrix products in bf16 under autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

COMPUTE_BYTES = 2

if TYPE_CHECKING:
    import torch

technique = Technique(
    name="amp_bf16",
    title="amp bf16",
    group="precision",
    shrinks=("activations",),
    saves="Inputs of matrix products are kept in 2 B, not 4; their time. Residuals stay in fp32.",
    costs="A bf16 copy of each weight while a step runs, on top of the fp32 weights.",
    not_when="Weights and optimizer fill the memory, or tokens are few: the copies outweigh.",
    source="https://docs.pytorch.org/docs/stable/amp.html",
    # One product rounds both factors and its result, by 2^-8 at most each (8 significant bits).
    # A token's loss is the difference of two terms made of logits: 2 x 3 x 2^-8. What training
    # has gained in ten steps is less than the loss, and errs like a product: 2 x 2^-8 more.
    # Products before the last one are averaged over by the sums that follow them.
    tolerance=2**-5,
)


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in fp32: the masters."""
    import torch

    return {**options, "dtype": torch.float32}


def patch_model(model: Any) -> Any:
    """Run the decoder and the output head under autocast to bf16; the loss stays in fp32."""
    import torch

    return under_autocast(model, torch.bfloat16)


def under_autocast(model: Any, dtype: torch.dtype) -> Any:
    """The model, its decoder and its output head computing in ``dtype``."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for module in (base.get_decoder(), base.get_output_embeddings()):
        autocast = torch.autocast(base.device.type, dtype=dtype)
        module.forward = autocast(module.forward)
    for module in base.modules():
        # A 4-bit layer casts its input by itself: once compiled, autocast does not reach inside.
        if hasattr(module, "compute_dtype"):
            module.compute_dtype, module.compute_type_is_set = dtype, True
    return model


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Nothing off weights and gradients: the masters are fp32."""
    return precision_effects(facts)
