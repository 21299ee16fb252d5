"""A prediction in words: where the peak is, what makes it, and what lies between the totals."""

from __future__ import annotations

import re
from collections import defaultdict

from memwb.engine.gpus import CONTEXT_ERROR
from memwb.engine.memory import CATEGORIES, Peak
from memwb.engine.plan import Plan, active
from memwb.engine.predict.course import Course
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import Target
from memwb.engine.prediction import Large
from memwb.engine.technique import module_of

LARGEST = 20
"""How many kinds of tensors are told."""


def largest_at(stream: Stream, index: int) -> tuple[Large, ...]:
    """The tensors alive after a moment, those that are alike together; most bytes first."""
    alive: dict[int, int] = {}
    for moment in stream.moments[: index + 1]:
        if moment.change:
            alive[moment.storage] = alive.get(moment.storage, 0) + moment.change
    groups: defaultdict[tuple[int, str, str, tuple[int, ...], str], list[tuple[int, str]]] = (
        defaultdict(list)
    )
    for storage, size in alive.items():
        if size:
            birth = stream.births[storage]
            place = _starred(birth.module)
            key = (birth.category, place, birth.op, birth.shape, birth.dtype)
            groups[key].append((size, birth.module))
    found = []
    for (number, place, op, shape, dtype), members in groups.items():
        modules = {module for _, module in members}
        found.append(
            Large(
                bytes=sum(size for size, _ in members),
                category=CATEGORIES[number],
                module=place if len(modules) > 1 else members[0][1],
                op=op,
                shape=shape,
                dtype=dtype,
                count=len(members),
            )
        )
    found.sort(key=lambda large: -large.bytes)
    return tuple(found[:LARGEST])


def _starred(module: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)


def words_on(
    peak: Peak, step: int, largest: tuple[Large, ...], course: Course, target: Target
) -> tuple[str, ...]:
    """Sentences about the peak and the gaps between allocated, reserved and device."""
    when = {0: "while loading", 1: "of the first step"}.get(step, "of a steady step")
    where = when if step == 0 else f"in the {peak.phase} {when}"
    greatest = max(CATEGORIES, key=lambda name: getattr(peak.categories, name))
    share = getattr(peak.categories, greatest)
    sentences = [
        f"The peak of {size(peak.allocated)} is {where}; the most of it is {greatest}, "
        f"{size(share)} ({share / max(peak.allocated, 1):.0%})."
    ]
    passing = [large for large in largest if large.category in ("activations", "temporary")]
    if passing:
        sentences.append(f"The largest that training makes are {described(passing[0])}.")
    if target.kind != "cuda":
        sentences.append("A CPU caches nothing: reserved and device are what is allocated.")
        return tuple(sentences)
    gap = peak.reserved - peak.allocated
    sentences.append(
        f"The allocator holds {size(gap)} beyond the peak ({gap / max(peak.allocated, 1):.0%}): "
        "segments of whole mebibytes, and free blocks that no later request fitted."
    )
    sentences.append(
        f"The driver counts {size(peak.device - peak.reserved)} more: the CUDA context and the "
        f"kernels, give or take {size(CONTEXT_ERROR)}."
    )
    return tuple(sentences)


def described(large: Large) -> str:
    """Tensors that are alike, in words: ``bf16 [1, 1024, 151936] of lm_head, 297 MiB``."""
    times = f"{large.count} × " if large.count > 1 else ""
    place = f" of {large.module}" if large.module else ""
    op = f" ({large.op})" if large.op else ""
    return f"{times}{large.dtype} {list(large.shape)}{place}{op}, {size(large.bytes)}"


def notes_on(plan: Plan, target: Target, course: Course) -> tuple[str, ...]:
    """What was assumed, and what is not known."""
    notes = []
    if plan.weights == "pretrained":
        notes.append(
            "Loading is predicted for weights made in place; reading a checkpoint may pass a "
            "few tensors more through memory."
        )
    for name, params in active(plan).items():
        assumed = getattr(module_of(name), "assumed", None)
        if assumed is not None and (note := assumed(params, target.kind)):
            notes.append(note)
    if target.kind == "cuda":
        notes.append("Predictions for GPUs have not been compared with a GPU yet.")
    return tuple(notes)


def size(count: int) -> str:
    """Bytes in a sentence."""
    if abs(count) >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB"
