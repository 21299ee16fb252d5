"""Edits of a plan beyond a single value: reset, and what two plans differ by, in words."""

from __future__ import annotations

from msgspec.structs import replace

from memwb.engine.plan import Plan, Workload, override, toggle
from memwb.engine.technique import techniques
from memwb.workbench.comparing import value_text, values_of
from memwb.workbench.panels import plan_rows


def reset(plan: Plan, row: str) -> Plan:
    """The plan with what a row stands for as it usually is; the plan itself where it is so.

    A value gets its default, a technique those of its parameters; of a group of techniques none
    is on any more.
    """
    kind, _, rest = row.partition(":")
    if row == "group:workload":
        return replace(plan, workload=Workload())
    if row == "group:model":
        return replace(plan, weights="auto")
    if kind == "group":
        members = [name for name in plan.techniques if techniques()[name].group == rest]
        for name in members:
            plan = toggle(plan, name, False)
        return plan
    if kind == "technique" and rest in plan.techniques:
        return replace(plan, techniques=plan.techniques | {rest: techniques()[rest].params()})
    field = plan_rows.field(rest) if kind == "value" else None
    if field is None or field.default is None:
        return plan
    return override(plan, f"{rest}={plan_rows.text_of(field.default)}")


def differing(before: Plan, after: Plan) -> list[str]:
    """The paths of what differs between two plans: a technique that comes or goes is one."""
    one, other = values_of(before), values_of(after)
    paths = [path for path in {**one, **other} if one.get(path) != other.get(path)]
    found = [_whole(path, before, after) for path in paths]
    return list(dict.fromkeys(found))


def row_of(path: str) -> str:
    """The row of the plan that a differing path is seen at."""
    name = path.removeprefix("techniques.")
    if path == "model":
        return path
    return f"technique:{name}" if name in techniques() and name != path else f"value:{path}"


def told(before: Plan, after: Plan) -> str:
    """What differs, as a person would say it: the first of it, and how much more there is."""
    paths = differing(before, after)
    if not paths:
        return "nothing has changed"
    path = paths[0]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    name = path.removeprefix("techniques.")
    if row_of(path).startswith("technique:"):
        return f"{techniques()[name].title} {'on' if name in after.techniques else 'off'}{more}"
    label = name.rpartition(".")[2].replace("_", " ")
    now, then = values_of(after).get(path), values_of(before).get(path)
    return f"{label} {value_text(then)} → {value_text(now)}{more}"


def _whole(path: str, before: Plan, after: Plan) -> str:
    """The technique alone where it is in one of the plans only."""
    head, _, rest = path.partition(".")
    name = rest.partition(".")[0]
    once = (name in before.techniques) != (name in after.techniques)
    return f"techniques.{name}" if head == "techniques" and once else path
