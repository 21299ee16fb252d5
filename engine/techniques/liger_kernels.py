"""Liger's kernels for norms, rotary positions, gated MLPs and the loss, as the library patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique, techniques
from memwb.engine.techniques.chunked_cross_entropy import scaled_by

if TYPE_CHECKING:
    from memwb.engine.plan import Plan
    from memwb.engine.protocol import Device


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the library's kernels take the place of the model's own code."""

    rms_norm: Annotated[bool, Meta(description="norms: keep the input and one number a row")] = True
    rope: Annotated[bool, Meta(description="rotary positions, turned where they are")] = True
    mlp: Annotated[bool, Meta(description="SwiGLU or GEGLU: gradients over the saved inputs")] = (
        True
    )
    loss: Annotated[bool, Meta(description="output head and loss by chunks of tokens")] = True


technique = Technique(
    name="liger_kernels",
    title="Liger kernels",
    group="kernels",
    shrinks=("activations",),
    saves="The logits but for a chunk; what norms and the MLP's gate keep beside their inputs.",
    costs="The head's gradient exists from the forward pass on, added up in its own precision.",
    not_when="The vocabulary is small and activations are checkpointed anyway.",
    source="arXiv:2410.10989; liger-kernel 0.8.5",
    params=Params,
    packages=("triton", "liger_kernel"),
    # Its logits are rounded as the plain run's, by 2^-8 at most, and a token's loss is the
    # difference of two terms made of logits. Norms and gates compute in fp32 inside and round
    # their results once, where the model's own code does so once to three times: a few 2^-9 of
    # each activation. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)

NO_ARITHMETIC = (
    "what the model's own code keeps beside its inputs differs from family to family; a burst "
    "measures it"
)

FAMILIES = {
    "llama": "silu", "mistral": "silu", "qwen2": "silu", "qwen3": "silu", "phi3": "silu",
    "olmo2": "silu", "smollm3": "silu", "granite": "silu",
    "gemma": "gelu_pytorch_tanh", "gemma2": "gelu_pytorch_tanh", "gemma3_text": "gelu_pytorch_tanh",
}  # fmt: skip
"""The families that the library patches whole, with the activation its MLP has built in."""

OURS = {"rms_norm": "fused_rms_norm", "rope": "fused_rope", "mlp": "fused_mlp"}
"""Techniques that put memwb's own kernel in the same place."""


def unavailable(params: Params, device: Device | None) -> str:
    """Why it cannot run there: Triton has no CPU among its targets."""
    if device is not None and device.kind != "cuda":
        return "the library's kernels run on a GPU alone"
    return ""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the plan or a model, and the override that mends it."""
    if not any(msgspec.structs.astuple(params)):
        return "every one of its kernels is off", "liger_kernels=off"
    for part, other in OURS.items():
        if getattr(params, part) and other in plan.techniques:
            return (
                f"{techniques()[other].title} replaces the same code",
                f"liger_kernels.{part}=false",
            )
    if params.loss and (reason := _refuse_loss(plan, config)):
        return reason, "liger_kernels.loss=false"
    family = str(config.get("model_type", ""))
    if family and family not in FAMILIES:
        return f"the library has no kernels for {family} models", "liger_kernels=off"
    given = config.get("hidden_activation") or config.get("hidden_act")
    if params.mlp and family and given and given.replace("swish", "silu") != FAMILIES[family]:
        return f"this model's MLP has {given}, which its kernel has not", "liger_kernels.mlp=false"
    return None


def _refuse_loss(plan: Plan, config: Mapping[str, Any]) -> str:
    """Why the library's loss cannot stand in, or nothing."""
    known = techniques()
    for name in plan.techniques:
        if known[name].group == "loss":
            return f"{known[name].title} takes the place of the loss, too"
    lora = plan.techniques.get("lora")
    named = [target.rpartition(".")[2] for target in getattr(lora, "targets", ())]
    if getattr(lora, "output_layer", False) or {"lm_head", "embed_out"} & set(named):
        return "an adapter on the output head is no part of its product"
    if key := scaled_by(config):
        return f"this model scales its logits ({key}), and its loss does not"
    return ""


def patch_model(model: Any, *, rms_norm: bool, rope: bool, mlp: bool, loss: bool) -> Any:
    """Have the library patch the loaded model's modules, its rotary function and its loss."""
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    family = base.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        # The library would say nothing and do nothing.
        raise ValueError(f"this version of liger-kernel has no kernels for {family} models")
    _apply_liger_kernel_to_instance(
        base, rms_norm=rms_norm, rope=rope, swiglu=mlp, geglu=mlp, cross_entropy=False,
        fused_linear_cross_entropy=loss,
    )  # fmt: skip
    return model
