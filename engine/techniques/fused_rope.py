"""Queries and keys rotated by one kernel, without the tensors in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwb.engine.technique import Params, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan

technique = Technique(
    name="fused_rope",
    title="fused rotary positions",
    group="kernels",
    saves="Time, and the temporary tensors of the rotation: five the size of the queries.",
    costs="Little: gradients of norms of heads are added up in another order.",
    not_when="The peak is elsewhere, as it mostly is: what is kept for backward stays.",
    source="arXiv:2104.09864; the kernel is memwb's own: docs/kernels/rows.md",
    packages=("triton",),
    # It rounds products and sums where the plain operators do, so that what comes out is the same
    # to the last bit, forth and back. But gradients lie token by token in memory, as projections
    # want them, not head by head: where heads are normed (Qwen3, Gemma 3), the gradient of these
    # norms' weights is added up in another order, and n terms err by n * 2^-24 at most.
    tolerance=2**-10,
)

NO_ARITHMETIC = (
    "what is kept for backward stays (where queries are slices of a product, as Phi's, a copy of "
    "the attention's output is spared); how many temporary tensors of the rotation exist at once "
    "depends on when each is freed"
)

ROTATED = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "granite",
    "gemma",
    "gemma2",
    "gemma3_text",
)
"""The model_types whose attention calls apply_rotary_pos_emb, which rotates halves of a head."""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit a model, and the override that mends it."""
    kind = (config.get("text_config") or config).get("model_type")
    if kind in ("gpt2", "gpt_bigcode"):
        return f"{kind} learns its positions and rotates nothing", "fused_rope=off"
    if kind and kind not in ROTATED:
        return f"how {kind} rotates queries and keys is not known", "fused_rope=off"
    return None


def patch_model(model: Any) -> Any:
    """Have each attention find another function where it looks for apply_rotary_pos_emb.

    Its forward stays as it is, but looks names up in a copy of its module's.
    """
    from types import FunctionType, MethodType

    found = 0
    for module in model.modules():
        forward = type(module).forward
        names = getattr(getattr(forward, "__code__", None), "co_names", ())
        if "apply_rotary_pos_emb" not in names or "forward" in vars(module):
            continue
        scope = {**forward.__globals__, "apply_rotary_pos_emb": fused_rotation}
        # Without the module's name torch.compile takes this scope for one of its own.
        del scope["__name__"]
        copy = FunctionType(
            forward.__code__, scope, forward.__name__, forward.__defaults__, forward.__closure__
        )
        copy.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(copy, module)
        found += 1
    if not found:
        raise TypeError(f"no attention that rotates was found in {type(model).__name__}")
    return model


def fused_rotation(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands in for apply_rotary_pos_emb; heads are the dimension ``unsqueeze_dim``."""
    from memwb.kernels.rope import rope

    if unsqueeze_dim == 1:
        return rope(q, k, cos, sin)
    q, k = rope(q.transpose(1, unsqueeze_dim), k.transpose(1, unsqueeze_dim), cos, sin)
    return q.transpose(1, unsqueeze_dim), k.transpose(1, unsqueeze_dim)
