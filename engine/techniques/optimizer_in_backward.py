"""Each weight is stepped as soon as its gradient is there, and the gradient is freed at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Params, Relation, Technique

if TYPE_CHECKING:
    import argparse

    from memwb.engine.plan import Plan

technique = Technique(
    name="optimizer_in_backward",
    title="optimizer in backward",
    group="step",
    shrinks=("gradients",),
    saves="All gradients but the largest tensor's: each is freed as soon as it is used.",
    costs="One small step for each tensor; no accumulation and no clipping by global norm.",
    not_when="Few weights are trained (adapters), or activations are the peak.",
    source="https://docs.pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html",
    # Every optimizer here steps each tensor by itself, so the order changes no number (but
    # those of bf16_stochastic_rounding, which draws its random numbers in that order).
    exact=True,
    conflicts=(
        Relation(("gradient_clipping",), "the global norm needs every gradient at once"),
        Relation(("amp_fp16",), "its scaler must see every gradient before any weight moves"),
    ),
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Accumulation needs gradients that outlive a micro-batch."""
    if plan.workload.gradient_accumulation > 1:
        reason = "each gradient is used and freed in its own backward: none is there to add to"
        return reason, "workload.gradient_accumulation=1"
    return None


def arguments(args: argparse.Namespace) -> None:
    """The script's own flags may ask for what the plan refuses."""
    if args.gradient_accumulation > 1:
        raise SystemExit(
            f"train.py: --gradient-accumulation {args.gradient_accumulation} does not go with the "
            "optimizer in backward, which frees each gradient at once: make it 1, or --batch-size "
            "larger"
        )


def patch_optimizer(model: Any, optimizer: Any) -> Any:
    """Step each weight when its gradient is complete; the loop's own step finds none left."""
    whole = [(group, group["params"]) for group in optimizer.param_groups]
    home = {weight: group for group, weights in whole for weight in weights}
    stepped = set()

    def step_one(weight: Any) -> None:
        if weight in stepped:
            raise RuntimeError("optimizer_in_backward allows one backward pass in each step")
        stepped.add(weight)
        # With one weight alone in its groups the optimizer need not look at all the others.
        for group, _ in whole:
            group["params"] = [weight] if group is home[weight] else []
        optimizer.step()
        for group, weights in whole:
            group["params"] = weights
        weight.grad = None

    def forget(*_: Any) -> None:
        # The loop's own step: there is no gradient left for it, and a new round begins.
        if all(group["params"] is weights for group, weights in whole):
            stepped.clear()

    for weight in home:
        weight.register_post_accumulate_grad_hook(step_one)
    optimizer.register_step_post_hook(forget)
    return optimizer


def effects(params: Any, facts: Facts) -> list[Effect]:
    """The gradients of one module at a time: of a weight with its bias, at most the largest."""
    modules: dict[str, int] = {}
    for weight in facts.trained:
        module = weight.name.rpartition(".")[0]
        modules[module] = modules.get(module, 0) + weight.size
    after = max(modules.values(), default=0)
    tied = facts.shape.tied and any(weight.kind == "embedding" for weight in facts.trained)
    # Autograd keeps the head's share until the embedding's comes, at the end of backward.
    waits = "; the tied head's share, as large, waits for the embedding's" if tied else ""
    return [
        Effect(
            category="gradients",
            before=facts.trained_bytes * facts.trainable,
            after=facts.trained_bytes * after,
            formula=f"the largest module's: {facts.trained_bytes} B × {after:,} values" + waits,
        )
    ]
