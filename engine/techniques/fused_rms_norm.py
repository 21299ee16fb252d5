"""RMS norms that keep their input instead of fp32 copies of it, each one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Params, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan

technique = Technique(
    name="fused_rms_norm",
    title="fused RMS norm",
    group="kernels",
    shrinks=("activations",),
    saves="The fp32 copies that a norm keeps of its input, and time: rows are read once.",
    costs="Gradients are rounded at other places than by the plain norm.",
    not_when="Layers are checkpointed whole: what norms keep is then computed again anyway.",
    source="arXiv:1910.07467; the kernel is memwb's own: docs/kernels/rows.md",
    packages=("triton",),
    # In forward only the order in which squares are added differs, by 2^-24 a term. In backward
    # the plain norm rounds to the model's precision between its operators, four times on the way
    # from a row's gradient to its input's, and this one once: 4 * 2^-9 in bf16 for a gradient,
    # and steps follow gradients.
    tolerance=2**-7,
)

ROUNDING = {
    "llama": (0.0, True),
    "qwen2": (0.0, True),
    "qwen3": (0.0, True),
    "mistral": (0.0, True),
    "phi3": (0.0, True),
    "granite": (0.0, True),
    "olmo2": (0.0, False),
    "gemma": (1.0, False),
    "gemma2": (1.0, False),
    "gemma3_text": (1.0, False),
}
"""By model_type: what is added to the weights, and whether rounding comes before them."""

WIDEST = 2**14
"""As the kernel's own limit, which cannot be imported here."""

AFTER_PRODUCTS = ("post_attention_layernorm", "post_feedforward_layernorm")


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit a model, and the override that mends it."""
    text = config.get("text_config") or config
    kind = text.get("model_type")
    if kind in ("gpt2", "gpt_bigcode", "gpt_neox"):
        reason = f"{kind} has layer norms: torch's own keep only their input and are one kernel"
        return reason, "fused_rms_norm=off"
    if text.get("hidden_size", 0) > WIDEST:
        return f"its kernel takes rows of up to {WIDEST:,} values", "fused_rms_norm=off"
    if kind and kind not in ROUNDING:
        return f"how the norms of {kind} round is not known", "fused_rms_norm=off"
    return None


def patch_model(model: Any) -> Any:
    """Have every RMS norm, of hidden states or of heads, computed by one operator."""
    from functools import partial

    offset, cast_first = ROUNDING[model.config.get_text_config().model_type]
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    if not norms:
        raise TypeError(f"no RMS norm was found in {type(model).__name__}")
    for norm in norms:
        eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
        norm.forward = partial(fused_norm, norm, eps=eps, offset=offset, cast_first=cast_first)
    return model


def fused_norm(
    norm: Any, hidden_states: torch.Tensor, *, eps: float, offset: float, cast_first: bool
) -> torch.Tensor:
    """What stands in for a norm's forward."""
    from memwb.kernels.rms_norm import rms_norm

    return rms_norm(hidden_states, norm.weight, eps, offset=offset, cast_first=cast_first)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What the norms of one decoder layer keep for backward."""
    shape = facts.shape
    offset, _ = ROUNDING.get(shape.family, (0.0, True))
    heads = {"q_norm": shape.heads, "k_norm": shape.kv_heads}
    # What comes from a product has its precision under autocast, the sum of hidden states has
    # the weights'. With an offset (Gemma) the norms named post are of products.
    products = (*heads, *(AFTER_PRODUCTS if offset else ()))
    before = after = count = 0
    for row in shape.weights:
        name = row.name.split(".")[-2]
        if row.kind != "norm" or row.name.startswith("model."):
            continue
        count += 1
        rows = facts.tokens * heads.get(name, 1)
        values = rows * row.size
        width = facts.compute_bytes if name in products else facts.weight_bytes
        trained = any(one.name == row.name for one in facts.trained)
        before += 4 * values + 4 * rows
        if offset:
            before += 4 * row.size + (4 * values if trained else 0)
        elif trained:
            before += width * values
        after += width * values + 4 * rows
    formula = f"{count} norms: their input and 4 B a row, instead of it in fp32"
    formula += " and what the trained weights multiply"
    return [Effect(category="activations", before=before, after=after, formula=formula, each=True)]
