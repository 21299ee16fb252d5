"""AdamW that rounds bf16 weights up or down by chance, so that small updates are not lost."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique
from memwb.engine.techniques.adamw import adamw_states, tensors
from memwb.engine.techniques.adamw_4bit import LEARNING_RATES
from memwb.engine.techniques.adamw_8bit import Params

technique = Technique(
    name="bf16_stochastic_rounding",
    title="AdamW, stochastic rounding",
    group="optimizer",
    saves="The fp32 masters: bf16 weights follow updates below 1/256 of them, on average.",
    costs="A random number for each value; losses are noisier, and depend on the seed.",
    not_when="Adapters are trained (peft keeps them in fp32), or learning rates are large.",
    source="arXiv:2010.06192; torchao.optim",
    params=Params,
    # Weights are rounded by chance: another run even with the same gradients, no curve is owed.
    needs=(Relation(("bf16",), "only bf16 weights are rounded by chance"),),
    packages=("torchao",),
)


def build_optimizer(
    model: Any, learning_rate: float, *, weight_decay: float, beta1: float, beta2: float
) -> Any:
    """torchao's AdamW, each bf16 weight rounded to a neighbour with the odds of its distance."""
    from torchao.optim import _AdamW

    from memwb.engine.techniques.adamw_4bit import eager_on_cpu

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = _AdamW(
        weights,
        lr=learning_rate,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        bf16_stochastic_round=True,
    )
    return eager_on_cpu(optimizer)


def meta_build_optimizer(model: Any, learning_rate: float, **kwargs: Any) -> Any:
    """As on a GPU, where torchao compiles the step of each tensor, which meta cannot.

    The step is made of nothing but operations value by value, so that inductor makes one kernel
    of it, which writes weights and states in place. A seed of 8 bytes is all that is allocated
    (as seen in what inductor generates for a CPU with torch 2.13).
    """
    from memwb.engine.techniques.adamw_4bit import compiled_step

    def step(weight: Any, *rest: Any) -> None:
        import torch

        if rest[-1]:
            torch.empty(1, dtype=torch.int64, device=weight.device)

    return compiled_step(build_optimizer(model, learning_rate, **kwargs), step)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """AdamW's states in the weight's precision, and the learning rate as a tensor."""
    states = adamw_states(facts)
    return [
        Effect(
            category="optimizer",
            before=states,
            after=states + LEARNING_RATES,
            formula=f"2 moments × {facts.trained_bytes} B × {facts.trainable:,} trained values"
            f" + 4 B of step counter × {tensors(facts)} tensors + 8 B of learning rate",
        )
    ]
