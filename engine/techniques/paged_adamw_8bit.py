"""AdamW with 8-bit states in paged memory: what does not fit the GPU stays on the host."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw_8bit import Params, blockwise_effect
from memwb.engine.techniques.paged_adamw import assumed, managed

__all__ = ["Params", "assumed", "build_optimizer", "effects", "meta_build_optimizer", "technique"]

technique = Technique(
    name="paged_adamw_8bit",
    title="paged AdamW 8-bit",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Three quarters of AdamW's fp32 states, and the rest can move to the host at a spike.",
    costs="Moments rounded block by block; transfers while memory is short.",
    not_when="States fit beside the peak; on a CPU nothing is paged, and unpaged AdamW 8-bit acts.",
    source="arXiv:2305.14314; bitsandbytes.optim.PagedAdamW8bit",
    params=Params,
    packages=("bitsandbytes",),
    # As with adamw_8bit other steps are taken: no curve is owed.
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """bitsandbytes' paged 8-bit AdamW; a CPU has nothing to page from: the unpaged one acts."""
    import bitsandbytes

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    on_cpu = all(weight.device.type == "cpu" for weight in weights)
    kind = bitsandbytes.optim.AdamW8bit if on_cpu else bitsandbytes.optim.PagedAdamW8bit
    return kind(weights, lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay)


def meta_build_optimizer(model: Any, learning_rate: float, **kwargs: Any) -> Any:
    """As on a GPU, with states on the host in place of managed memory, which meta cannot have."""
    return managed(build_optimizer(model, learning_rate, **kwargs))


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The bytes of adamw_8bit, wherever they are paged to."""
    return [blockwise_effect(facts, moments=2, where=", on the GPU or paged out")]
