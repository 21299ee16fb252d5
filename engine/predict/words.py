"""A prediction in words: where the peak is, what makes it, and what lies between the totals."""

from __future__ import annotations

import os
from collections.abc import Iterable

from memwb.engine.allocator_settings import variable_of
from memwb.engine.gpus import CONTEXT_ERROR, capability
from memwb.engine.memory import Peak, sized
from memwb.engine.plan import Plan, active
from memwb.engine.predict.targets import Target
from memwb.engine.technique import module_of
from memwb.engine.trainer.alive import Member
from memwb.engine.trainer.causes import Model, words_on
from memwb.engine.trainer.trace import Row

MICRO_BATCHES = 2
"""Of a step's micro-batches so many are run where they are alike: the first makes gradients, the
others add to them."""


def words_of(
    peak: Peak, row: Row, members: Iterable[Member], model: Model, target: Target
) -> tuple[str, ...]:
    """Sentences about the peak and the gaps between allocated, reserved and device."""
    sentences = list(words_on(row, members, model))
    if target.kind != "cuda":
        sentences.append("A CPU caches nothing: reserved and device are what is allocated.")
        return tuple(sentences)
    gap = peak.reserved - peak.allocated
    sentences.append(
        f"The allocator holds {sized(gap)} beyond the peak ({gap / max(peak.allocated, 1):.0%}): "
        "segments of whole mebibytes, and free blocks that no later request fitted."
    )
    sentences.append(
        f"The driver counts {sized(peak.device - peak.reserved)} more: the CUDA context and the "
        f"kernels, give or take {sized(CONTEXT_ERROR)}."
    )
    return tuple(sentences)


def notes_on(
    plan: Plan,
    target: Target,
    missing: str = "",
    dtypes: frozenset[str] = frozenset(),
    in_place: bool = False,
) -> tuple[str, ...]:
    """What was assumed, and what is not known.

    ``missing`` is a tokenizer that is not here; ``dtypes`` are those of the tensors; ``in_place``
    says that a checkpoint's weights were made without reading it.
    """
    notes = []
    if missing:
        notes.append(
            f"Rows were made of bytes: the tokenizer of {missing} is not on this machine. With it "
            "documents are shorter, and so may rows be."
        )
    if in_place:
        notes.append(
            "Loading is predicted for weights made in place, since there are no safetensors files "
            "of full precision on this machine; reading a checkpoint may pass a few tensors more "
            "through memory."
        )
    if plan.workload.gradient_accumulation > MICRO_BATCHES:
        notes.append(
            f"Of a step's {plan.workload.gradient_accumulation} micro-batches {MICRO_BATCHES} are "
            "in the timeline: those that follow are like the last of them, and make no new peak."
        )
    wide = [name for name, params in active(plan).items() if getattr(params, "upcast", False)]
    if wide and "bf16" in plan.techniques:
        notes.append(
            f"{wide[0]} with upcast has norms and embeddings in fp32, so that layers hand on fp32 "
            "and keep it for backward, twice the bytes of bf16, and attention takes a kernel for "
            f"fp32: -o {wide[0]}.upcast=false leaves them in bf16."
        )
    for name, params in active(plan).items():
        assumed = getattr(module_of(name), "assumed", None)
        if assumed is not None and (note := assumed(params, target.kind)):
            notes.append(note)
    name = variable_of(os.environ)
    if target.kind == "cuda" and os.environ.get(name):
        notes.append(f"This shell's {name}={os.environ[name]} was applied.")
    if target.kind == "cuda" and "bfloat16" in dtypes and capability(target.arch) < (8, 0):
        notes.append(
            f"{target.name} has no bf16 of its own (compute capability 8.0 or later has): torch "
            "emulates it, and an operator that lacks the emulation fails in a burst."
        )
    if target.kind == "cuda":
        notes.append("Predictions for GPUs have not been compared with a GPU yet.")
    return tuple(notes)
