"""What memwb starts with and what it may do: the rows, what a value means, and what it may be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from memwb.engine.errors import nearest
from memwb.workbench.panels.rows import Row
from memwb.workbench.settings import Settings

NAME = 20
VALUE = 22


class Default(NamedTuple):
    """One setting: its name, what it means, and the values it can have; none: it is typed."""

    name: str
    about: str
    choices: tuple[str | bool, ...] = ()
    warning: str = ""
    """Told, and asked about once, before it is allowed."""


DEFAULTS = (
    Default("preset", "The preset that a first start opens with."),
    Default("model", "The model of a first start, in the place of the preset's; empty: that one."),
    Default(
        "device",
        "Where bursts run: auto takes the GPU where there is one.",
        ("auto", "cpu", "cuda"),
    ),
    Default("target", "What plans are predicted for, as `memwb gpus` names it; empty: here."),
    Default(
        "allow_pickle",
        "Load weights that are pickled (.bin), where there are no safetensors.",
        (False, True),
        "A pickle is a program: loading one can run anything, with all your rights. Allow it only "
        "for files whose author you trust.",
    ),
    Default(
        "trust_remote_code",
        "Run the Python code that a model brings with it.",
        (False, True),
        "A model's own code runs with all your rights, as soon as the model is loaded or "
        "predicted. Allow it only for models whose author you trust.",
    ),
)


def rows(settings: Settings) -> list[Row]:
    """A line for each: its name, its value, what it means."""
    found = []
    for each in DEFAULTS:
        value = getattr(settings, each.name)
        changed = value != getattr(Settings(), each.name)
        risky = bool(each.warning) and value is True
        found.append(
            Row(
                each.name,
                (
                    (" ✎ " if changed else "   ", "value"),
                    (f"{each.name.replace('_', ' '):<{NAME}}", "accent"),
                    (f"{shown(value):<{VALUE}} ", "error" if risky else "value"),
                    (each.about, "muted"),
                ),
            )
        )
    return found


def shown(value: str | bool) -> str:
    """A value as a row has it."""
    if isinstance(value, bool):
        return "allowed" if value else "not allowed"
    return value or "–"


def default_of(name: str) -> Default:
    """The setting of a name."""
    return next(each for each in DEFAULTS if each.name == name)


def following(default: Default, value: str | bool) -> str | bool:
    """The choice after a value."""
    at = default.choices.index(value) if value in default.choices else -1
    return default.choices[(at + 1) % len(default.choices)]


def wrong(name: str, value: str, known: Mapping[str, tuple[str, ...]]) -> str:
    """Why a typed value cannot be; empty if it can. ``known`` has the names there are."""
    if not value:
        return "Give the name of a preset." if name == "preset" else ""
    if value in known[name]:
        return ""
    if name == "model" and (os.path.isdir(os.path.expanduser(value)) or value.count("/") == 1):
        return ""
    what = {"preset": "preset", "model": "model, folder or hub id", "target": "GPU"}[name]
    hint = nearest(value, known[name])
    return f"There is no such {what}" + (f"; {hint}" if hint else ".")
