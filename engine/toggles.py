"""What each toggle would make of a plan: the plans whose predictions stand beside the toggles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from memwb.engine.plan import Plan, Problem, override, problems, toggle
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques

MOST_MENDS = 12
"""More edits than this in a row would be two mends that undo each other."""


class Toggle(NamedTuple):
    """One technique switched, and the plan that this makes."""

    technique: str
    on: bool
    overrides: tuple[str, ...]
    """The edits in order, as ``-o`` takes them: the toggle, then what it needs or excludes."""
    plan: Plan | None
    """Without problems; None where there is no such plan."""
    reason: str = ""
    """Why not, where there is none."""


def changes(
    plan: Plan, config: Mapping[str, Any] | None = None, device: Device | None = None
) -> Iterator[Toggle]:
    """Every technique switched as the workbench's key does it, the plan's own first.

    What then stands in the way is mended as the workbench mends it, unless that would undo the
    toggle. ``config`` is the model's; ``device`` what the plan is to run on, None where that is
    another machine's: what is not installed here is then no obstacle.
    """
    known = techniques()
    for name in sorted(known, key=lambda name: name not in plan.techniques):
        yield _toggled(plan, name, config, device)


def _toggled(
    plan: Plan, name: str, config: Mapping[str, Any] | None, device: Device | None
) -> Toggle:
    on = name not in plan.techniques
    edits = [f"{name}={'on' if on else 'off'}"]
    made = toggle(plan, name, on)
    why = ""
    for _ in range(MOST_MENDS):
        found = problems(made, config, device)
        if not found:
            return Toggle(name, on, tuple(edits), made)
        problem = min(found, key=lambda each: each.technique != name)
        why = why or problem.reason
        edit = _mend(problem, name, on)
        if edit in edits:
            break
        edits.append(edit)
        made = override(made, edit)
        if (name in made.techniques) != on:
            why = problem.reason
            break
    return Toggle(name, on, (edits[0],), None, why)


def _mend(problem: Problem, name: str, on: bool) -> str:
    """The edit that mends the problem without undoing the toggle, where there is one."""
    if not on and problem.override == f"{name}=on" and problem.technique in techniques():
        # It needs what was just switched off.
        return f"{problem.technique}=off"
    return problem.override
