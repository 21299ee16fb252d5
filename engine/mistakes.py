"""A value of the wrong kind in a plan, told with its path, the reason and the nearest name."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from memwb.engine.errors import nearest


def explain_mistake(message: str, kind: type[Any], path: str) -> tuple[str, str]:
    """msgspec's message as ``path: reason`` and a hint at the nearest name or the range."""
    reason, _, inner = message.partition(" - at `$")
    where = path + inner.rstrip("`")
    unknown = re.search(r"unknown field `(.*)`", reason, re.DOTALL)
    if unknown:
        at = _struct_at(kind, inner.rstrip("`"))
        names = at.__struct_fields__
        known = f"Known here: {', '.join(names)}." if names else "It has no parameters."
        return (
            f"{where}.{unknown[1]}: there is no such key",
            f"{nearest(unknown[1], names)} {known}".strip(),
        )
    enum = re.search(r"[Ii]nvalid enum value '?(.*?)'?$", reason, re.DOTALL)
    choices = _choices(kind, inner.rstrip("`")) if enum else ()
    if enum and choices:
        known = f"{enum[1]!r} is none of {' | '.join(choices)}"
        hint = nearest(enum[1], choices)
        if _takes_list(kind, inner.rstrip("`")):
            known += f', nor a list of names such as ["{enum[1]}"]'
        return f"{where}: {known}; {hint}".removesuffix("; "), "Give one of these values."
    reason = reason[0].lower() + reason[1:].replace("`", "")
    return f"{where}: {reason.replace('>=', '≥').replace('<=', '≤')}", "Give a value of that kind."


def _struct_at(kind: type[Any], inner: str) -> type[msgspec.Struct]:
    for part in inner.strip(".").split("."):
        hints = {field.name: field.type for field in msgspec.structs.fields(kind)}
        if part in hints and isinstance(hints[part], type):
            kind = hints[part]
    return kind


def _takes_list(kind: type[Any], inner: str) -> bool:
    """Whether the value at this path may also be a list."""
    name = inner.rpartition(".")[2]
    hints = {f.name: f.type for f in msgspec.structs.fields(_struct_at(kind, inner))}
    return "tuple[" in str(hints.get(name, ""))


def _choices(kind: type[Any], inner: str) -> tuple[str, ...]:
    """The values that a choice at this path can have; none if it is no plain choice."""
    name = inner.rpartition(".")[2]
    info = msgspec.inspect.type_info(_struct_at(kind, inner))
    assert isinstance(info, msgspec.inspect.StructType)
    kinds: list[Any] = [field.type for field in info.fields if field.name == name]
    if kinds and isinstance(kinds[0], msgspec.inspect.Metadata):
        kinds = [kinds[0].type]
    kinds = [one for each in kinds for one in getattr(each, "types", (each,))]
    return tuple(str(value) for one in kinds for value in getattr(one, "values", ()))
