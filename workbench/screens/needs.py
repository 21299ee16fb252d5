"""What a model needs in its typical plans, as lines with bars: pure functions of the answers."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from memwb.engine.prediction import Prediction
from memwb.engine.protocol import Device
from memwb.workbench.aside import Answer
from memwb.workbench.panels.forecast import LOOKS, MARKS, MUTED, OLD
from memwb.workbench.panels.rows import Spans
from memwb.workbench.typical import TYPICAL, Need, need_of
from memwb.workbench.units import gib

NAME = 14
TOLD = 54
"""Columns of a line before its bar."""
LONGEST = 60
STYLES = {"fits": "on", "tight": "warning", "exceeds": "error"}
"""Verdicts as rows are styled."""


def marks(answers: Mapping[str, Answer], device: Device | None) -> Spans:
    """Four marks at the right edge of a model's row: one a plan, a dot where it is not known."""
    found: list[tuple[str, str]] = []
    for name in TYPICAL:
        need = _need(answers.get(name), device)
        if need is None or need.room is None:
            found.append(("?" if name in answers else "·", "old"))
        else:
            found.append((MARKS[need.room.verdict], STYLES[need.room.verdict]))
    return (("  ", "plain"), *found, ("  ", "plain"))


def lines(
    answers: Mapping[str, Answer], device: Device | None, width: int, waiting: str
) -> list[Content]:
    """A line for each plan: bytes, verdict, what is free, and a bar up to the capacity.

    ``waiting`` is said once, at the first that is not known; the others have dots.
    """
    needs = {name: _need(answers.get(name), device) for name in TYPICAL}
    whole = max((_whole(need) for need in needs.values() if need is not None), default=1)
    room = min(LONGEST, width - TOLD - 2)
    found = []
    for name, need in needs.items():
        label = (f"  {name:<{NAME}}", "")
        if name not in answers:
            found.append(Content.assemble(label, (f"{'…':>9}  {waiting}", OLD)))
            waiting = ""
            continue
        if need is None:
            why = _why(answers[name])
            line = Content.assemble(label, (f"{'?':>9}  {why}", MUTED))
            found.append(line.truncate(max(20, width), ellipsis=True))
            continue
        parts: list[tuple[str, str] | Content] = [label, (f"{gib(need.allocated):>9}  ", "bold")]
        if need.room is not None:
            free = need.room.free
            told = f"{gib(free)} free" if free >= 0 else f"{gib(-free)} short"
            look = LOOKS[need.room.verdict]
            parts.append((f"{MARKS[need.room.verdict]} {need.room.verdict:<8}", f"bold {look}"))
            parts.append((f"{told:<{TOLD - NAME - 23}}", MUTED))
            if room >= 8:
                parts.append(bar(need, whole, room))
        found.append(Content.assemble(*parts))
    return found


def capacity(answers: Mapping[str, Answer], device: Device | None) -> int | None:
    """What there is, as far as any answer tells."""
    found = (_need(answer, device) for answer in answers.values())
    return next((need.room.capacity for need in found if need and need.room), None)


def bar(need: Need, whole: int, width: int) -> Content:
    """What is needed as a line, with the capacity as a mark on it; ``whole`` bytes are all of it.

    What lies beyond the capacity is drawn thinner, so that it is told without colours too.
    """
    assert need.room is not None
    used, capacity = need.room.capacity - need.room.free, need.room.capacity
    edge = min(width - 1, round(capacity / whole * (width - 1)))
    filled = round(used / whole * (width - 1))
    inside = min(filled, edge)
    look = LOOKS[need.room.verdict]
    return Content.assemble(
        ("━" * inside, look),
        ("─" * (edge - inside), "$foreground 25%"),
        ("┃", "$foreground 70%"),
        ("╍" * max(0, filled - edge), look),
    )


def _whole(need: Need) -> int:
    return max(need.room.capacity, need.room.capacity - need.room.free) if need.room else 1


def _need(answer: Answer | None, device: Device | None) -> Need | None:
    return need_of(answer, device) if isinstance(answer, Prediction) else None


def _why(answer: Answer) -> str:
    return "" if isinstance(answer, Prediction) else answer.what or answer.title
