"""What would make a plan need less of the memory that ran out: techniques, or a smaller batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, active, override, problems
from memwb.engine.protocol import Device
from memwb.engine.technique import (
    OTHER_MODEL,
    OTHER_NUMBERS,
    OTHER_ROWS,
    OTHER_STEPS,
    Technique,
    group_of,
    techniques,
)
from memwb.engine.toggles import Toggle, changes

MOST = 6
"""More than these are a list, not advice."""
MOST_OF_GROUP = 2
"""So many of a group of which only one can be on."""

WORDS = {"optimizer": "the optimizer's states", "temporary": "temporary tensors"}
"""Categories whose names alone make no sentence."""

_OF_THE_BATCH = ("activations", "temporary")
_FARTHER = (OTHER_NUMBERS, OTHER_STEPS, OTHER_ROWS, OTHER_MODEL)


class Setting(NamedTuple):
    """What ran: the plan, its model's config.json as far as it is known, and on what."""

    plan: Plan
    config: Mapping[str, Any] | None
    device: Device


def advice(setting: Setting, category: str) -> str:
    """What to do when memory ran out and most of it was of that category, in a sentence or two.

    Each edit stands there as ``-o`` takes it.
    """
    known = techniques()
    helps = [f"{known[one.technique].title} {_edits(one)}" for one in savers(setting, category)]
    text = f"Most of it was {WORDS.get(category, category)}. "
    if helps:
        *some, last = helps
        named = f"{', '.join(some)} or {last}" if some else last
        text += f"Turn on {named}. "
    return text + _smaller(setting.plan, category)


def savers(setting: Setting, category: str) -> list[Toggle]:
    """Techniques that are off, make that category smaller and fit the plan, on that device.

    Those come first that change the losses least. None takes the place of one that does the same
    already, or changes the workload.
    """
    plan, config, device = setting
    known = techniques()
    found = []
    for change in changes(plan, config, device):
        technique = known[change.technique]
        if not change.on or change.plan is None or category not in technique.shrinks:
            continue
        if change.technique in active(plan) or (device.kind == "cpu" and technique.to_host):
            continue
        lost = active(plan).keys() - active(change.plan).keys()
        if any(category in known[name].shrinks for name in lost):
            continue
        if change.plan.workload == plan.workload:
            found.append(change)
    found.sort(key=lambda change: _distance(plan, change))
    return _few(found)


def _few(found: list[Toggle]) -> list[Toggle]:
    few: list[Toggle] = []
    for change in found:
        group = group_of(techniques()[change.technique].group)
        same = [one for one in few if techniques()[one.technique].group == group.name]
        if len(few) < MOST and not (group.exclusive and len(same) == MOST_OF_GROUP):
            few.append(change)
    return few


def _distance(plan: Plan, change: Toggle) -> tuple[int, float]:
    """How far the losses may go from the plan's own: by all that comes on with the technique."""
    assert change.plan is not None
    new = active(change.plan).keys() - active(plan).keys()
    return max(_own_distance(techniques()[name]) for name in new)


def _own_distance(technique: Technique) -> tuple[int, float]:
    if technique.exact:
        return 0, 0.0
    if technique.tolerance is not None:
        return 0, technique.tolerance
    return 1 + _FARTHER.index(group_of(technique.group).instead), 0.0


def _edits(change: Toggle) -> str:
    return f"({' '.join(f'-o {edit}' for edit in change.overrides)})"


def _smaller(plan: Plan, category: str) -> str:
    """What of the plan itself can be smaller."""
    work = plan.workload
    if category not in _OF_THE_BATCH:
        return "Or take a smaller model: this much is needed whatever the batch."
    if work.batch_size == 1:
        return "Or take a smaller sequence_length."
    size = next(size for size in range(work.batch_size // 2, 0, -1) if not work.batch_size % size)
    times = work.gradient_accumulation * work.batch_size // size
    edits = (f"batch_size={size}", f"gradient_accumulation={times}")
    try:
        smaller = override(override(plan, edits[0]), edits[1])
    except MemwbError:
        smaller = None  # past what can be accumulated
    if smaller is None or problems(smaller):
        return "Or take a smaller batch_size or sequence_length."
    how = " ".join(f"-o {edit}" for edit in edits)
    return (
        f"Or take a smaller sequence_length, or batch_size {size} accumulated {times} times, "
        f"which trains the same ({how})."
    )
