"""A value of the plan that is edited: what may be typed, what is wrong, what comes next."""

from __future__ import annotations

from typing import Any

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Device
from memwb.workbench.panels import plan_rows, texts


def wrong(plan: Plan, path: str, text: str) -> str:
    """What is wrong with a text as the value of a path, in words; empty if nothing is."""
    try:
        override(plan, f"{path}={text}")
    except MemwbError as error:
        _, _, reason = error.what.partition(": ")
        return texts.expected(plan_rows.field(path), reason or error.what)
    return ""


def hint(plan: Plan, path: str, device: Device | None) -> str:
    """What a value is and what may be typed for it; the usual one where it is another."""
    field = plan_rows.field(path)
    if field is None:
        return ""
    closed = plan_rows.closed_choices(plan, path, device)
    choices = [
        f"{choice} (not here)" if choice in closed else str(choice) for choice in field.choices
    ]
    known = " | ".join(choices) or field.type
    usual = field.default
    other = usual is not None and usual != plan_rows.value_at(plan, path)
    told = f"usually {plan_rows.text_of(usual)}" if other else ""
    parts = (field.description, known, told)
    return " · ".join(part for part in parts if part)


def following(plan: Plan, path: str, device: Device | None) -> Any | None:
    """The next choice of a value; what cannot run here is passed over. None where it is typed."""
    field, value = plan_rows.field(path), plan_rows.value_at(plan, path)
    choices = (False, True) if isinstance(value, bool) else field.choices if field else ()
    if value not in choices:
        return None
    closed = plan_rows.closed_choices(plan, path, device)
    at = choices.index(value) + 1
    return next(choice for choice in (*choices[at:], *choices[:at]) if choice not in closed)
