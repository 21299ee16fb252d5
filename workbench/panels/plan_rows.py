"""The plan as rows: model, workload and the techniques in their groups, with what is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from memwb.engine.plan import Plan, Problem, Workload, active, problems
from memwb.engine.protocol import Device
from memwb.engine.technique import (
    GROUPS,
    Parameter,
    Technique,
    closed,
    parameters_of,
    techniques,
    unavailable,
)
from memwb.workbench.commands import key_for
from memwb.workbench.panels.rows import SAID, Row, Spans
from memwb.workbench.units import name

LABEL = 24
"""Columns a label takes, so that the values stand under each other."""

BESIDE = 4
"""Columns that a technique which cannot run here leaves at the right of its row."""

NOTHING = Row("", (("  nothing matches", "muted"),), (), False)
"""What a filter that leaves no row says."""

ON, OFF, DEFAULT, ABSENT = "●", "○", "◐", "·"


def plan_rows(
    plan: Plan,
    keymap: dict[str, str],
    folded: Iterable[str] = (),
    wanted: str = "",
    width: int = 44,
    facts: str = "",
    device: Device | None = None,
    config: Mapping[str, Any] | None = None,
    at: str = "",
) -> list[Row]:
    """Every row of the plan; ``wanted`` keeps those that contain it, ``facts`` is the model's.

    With the device and the model's config, once they are known, also what does not fit them: in
    one line, but whole at the row ``at``.
    """
    shut = () if wanted else tuple(folded)
    rows = _section("model", "Model", _model_rows(plan, facts, width), shut, plan.model)
    rows += _section("workload", "Workload", _workload_rows(plan), shut, _summary(plan))
    found = problems(plan, config, device)
    acting = active(plan)
    for group in GROUPS:
        members = [item for item in techniques().values() if item.group == group.name]
        inside = []
        for item in members:
            mine = [problem for problem in found if problem.technique == item.name]
            acts = item.name in acting
            inside += technique_rows(item, plan, keymap, acts, mine, width, device, at)
        on = ", ".join(item.title for item in members if item.name in acting)
        bad = any(problem.technique == item.name for item in members for problem in found)
        rows += _section(group.name, group.title, inside, shut, on, bad)
    return (_filtered(rows, wanted) or [NOTHING]) if wanted else rows


def technique_rows(
    technique: Technique,
    plan: Plan,
    keymap: dict[str, str],
    acting: bool,
    found: list[Problem],
    width: int,
    device: Device | None = None,
    at: str = "",
) -> list[Row]:
    """A technique's own row, its parameters when it is on, and its problems."""
    chosen = technique.name in plan.techniques
    missing = unavailable(technique, plan.techniques.get(technique.name), device)
    row = f"technique:{technique.name}"
    told = any(problem.here for problem in found)
    note = f"not here: {missing}" if missing and not told else ""
    if chosen:
        style = "error" if found or missing else "on"
        left: Spans = ((f"  {ON} ", style), (technique.title, "plain"))
    elif acting:
        left = ((f"  {DEFAULT} ", "on"), (technique.title, "plain"), ("  default", "muted"))
    elif missing:
        left = ((f"  {ABSENT} {technique.title}", "muted"),)
        room = width - len(left[0][0]) - BESIDE
        if at != row or len(missing) + 2 <= room:
            left, note = (*left, (f"  {missing}", "muted")), ""
    else:
        left = ((f"  {OFF} ", "muted"), (technique.title, "off"))
    rows = [Row(row, left)]
    if note:
        rows += _wrapped(row, note, "muted" if not chosen else "error", width)
    for problem in found:
        rows += _wrapped(row, problem.reason, "error", width)
        rows += _wrapped(row, f"{key_for('fix', keymap)}  {problem.fix}", "warning", width)
    if chosen:
        values = plan.techniques[technique.name]
        rows += [
            _value_row(
                f"techniques.{technique.name}.{item.name}",
                item.name,
                getattr(values, item.name),
                indent=6,
            )
            for item in parameters_of(technique)
        ]
    return rows


def absent(row: Row | None) -> bool:
    """Whether a row is that of a technique which cannot run here."""
    return row is not None and row.left[0][0].startswith(f"  {ABSENT} ")


def field(path: str) -> Parameter | None:
    """The parameter behind an editable path of the plan, with its choices and description."""
    first, _, last = path.rpartition(".")
    if first.startswith("techniques."):
        found = parameters_of(techniques()[first.removeprefix("techniques.")])
    else:
        struct = Workload if first == "workload" else Plan
        found = _fields(struct)
    return next((item for item in found if item.name == last), None)


def closed_choices(plan: Plan, path: str, device: Device | None) -> dict[Any, str]:
    """The choices behind a path that cannot run on the device, with the reason of each."""
    first, _, name = path.rpartition(".")[0].partition(".")
    known = field(path)
    if first != "techniques" or known is None:
        return {}
    return closed(techniques()[name], known, plan.techniques.get(name), device)


def value_at(plan: Plan, path: str) -> Any:
    """The value a path of the plan holds, or the default it would have."""
    parts = path.split(".")
    if parts[0] == "techniques":
        _, technique, key = parts
        values = plan.techniques.get(technique) or techniques()[technique].params()
        return getattr(values, key)
    value: Any = plan
    for part in parts:
        value = getattr(value, part)
    return value


def text_of(value: Any) -> str:
    """A value as it is typed: TOML without the quotes of a plain string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return (
            "["
            + ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            + "]"
        )
    return str(value)


def _model_rows(plan: Plan, facts: str, width: int) -> list[Row]:
    model = name(plan.model, max(8, width - LABEL))
    rows = [Row("model", (("  ", "plain"), (_padded("name", 2), "muted"), (model, "accent")))]
    if facts:
        rows.append(Row("note:model", ((" " * LABEL, "muted"), (facts, "muted")), (), False))
    return [*rows, _value_row("weights", "weights", plan.weights, indent=2)]


def _workload_rows(plan: Plan) -> list[Row]:
    work = plan.workload
    keys = [
        key
        for key in work.__struct_fields__
        if key != "text_field" or work.data.lower().endswith((".jsonl", ".parquet"))
    ]
    return [
        _value_row(f"workload.{key}", key.replace("_", " "), getattr(work, key), indent=2)
        for key in keys
    ]


def _summary(plan: Plan) -> str:
    work = plan.workload
    return f"{work.batch_size} × {work.sequence_length} · {work.steps} steps"


def _section(
    group: str,
    title: str,
    inside: list[Row],
    shut: tuple[str, ...],
    brief: str,
    bad: bool = False,
) -> list[Row]:
    if group in shut:
        told = (f"  ✗ {brief}", "error") if bad else (f"  {brief}", "muted")
        return [Row(f"group:{group}", ((f"▸ {title}", "group"), told))]
    return [Row(f"group:{group}", ((f"▾ {title}", "group"),)), *inside]


def _value_row(path: str, label: str, value: Any, indent: int) -> Row:
    left = ((" " * indent, "plain"), (_padded(label, indent), "muted"), (text_of(value), "value"))
    return Row(f"value:{path}", left)


def _padded(label: str, indent: int) -> str:
    return label.ljust(LABEL - indent - 1)[: LABEL - indent - 1] + " "


def _wrapped(row: str, text: str, style: str, width: int) -> list[Row]:
    return [Row(f"note:{row}", ((line, style),), (), False) for line in _lines(text, width)]


def said(text: str, style: str, width: int, most: int) -> list[Row]:
    """What is said of the value that is edited, in at most so many lines below it."""
    lines = _lines(text, width) if text else []
    if 0 < most < len(lines):
        lines[most - 1] = f"{lines[most - 1][: width - 1]}…"
    return [Row(SAID, ((line, style),), (), False) for line in lines[:most]]


def _lines(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, max(16, width - 6), subsequent_indent="  ") or [text]
    return ["      " + line for line in lines]


def best(rows: Sequence[Row], wanted: str) -> str:
    """The id of the row a filter means: one whose name begins with it, or else contains it."""
    shown = ["".join(text for text, _ in row.left).lstrip(" ●○◐▾▸").lower() for row in rows]
    for is_meant in (str.startswith, str.__contains__):
        for text, row in zip(shown, rows, strict=True):
            if not row.selectable or row.id.startswith("group:"):
                continue
            if is_meant(text, wanted.lower()):
                return row.id
    return ""


def above(row: str) -> tuple[str, ...]:
    """The ids of the rows that a row belongs to, the nearest first."""
    kind, _, rest = row.partition(":")
    if kind == "group":
        return ()
    if kind == "model" or rest == "weights":
        return ("group:model",)
    if rest.startswith("workload."):
        return ("group:workload",)
    name = rest.split(".")[1] if rest.startswith("techniques.") else rest
    if name not in techniques():
        return ()
    return (f"technique:{name}", f"group:{techniques()[name].group}")


def block(rows: Sequence[Row], at: int) -> tuple[int, int]:
    """The first and the last row of what the row there belongs to, a group's name included.

    A technique with its notes and parameters, or a whole group.
    """
    if at >= len(rows):
        return at, at
    mine = _part(rows[at])
    first = last = at
    is_group = mine.startswith("group:")
    while last + 1 < len(rows):
        other = _part(rows[last + 1])
        if other != mine and (not is_group or other.startswith("group:")):
            break
        last += 1
    while not is_group and first and _part(rows[first - 1]) == mine:
        first -= 1
    with_name = first > 0 and rows[first - 1].id.startswith("group:")
    return first - with_name, last


def _title(row: Row) -> str:
    return "".join(piece for piece, _ in row.left).lstrip(" ▾▸")


def _part(row: Row) -> str:
    part = row.id.removeprefix("note:")
    return above(part)[0] if part.startswith("value:techniques.") else part


def _filtered(rows: Sequence[Row], wanted: str) -> list[Row]:
    """The rows that contain the text, in what is seen of them or in their name in a plan.

    Each with its notes, its group and its technique; with a technique come its parameters, with
    a group's title all of it.
    """
    kept: list[Row] = []
    heads: list[Row] = []  # the group and the technique that are not shown yet
    whole = mine = keep = False
    for row in rows:
        kind, _, rest = row.id.partition(":")
        parameter = rest.startswith("techniques.")
        if row.selectable:
            # Why something cannot run here is told in its row only while the cursor is elsewhere.
            seen = row.left[:1] if absent(row) else row.left
            text = "".join(piece for piece, _ in seen) + " "
            text += "" if kind == "group" else rest.rpartition(".")[2]
            keep = wanted.lower() in text.lower()
        if kind == "group":
            # Nothing is folded while a filter shows what it found.
            heads = [msgspec.structs.replace(row, selectable=False)]
            whole = wanted.lower() in _title(row).lower()
            continue
        if kind == "technique":
            heads, mine = [each for each in heads if each.id.startswith("group:")], keep
        if keep or whole or (parameter and mine):
            kept += [*heads, row]
            heads = []
        elif kind == "technique":
            heads.append(row)
    return kept


def _fields(struct: type[msgspec.Struct]) -> tuple[Parameter, ...]:
    holder = Technique(
        name="", title="", group="", saves="", costs="", not_when="", source="", params=struct
    )
    return parameters_of(holder)
