"""memwb's own kernel for output head and loss: the gradients are made in the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique
from memwb.engine.techniques.chunked_cross_entropy import (
    head_trained,
    kept_log_probabilities,
    scaled_by,
)

if TYPE_CHECKING:
    import torch

    from memwb.engine.arithmetic import Effect, Facts
    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the fused loss."""

    chunk_size: Annotated[int, Meta(ge=1, description="tokens whose logits exist at once")] = 1024


technique = Technique(
    name="fused_linear_cross_entropy",
    title="fused linear cross-entropy",
    group="loss",
    shrinks=("activations", "temporary"),
    saves="The logits and their copies, but for one chunk; tokens without a label cost nothing.",
    costs="The head's gradient exists from the forward pass on; no product is made twice.",
    not_when="The vocabulary is small, or the micro-batch has no more tokens than one chunk.",
    source="memwb's own kernel (docs/kernels/losses.md); the idea: arXiv:2410.10989",
    params=Params,
    packages=("triton",),
    # In half precision the plain loss rounds each logit by 2^-8 at most, and a token's loss is
    # the difference of two terms made of logits; this one rounds the exponentials, and what they
    # are multiplied to: 4 x 2^-8. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the plan or a model, and the override that mends it."""
    return refuse_head(plan, config)


def refuse_head(plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why the output head is not one product whose logits the kernel can bend as the model does."""
    mend = "chunked_cross_entropy=on"
    lora = plan.techniques.get("lora")
    named = [target.rpartition(".")[2] for target in getattr(lora, "targets", ())]
    if getattr(lora, "output_layer", False) or {"lm_head", "embed_out"} & set(named):
        return "an adapter on the output head is no part of the fused product", mend
    key = scaled_by(config)
    if key and not known_scale(key, str(config.get("model_type", ""))):
        reason = f"this model scales its logits ({key}), in a way that is not known here"
        return reason, "chunked_cross_entropy=off"
    return None


def known_scale(key: str, family: str) -> bool:
    """Whether the models of a family multiply their logits by that key, or divide them."""
    if key == "logits_scaling":
        return family.startswith("granite")
    return family.startswith("cohere") if key == "logit_scale" else family == "falcon_h1"


def loss(
    model: Any, batch: dict[str, torch.Tensor], tokens: int, *, chunk_size: int
) -> torch.Tensor:
    """Next-token cross-entropy of the hidden states and the head's weight, over ``tokens``."""
    from memwb.kernels.fused_linear_cross_entropy import fused_linear_cross_entropy

    hidden, head, bends = head_of(model, batch)
    weight, bias, labels = head.weight.to(hidden.dtype), head.bias, batch["labels"]
    bias = None if bias is None else bias.to(hidden.dtype)
    return fused_linear_cross_entropy(
        hidden, weight, labels, bias, tokens=tokens, shift=True, chunk_size=chunk_size, **bends
    )


def head_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any, dict[str, Any]]:
    """Hidden states in the precision that the head computes in, the head, and how logits bend."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    if type(head) is not torch.nn.Linear:
        raise TypeError(f"the output head is a {type(head).__name__}, not a plain linear layer")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = base.get_decoder()(**inputs).last_hidden_state
    with torch.no_grad():
        # What the head computes in: autocast shows only in its result.
        dtype = head(hidden[:1, :1]).dtype
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
    scale = (scale or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None) or 0.0
    return hidden.to(dtype), head, {"logit_scale": float(scale), "softcap": float(softcap)}


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What is kept for backward is not the log-probabilities, but gradients that are ready."""
    return made_in_forward(facts)


def made_in_forward(facts: Facts) -> list[Effect]:
    """The effects of a loss whose gradients are ready when backward begins."""
    trained, shape = head_trained(facts), facts.shape
    # The hidden states are not kept, but their gradient, of the same size, is.
    kept = kept_log_probabilities(facts, 0)
    early = trained and (shape.tied or facts.compute_bytes != facts.weight_bytes)
    if not early:
        return [kept]
    ready = facts.compute_bytes * shape.vocabulary * shape.hidden
    formula = f"{kept.formula}; the head's gradient instead, which is ready"
    return [msgspec.structs.replace(kept, after=kept.after + ready, formula=formula)]
