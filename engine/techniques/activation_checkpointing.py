"""Keep only the inputs of decoder layers and compute the rest again in backward."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of activation checkpointing."""

    every: Annotated[int, Meta(ge=1, description="checkpoint every n-th decoder layer")] = 1


technique = Technique(
    name="activation_checkpointing",
    title="activation checkpointing",
    group="activations",
    saves="The activations inside each checkpointed layer: one hidden state a layer remains.",
    costs="A second forward pass of those layers: about 20 to 30 % of the time.",
    not_when="Weights, optimizer or the logits are the peak: activations are not what fills it.",
    source="arXiv:1604.06174; torch.utils.checkpoint",
    params=Params,
    exact=True,
)


def patch_model(model: Any, *, every: int) -> Any:
    """Wrap every n-th decoder layer in torch's non-reentrant checkpoint."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    from memwb.engine.recipe import decoder_layers

    for layer in decoder_layers(model)[every - 1 :: every]:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return model
