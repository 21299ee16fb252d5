"""The loss by chunks of tokens, so that the logits of all tokens never exist at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the chunked loss."""

    chunk_size: Annotated[int, Meta(ge=1, description="tokens whose logits exist at once")] = 512


technique = Technique(
    name="chunked_cross_entropy",
    title="chunked cross-entropy",
    group="loss",
    shrinks=("activations", "temporary"),
    saves="The logits and their fp32 copy, but for one chunk: large with a large vocabulary.",
    costs="The output head runs twice; its gradient is added up once a chunk.",
    not_when="The vocabulary is small, or the micro-batch has no more tokens than one chunk.",
    source="https://docs.pytorch.org/torchtune/stable/; arXiv:2410.10989",
    params=Params,
    # The terms of the fp32 sum are added in another order: n terms err by n * 2^-24 at most,
    # and gradients differ in the last bits of the model's own precision.
    tolerance=2**-10,
)


SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier")
"""Keys of a config that say that the logits are multiplied or divided before the loss."""


def scaled_by(config: Mapping[str, Any]) -> str:
    """The key of a config that scales the logits, or nothing."""
    return next((key for key in SCALES if config.get(key) not in (None, 1)), "")


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit a model, and the override that mends it."""
    if key := scaled_by(config):
        reason = f"this model scales its logits ({key}), and the chunks do not"
        return reason, "chunked_cross_entropy=off"
    return None


def loss(
    model: Any, batch: dict[str, torch.Tensor], tokens: int, *, chunk_size: int
) -> torch.Tensor:
    """Next-token cross-entropy over chunks of tokens, divided by ``tokens``.

    Only the hidden states are kept for backward: each chunk's logits are computed again there.
    """
    import torch
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    softcap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)

    def chunk_loss(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        return functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")

    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = base.get_decoder()(**inputs).last_hidden_state
    labels = functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    total = hidden.new_zeros((), dtype=torch.float32)
    chunks = zip(
        hidden.flatten(0, 1).split(chunk_size), labels.flatten().split(chunk_size), strict=True
    )
    for chunk in chunks:
        total = total + checkpoint(chunk_loss, *chunk, use_reentrant=False)
    return total / tokens


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What is not kept for backward: the log-probabilities of all tokens."""
    kept = kept_log_probabilities(facts, 8 * facts.tokens)
    one = f"; while it runs, those of {params.chunk_size:,} tokens at a time"
    if facts.tokens <= params.chunk_size:
        one = "; but all tokens are one chunk, whose logits are temporary then: the peak stays"
    return [msgspec.structs.replace(kept, formula=kept.formula + one)]


def kept_log_probabilities(facts: Facts, kept: int) -> Effect:
    """The plain loss keeps one fp32 value for each token and each word; this one ``kept`` bytes.

    And the shifted labels, of 8 bytes a token, with the sum of their weights.

    The hidden states are kept by either, but by the plain loss only if the head is trained.
    """
    formula = f"(4 B × {facts.shape.vocabulary:,} words + 8 B) × {facts.tokens:,} tokens + 4 B"
    if not head_trained(facts):
        kept += facts.weight_bytes * facts.tokens * facts.shape.hidden
        formula += "; the hidden states of all tokens instead"
    return Effect(
        category="activations",
        before=(4 * facts.shape.vocabulary + 8) * facts.tokens + 4,
        after=kept,
        formula=formula,
    )


def head_trained(facts: Facts) -> bool:
    """Whether the output head, or the embedding it shares, gets a gradient."""
    kind = "embedding" if facts.shape.tied else "head"
    return any(weight.kind == kind for weight in facts.trained)
