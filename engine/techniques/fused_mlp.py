"""The gated activation of the MLP as one kernel that keeps gate and up, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Params, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan

technique = Technique(
    name="fused_mlp",
    title="fused MLP",
    group="kernels",
    shrinks=("activations",),
    saves="One of the three widest tensors that each layer keeps: the activation of the gate.",
    costs="The activation is computed again in backward, in the kernel that needs it.",
    not_when="Layers or MLPs are checkpointed: what they keep is then computed again anyway.",
    source="arXiv:2002.05202; the kernels are memwb's own: docs/kernels/rows.md",
    packages=("triton",),
    # Forward rounds where the plain operators do; only the exponential may be another device
    # function. In backward the plain operators round twice on the way to the gate's gradient
    # and once to up's, and this one once: 2 * 2^-9 in bf16, and steps follow gradients.
    tolerance=2**-8,
)

GATED = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "granite",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3_text",
)
"""The model_types whose MLP is down(act(gate(x)) · up(x))."""

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh")
"""Those that there is a kernel for, by the names of a config.json."""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit a model, and the override that mends it."""
    text = config.get("text_config") or config
    kind = text.get("model_type")
    if kind in ("gpt2", "gpt_bigcode", "gpt_neox"):
        return f"the MLP of {kind} has no gate", "fused_mlp=off"
    if kind and kind not in GATED:
        return f"how the MLP of {kind} is gated is not known", "fused_mlp=off"
    chosen = text.get("hidden_activation") or text.get("hidden_act") or ACTIVATIONS[0]
    if chosen not in ACTIVATIONS:
        return f"there is no kernel for the activation {chosen}", "fused_mlp=off"
    return None


def patch_model(model: Any) -> Any:
    """Have the activation and the product with up computed by one operator in every MLP.

    The projections are called as they are, with whatever wraps them.
    """
    from functools import partial

    config = model.config.get_text_config()
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    found = 0
    for module in model.modules():
        if not type(module).__name__.endswith("MLP") or not hasattr(module, "down_proj"):
            continue
        packed = hasattr(module, "gate_up_proj")
        module.forward = partial(packed_mlp if packed else gated_mlp, module, activation)
        found += 1
    if not found:
        raise TypeError(f"no gated MLP was found in {type(model).__name__}")
    return model


def gated_mlp(mlp: Any, activation: str, x: torch.Tensor) -> torch.Tensor:
    """What stands in for the forward of an MLP whose gate and up are two products."""
    from memwb.kernels.geglu import geglu
    from memwb.kernels.swiglu import swiglu

    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    if activation in ("silu", "swish"):
        return mlp.down_proj(swiglu(gate, up))
    return mlp.down_proj(geglu(gate, up, tanh=activation != "gelu"))


def packed_mlp(mlp: Any, activation: str, x: torch.Tensor) -> torch.Tensor:
    """The same where gate and up are one product."""
    from memwb.kernels.geglu import geglu_packed
    from memwb.kernels.swiglu import swiglu_packed

    both = mlp.gate_up_proj(x)
    if activation in ("silu", "swish"):
        return mlp.down_proj(swiglu_packed(both))
    return mlp.down_proj(geglu_packed(both, tanh=activation != "gelu"))


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What the activation and the product keep for backward in one decoder layer."""
    values = facts.tokens * facts.shape.intermediate
    width = facts.compute_bytes
    formula = (
        f"gate and up instead of gate, its activation and up: 2 × {width} B × "
        f"{facts.tokens:,} tokens × {facts.shape.intermediate:,} intermediate"
    )
    return [
        Effect(
            category="activations",
            before=3 * width * values,
            after=2 * width * values,
            formula=formula,
            each=True,
        )
    ]
