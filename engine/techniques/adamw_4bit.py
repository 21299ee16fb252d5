"""AdamW with both moments in 4 bits."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states, tensors
from memwb.engine.techniques.adamw_8bit import Params

technique = Technique(
    name="adamw_4bit",
    title="AdamW 4-bit",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Seven eighths of AdamW's fp32 states: half a byte a moment, and a scale per 128 values.",
    costs="Moments of 16 levels a block; on a GPU the step is compiled first (up to a minute).",
    not_when="Few weights are trained, or tensors are under 4096 values (these are not quantized).",
    source="arXiv:2309.01507; torchao.optim.AdamW4bit",
    params=Params,
    # Other steps are taken: a moment is rounded to one of 16 values of its block, and how far the
    # loss may part from AdamW's hangs on the gradients of every step. No curve is owed.
    packages=("torchao",),
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """torchao's AdamW with block-wise 4-bit states over whatever is trainable."""
    from torchao.optim import AdamW4bit

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = AdamW4bit(
        weights, lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay
    )
    return eager_on_cpu(optimizer)


def eager_on_cpu(optimizer: Any) -> Any:
    """Have a CPU run a step that torchao would compile: compiling takes longer than a short run."""
    from types import MethodType

    import torch

    if all(weight.device.type == "cpu" for weight in optimizer.param_groups[0]["params"]):
        eager = torch.compiler.set_stance("force_eager")(type(optimizer).step)
        optimizer.step = MethodType(eager, optimizer)
    return optimizer


def meta_build_optimizer(model: Any, learning_rate: float, **kwargs: Any) -> Any:
    """As on a GPU, where torchao compiles the step of each tensor, which meta cannot.

    The step of a small tensor is one kernel that allocates nothing. That of a quantized one is
    several: scales are maxima of blocks, and two codes make a byte. What inductor writes to
    memory between them depends on how it fuses them for the GPU (for a CPU it is 25 bytes a
    value with torch 2.13), so that no number can be told.
    """
    from memwb.engine.errors import CannotPredict

    def step(weight: Any, grad: Any, counter: Any, first: Any, *rest: Any) -> None:
        if hasattr(first, "codes"):
            raise CannotPredict(
                "AdamW 4-bit cannot be predicted for GPUs",
                "its step is compiled there, and what that keeps between kernels is not known",
                "Run a burst to measure it, or predict with AdamW 8-bit: -o adamw_8bit=on.",
                technique="adamw_4bit",
            )

    return compiled_step(build_optimizer(model, learning_rate, **kwargs), step)


def compiled_step(optimizer: Any, step_of_one: Any) -> Any:
    """On a GPU call this in place of what torchao would compile for one tensor."""
    from types import MethodType
    from unittest import mock

    import torch

    if all(weight.device.type == "cpu" for weight in optimizer.param_groups[0]["params"]):
        return optimizer
    inner = type(optimizer).step

    def step(optimizer: Any, closure: Any = None) -> Any:
        with mock.patch.object(torch, "compile", lambda *_, **__: step_of_one):
            return inner(optimizer, closure)

    optimizer.step = MethodType(step, optimizer)
    return optimizer


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Two moments of half a byte with their scales and maps; small tensors as AdamW keeps them."""
    quantized = [w for w in facts.trained if w.size >= 4096 and w.size % 128 == 0]
    packed = sum(w.count * w.size for w in quantized)
    maps = sum(w.count for w in quantized)
    rest = facts.trainable - packed
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=2 * (packed // 2 + packed // 128 * 4 + maps * 64 + rest * facts.trained_bytes)
            + LEARNING_RATES
            + 4 * tensors(facts),
            formula=f"2 × (0.5 B × {packed:,} values + 4 B of scale per 128 + 64 B of map × {maps}"
            f" tensors + {facts.trained_bytes} B × {rest:,} other values)"
            f" + 4 B of step counter × {tensors(facts)} tensors + 8 B of learning rate",
        )
    ]


LEARNING_RATES = 2 * 4
"""torchao keeps the learning rate and the schedule's first one as fp32 tensors."""
