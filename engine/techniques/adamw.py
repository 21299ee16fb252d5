"""AdamW, what acts when no optimizer is named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of AdamW."""

    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the first moment")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the second moment")] = 0.999
    kernel: Annotated[
        Literal["auto", "foreach", "fused", "loop"],
        Meta(description="foreach is fast and makes temporaries as large as the weights"),
    ] = "auto"


technique = Technique(
    name="adamw",
    title="AdamW",
    group="optimizer",
    saves="Nothing: it is the reference of the optimizers.",
    costs="Two moments of each trained weight, in the weight's precision.",
    not_when="The optimizer's states are what fills the memory: 8-bit states, or adapters.",
    source="arXiv:1711.05101; torch.optim.AdamW",
    params=Params,
    exact=True,
)


def build_optimizer(
    model: Any,
    learning_rate: float,
    *,
    weight_decay: float,
    beta1: float,
    beta2: float,
    kernel: str,
) -> Any:
    """AdamW over whatever is trainable."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kernels = {"foreach": {"foreach": True}, "fused": {"fused": True}, "loop": {"foreach": False}}
    return torch.optim.AdamW(
        weights,
        lr=learning_rate,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        **kernels.get(kernel, {}),
    )
