"""memwb's own kernel for output head and loss that never has the logits of any token whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from memwb.engine.technique import Params, Technique
from memwb.engine.techniques.chunked_cross_entropy import head_trained, kept_log_probabilities
from memwb.engine.techniques.fused_linear_cross_entropy import (
    head_of,
    made_in_forward,
    refuse_head,
)

if TYPE_CHECKING:
    import torch

    from memwb.engine.arithmetic import Effect, Facts
    from memwb.engine.plan import Plan


technique = Technique(
    name="cut_cross_entropy",
    title="cut cross-entropy",
    group="loss",
    shrinks=("activations", "temporary"),
    saves="All logits and their copies: the least memory of the losses.",
    costs="The head's product is made twice.",
    not_when="The vocabulary is small, or time is dearer than a chunk of logits.",
    source="memwb's own kernel (docs/kernels/losses.md); the idea: arXiv:2411.09009",
    packages=("triton",),
    # In half precision the plain loss rounds each logit by 2^-8 at most, and a token's loss is
    # the difference of two terms made of logits; this one rounds the gradients of logits and, on
    # a CPU, the logits of both passes: 4 x 2^-8. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the plan or a model, and the override that mends it."""
    return refuse_head(plan, config)


def loss(model: Any, batch: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
    """Next-token cross-entropy of the hidden states and the head's weight, over ``tokens``."""
    from memwb.kernels.cut_cross_entropy import cut_cross_entropy

    hidden, head, bends = head_of(model, batch)
    weight, bias, labels = head.weight.to(hidden.dtype), head.bias, batch["labels"]
    bias = None if bias is None else bias.to(hidden.dtype)
    return cut_cross_entropy(hidden, weight, labels, bias, tokens=tokens, shift=True, **bends)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What is kept for backward: of each token its label, and the maximum and sum of its row."""
    if facts.device == "cpu" and facts.compute_bytes == 4 and facts.shape.vocabulary <= 2**16:
        # Its kernel makes gradients in forward there.
        return made_in_forward(facts)
    cast = facts.compute_bytes != facts.weight_bytes
    copy = facts.compute_bytes * facts.shape.vocabulary * facts.shape.hidden if cast else 0
    kept = kept_log_probabilities(facts, (8 + 4 + 4) * facts.tokens + copy)
    if not cast or not head_trained(facts):
        return [kept]
    formula = f"{kept.formula}; and the head's weight as it computes"
    return [msgspec.structs.replace(kept, formula=formula)]
