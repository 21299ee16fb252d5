"""AdamW, what acts when no optimizer is named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
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


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Two moments in the weight's precision; what one step makes beside them, by kernel."""
    states = adamw_states(facts)
    count = f"2 moments × {facts.trained_bytes} B × {facts.trainable:,} trained values"
    found = [
        Effect(
            category="optimizer",
            before=states,
            after=states,
            formula=f"{count} + 4 B of step counter × {tensors(facts)} tensors",
        )
    ]
    # The loop's hang on the order of the tensors: twice the largest, and the one before it.
    scratch = {
        "foreach": (facts.trained_bytes * facts.trainable, "a root of every second moment at once"),
        "fused": (0, "none: one kernel reads and writes each value once"),
    }
    if params.kernel in scratch:
        size, how = scratch[params.kernel]
        found.append(
            Effect(category="temporary", before=None, after=size, formula=how, phase="optimizer")
        )
    return found


def adamw_states(facts: Facts) -> int:
    """Bytes of torch's AdamW: two moments like the weights, an fp32 step counter per tensor."""
    return 2 * facts.trained_bytes * facts.trainable + 4 * tensors(facts)


def tensors(facts: Facts) -> int:
    """How many tensors are trained."""
    return sum(weight.count for weight in facts.trained)
