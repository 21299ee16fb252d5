"""A model in four typical plans: what the model picker and ``memwb models NAME`` tell of it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from memwb.engine.plan import Plan, Workload
from memwb.engine.prediction import Prediction
from memwb.engine.presets import load_shipped
from memwb.engine.protocol import Device
from memwb.workbench.foresight import Room, room_on

TYPICAL = {
    "full bf16": "qwen2.5-1.5b-full",
    "LoRA": "lora",
    "QLoRA + ckpt": "qlora",
    "smallest": "smallest-memory",
}
"""Names and the shipped presets whose techniques they are: the most memory first."""

ABOUT = "every weight in bf16 · LoRA · QLoRA with checkpointing · smallest-memory"
"""The same in words."""


class Need(NamedTuple):
    """What one typical plan needs: bytes allocated, and how that stands to the target."""

    allocated: int
    room: Room | None
    """None where the target's capacity is not known."""


def typical_plans(model: str, workload: Workload, weights: str = "auto") -> dict[str, Plan]:
    """The four plans of a model by name, each with its preset's techniques.

    Of the workload what memory goes by: its batch, sequence length and accumulation.
    """
    lean = Workload(
        batch_size=workload.batch_size,
        sequence_length=workload.sequence_length,
        gradient_accumulation=workload.gradient_accumulation,
    )
    return {
        name: replace(load_shipped(preset), model=model, weights=weights, workload=lean)
        for name, preset in TYPICAL.items()
    }


def need_of(result: Prediction, device: Device | None) -> Need:
    """A prediction as one of the four is told."""
    return Need(result.peak.allocated, room_on(result, device))


def tokens(workload: Workload) -> str:
    """The workload that the four are predicted for: ``2 × 256 tokens``."""
    return f"{workload.batch_size} × {workload.sequence_length:,} tokens"
