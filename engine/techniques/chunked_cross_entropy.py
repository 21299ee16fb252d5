"""The loss by chunks of tokens, so that the logits of all tokens never exist at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique

if TYPE_CHECKING:
    import torch


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the chunked loss."""

    chunk_size: Annotated[int, Meta(ge=1, description="tokens whose logits exist at once")] = 1024


technique = Technique(
    name="chunked_cross_entropy",
    title="chunked cross-entropy",
    group="loss",
    saves="The logits and their fp32 copy, but for one chunk: large with a large vocabulary.",
    costs="The output head runs twice; its gradient is added up once a chunk.",
    not_when="The vocabulary is small or the batch has fewer tokens than one chunk.",
    source="https://docs.pytorch.org/torchtune/stable/; arXiv:2410.10989",
    params=Params,
    # The terms of the fp32 sum are added in another order: n terms err by n * 2^-24 at most,
    # and gradients differ in the last bits of the model's own precision.
    tolerance=2**-10,
)


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
