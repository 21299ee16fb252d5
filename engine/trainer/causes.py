"""Why what training makes is alive in a moment: its tensors by reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from memwb.engine.memory import CATEGORIES, Alive, Large, sized
from memwb.engine.trainer.alive import MOST, Birth, Member, Snapshot, largest_of, starred
from memwb.engine.trainer.trace import ACTIVATIONS, TEMPORARY, WEIGHTS, Row

WORKSPACE = "cuBLAS workspace"
"""What stands for the operator of the matrix library's own memory."""

LOGITS = "logits, their softmax and gradient"
SCORES = "attention scores"
SCRATCH = "the optimizer's scratch"
LAYERS = "what the layers keep for backward"
LAYER = "what one layer needs while its backward runs"
PASSING = "gradients of weights under way"
LIBRARY = "the matrix library's workspaces"
OTHERS = "other tensors"

_SCORING = frozenset(("aten._softmax", "aten._safe_softmax", "aten.bmm", "aten.baddbmm"))


class Cause(NamedTuple):
    """Tensors alive in a moment that are there for one reason."""

    name: str
    bytes: int
    tensors: int
    shape: tuple[int, ...]
    """Of the largest of them."""
    dtype: str


class Model(NamedTuple):
    """What tells tensors apart."""

    vocabulary: int
    length: int
    """Tokens in a row."""
    layers: int = 0
    """Decoder layers, all of them."""


def causes_of(members: Iterable[Member], phase: str, model: Model) -> tuple[Cause, ...]:
    """What forward, loss, backward and optimizer have made and is alive, by reason; most first."""
    members = list(members)
    weights = {birth.shape for _, birth in members if birth.category == WEIGHTS}
    groups: defaultdict[str, list[Member]] = defaultdict(list)
    for size, birth in members:
        if birth.category in (ACTIVATIONS, TEMPORARY):
            groups[_reason(birth, phase, model, weights)].append((size, birth))
    found = []
    for name, alike in groups.items():
        _, largest = max(alike, key=lambda member: member[0])
        total = sum(size for size, _ in alike)
        found.append(Cause(name, total, len(alike), largest.shape, largest.dtype))
    return tuple(sorted(found, key=lambda cause: -cause.bytes))


def told(snapshot: Snapshot, model: Model) -> Alive:
    """A moment of a burst as it is told: its largest tensors, and what is beside them."""
    row, members, allocated, asked = snapshot
    kinds = largest_of(members)
    rest = kinds[MOST:]
    totals = list(row.totals)
    totals[TEMPORARY] += allocated - row.total
    request = None
    if asked is not None:
        request = Large(asked.bytes, "", *asked.origin)
    return Alive(
        step=row.step,
        phase=row.phase,
        allocated=allocated,
        largest=kinds[:MOST],
        others=sum(large.bytes for large in rest),
        more=sum(large.count for large in rest),
        unexplained=allocated - sum(size for size, _ in members),
        words=words_on(row._replace(totals=tuple(totals)), members, model, asked is not None),
        asked=request,
    )


def words_on(
    row: Row, members: Iterable[Member], model: Model, failed: bool = False
) -> tuple[str, ...]:
    """Sentences on the peak, or on when an allocation failed: where it is, and what makes it."""
    when = {0: "while loading", 1: "of the first step"}.get(row.step, "of a steady step")
    where = when if row.step == 0 else f"in the {row.phase} {when}"
    sizes = dict(zip(CATEGORIES, row.totals, strict=True))
    parts = sorted(CATEGORIES, key=lambda name: -sizes[name])
    shares = [f"{name} {sized(sizes[name])}" for name in parts[:3]]
    start = f"The peak of {sized(row.total)} is {where}"
    if failed:
        start = f"When memory ran out, {where}, {sized(row.total)} were alive"
    sentences = [f"{start}: {', '.join(shares)}."]
    causes = causes_of(members, row.phase, model)
    if causes and causes[0].bytes:
        beside = " beside gradients" if sizes["gradients"] > causes[0].bytes else ""
        sentences.append(_because(causes[0], model.layers, beside))
    return tuple(sentences)


def _because(cause: Cause, layers: int, beside: str) -> str:
    """The sentence on what makes the most of what training adds to weights, states, gradients."""
    start = f"Of what a step makes{beside}, the most is {cause.name}: {sized(cause.bytes)}"
    if cause.name == LAYERS and layers:
        return f"{start}, {sized(cause.bytes // layers)} a layer."
    shape = " × ".join(str(one) for one in cause.shape)
    times = f"{cause.tensors} tensors, the largest" if cause.tensors > 1 else "one tensor,"
    return f"{start} in {times} {cause.dtype} {shape}."


def _reason(birth: Birth, phase: str, model: Model, weights: Collection[tuple[int, ...]]) -> str:
    # A layer may have matrices as wide as the vocabulary or the row is long: where a tensor was
    # made comes before what it looks like.
    shape, layer = birth.shape, birth.module != starred(birth.module)
    if birth.op == WORKSPACE:
        return LIBRARY
    if birth.category == TEMPORARY and phase == "optimizer":
        return SCRATCH
    if model.vocabulary and shape[-1:] == (model.vocabulary,) and not layer:
        return LOGITS
    square = model.length > 1 and shape[-2:] == (model.length, model.length)
    if square and (len(shape) > 3 or birth.op in _SCORING):
        return SCORES
    if birth.category == ACTIVATIONS and layer:
        return LAYERS
    if birth.category == TEMPORARY and phase == "backward":
        if len(shape) > 1 and shape in weights:
            return PASSING
        if layer:
            return LAYER
    return OTHERS
