"""AdamW with fp32 states in paged memory: what does not fit the GPU stays on the host."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states
from memwb.engine.techniques.adamw_8bit import Params

technique = Technique(
    name="paged_adamw",
    title="paged AdamW",
    group="optimizer",
    saves="Out-of-memory at a spike: states of tensors over 100,000 values move to the host then.",
    costs="Transfers while memory is short; states in fp32 (8 B a value) for bf16 weights too.",
    not_when="States fit beside the peak; on a CPU nothing is paged, and unpaged AdamW acts.",
    source="arXiv:2305.14314; bitsandbytes.optim.PagedAdamW",
    params=Params,
    packages=("bitsandbytes",),
    # In fp32 the formula is AdamW's, in bf16 its states are rounded less than torch's: other steps.
    # How far they lead from AdamW's hangs on the gradients of every step: no curve is owed.
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """bitsandbytes' paged AdamW; a CPU has nothing to page from: there the unpaged one acts."""
    import bitsandbytes

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    on_cpu = all(weight.device.type == "cpu" for weight in weights)
    kind = bitsandbytes.optim.AdamW32bit if on_cpu else bitsandbytes.optim.PagedAdamW32bit
    return kind(weights, lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay)


def meta_build_optimizer(model: Any, learning_rate: float, **kwargs: Any) -> Any:
    """As on a GPU, with states on the host in place of managed memory, which meta cannot have."""
    return managed(build_optimizer(model, learning_rate, **kwargs))


def managed(optimizer: Any) -> Any:
    """Have bitsandbytes page to the host: as ``Optimizer8bit.get_state_buffer`` chooses, 0.50.

    States of 100,000 values and more are in managed memory, past torch's allocator.
    """
    import torch

    if not optimizer.is_paged:
        return optimizer
    inner = optimizer.get_state_buffer

    def get_state_buffer(weight: Any, dtype: Any = torch.float32) -> Any:
        if weight.numel() < 100_000:
            return inner(weight, dtype=dtype)
        buffer: Any = torch.zeros(weight.shape, dtype=dtype, device="cpu")
        buffer.is_paged = True
        return buffer

    optimizer.get_state_buffer = get_state_buffer
    optimizer.prefetch_state = lambda weight: None
    return optimizer


def assumed(params: Any, kind: str) -> str:
    """What a prediction takes for granted on a device of that kind."""
    if kind != "cuda":
        return ""
    return (
        "Optimizer states of tensors of 100,000 values and more are in managed memory, which "
        "torch does not count: what the driver has of them on the GPU comes on top, and gives way "
        "where memory is short."
    )


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Two fp32 moments, wherever they are paged to."""
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=8 * facts.trainable,
            formula=f"2 moments × 4 B × {facts.trainable:,} values, on the GPU or paged out",
        )
    ]
