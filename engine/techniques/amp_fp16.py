"""Mixed precision: fp32 weights, matrix products in fp16 under autocast, a scaled loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

COMPUTE_BYTES = 2

if TYPE_CHECKING:
    import argparse

    import torch

technique = Technique(
    name="amp_fp16",
    title="amp fp16",
    group="precision",
    shrinks=("activations",),
    saves="Inputs of matrix products are kept in 2 B, not 4; their time. Residuals stay in fp32.",
    costs="An fp16 copy of each weight while a step runs; steps that overflow are skipped.",
    not_when="The device has bf16 (Ampere and later), or is a CPU without fp16 units (10x slower).",
    source="arXiv:1710.03740; https://docs.pytorch.org/docs/stable/amp.html",
    # No tolerance: a step that is skipped trains nothing, and the curve lags by as many steps.
    # Up to the first of them it is amp_bf16's with 11 significant bits in place of 8: 8 x 2^-11.
)


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in fp32: the masters."""
    import torch

    return {**options, "dtype": torch.float32}


def patch_model(model: Any) -> Any:
    """Run the decoder and the output head under autocast to fp16; the loss stays in fp32."""
    import torch

    from memwb.engine.techniques.amp_bf16 import under_autocast

    return under_autocast(model, torch.float16)


def train(
    args: argparse.Namespace,
    model: Any,
    optimizer: Any,
    schedule: Any,
    stream: Iterator[dict[str, torch.Tensor]],
    loss_function: Callable[[Any, dict[str, torch.Tensor], int], torch.Tensor],
) -> Iterator[tuple[int, float]]:
    """Train on a scaled loss; yields the number of each step, from 1, and its loss, unscaled.

    The scale keeps small gradients above fp16's least value. It starts high: a step whose
    gradients overflow is skipped and the scale halved, until they fit.
    """
    import torch

    from memwb.engine.recipe import next_step

    scaler = torch.amp.GradScaler(model.device.type)
    torch.manual_seed(args.seed)
    for step in range(1, args.steps + 1):
        micro_batches, tokens = next_step(args, stream)
        total = 0.0
        for batch in micro_batches:
            value = loss_function(model, batch, tokens)
            scaler.scale(value).backward()
            total += value.item()
        # Unscaled here and not inside a fused step, so that what clips gradients sees their size.
        scaler.unscale_(optimizer)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:
            schedule.step()
        optimizer.zero_grad()
        yield step, total


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Nothing off weights and gradients: the masters are fp32."""
    return precision_effects(facts)
