"""Output head and cross-entropy as one operator of torch, so that the logits never exist whole."""

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
    """Parameters of torch's fused loss."""

    chunk_size: Annotated[
        int,
        Meta(ge=0, description="tokens whose logits exist at once; 0 leaves it to torch"),
    ] = 0


technique = Technique(
    name="linear_cross_entropy",
    title="linear cross-entropy",
    group="loss",
    shrinks=("activations", "temporary"),
    saves="The logits and their copies, but for one chunk: large with a large vocabulary.",
    costs="fp32: the head's gradient a moment earlier; half precision: one more head product.",
    not_when="The vocabulary is small, or the batch has fewer tokens than the model is wide.",
    source="torch.nn.functional.linear_cross_entropy (2.13)",
    torch="2.13",
    params=Params,
    # In half precision the plain loss rounds each logit by 2^-8 at most, and a token's loss is
    # the difference of two terms made of logits; this one rounds the loss of each token by 2^-8,
    # and the factor of its gradient: 4 x 2^-8. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the plan or a model, and the override that mends it."""
    mend = "chunked_cross_entropy=on"
    if config.get("final_logit_softcapping"):
        return "this model caps its logits, and the fused loss never sees them", mend
    if key := scaled_by(config):
        return f"this model scales its logits ({key}), and the fused loss does not", mend
    lora = plan.techniques.get("lora")
    named = [target.rpartition(".")[2] for target in getattr(lora, "targets", ())]
    if getattr(lora, "output_layer", False) or {"lm_head", "embed_out"} & set(named):
        return "an adapter on the output head is no part of the fused product", mend
    return None


def loss(
    model: Any, batch: dict[str, torch.Tensor], tokens: int, *, chunk_size: int
) -> torch.Tensor:
    """Next-token cross-entropy of the hidden states and the head's weight, over ``tokens``."""
    import torch
    from torch.nn import LinearCrossEntropyOptions, functional

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise TypeError(f"the output head is a {type(head).__name__}, not a plain linear layer")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = base.get_decoder()(**inputs).last_hidden_state
    labels = functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    with torch.no_grad():
        # What the head computes in: autocast shows only in its result.
        dtype = head(hidden[:1, :1]).dtype
    losses = functional.linear_cross_entropy(
        hidden.flatten(0, 1).to(dtype),
        head.weight.to(dtype),
        labels.flatten(),
        linear_bias=None if head.bias is None else head.bias.to(dtype),
        # In half precision torch 2.13 adds up a sum in that precision, and loses a tenth of it.
        reduction="sum" if dtype == torch.float32 else "none",
        ignore_index=-100,
        options=LinearCrossEntropyOptions(batch_chunk_size=chunk_size or None),
    )
    return losses.float().sum() / tokens


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What is not kept for backward; in fp32 the gradient of a tied head is ready before it."""
    shape = facts.shape
    early = facts.compute_bytes == 4 and shape.tied and head_trained(facts)
    kept = 4 * shape.vocabulary * shape.hidden if early else 0
    # In fp32 the labels are not looked at again.
    kept += 0 if facts.compute_bytes == 4 else 8 * facts.tokens
    return [kept_log_probabilities(facts, kept)]
