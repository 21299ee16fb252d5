"""The user's settings file, and the session kept between two starts."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine import paths
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.mistakes import explain_mistake
from memwb.engine.plan import Plan, plan_data, plan_from
from memwb.workbench.commands import COMMANDS, keys_of
from memwb.workbench.state import Session

FIXED_KEYS = {"escape": "back", "tab": "next panel", "shift+tab": "previous panel"}
"""Keys that no keymap gives away."""
EVERYWHERE = ("plan", "memory", "loss", "peak", "runs")
"""The panels in which a command acts that names none."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may set. ``keymap`` maps a command's id to its keys."""

    theme: str = ""
    preset: str = "tiny-demo"
    """The preset a first start opens with."""
    model: str = ""
    """The model a first start opens with, in place of the preset's own."""
    device: str = "auto"
    """auto, cpu or cuda."""
    target: str = ""
    """The GPU that plans are predicted for, as ``memwb gpus`` names it; empty: this machine."""
    allow_pickle: bool = False
    """Load pickled weights, which can run any code."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model."""
    keymap: dict[str, str] = {}


def read_settings() -> Settings:
    """The settings; those of a missing file are the defaults. Raises MemwbError on a bad one."""
    path = paths.settings_file()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(data, Settings)
    except FileNotFoundError:
        return Settings()
    except msgspec.ValidationError as error:
        what, fix = explain_mistake(str(error), Settings, "$")
        raise MemwbError("The settings file cannot be used", f"{path}: {what}", fix) from None
    except (OSError, ValueError) as error:
        raise MemwbError(
            "The settings file cannot be used", f"{path}: {error}", "Mend or remove it."
        ) from None


def doubts(settings: Settings, themes: Collection[str]) -> list[str]:
    """What of the settings cannot act: a theme or a command that there is not, a key given twice.

    ``themes`` are those that there are.
    """
    found = []
    if settings.theme and settings.theme not in themes:
        hint = nearest(settings.theme, themes)
        found.append(f"theme: there is no {settings.theme!r}; {hint}".removesuffix("; "))
    known = [command.id for command in COMMANDS]
    for name in settings.keymap:
        if name not in known:
            hint = nearest(name, known)
            found.append(f"keymap: there is no command {name!r}; {hint}".removesuffix("; "))
    for key, first, second in clashes(settings.keymap):
        found.append(f"keymap: {key!r} is given to {first} and to {second}")
    return found


def clashes(keymap: dict[str, str]) -> list[tuple[str, str, str]]:
    """Keys that are given twice: the key, who has it first, and the command that wants it too."""
    found = []
    taken: dict[tuple[str, str], str] = {}
    for key, name in FIXED_KEYS.items():
        taken |= {(key, panel): name for panel in EVERYWHERE}
    for command in COMMANDS:
        for key in filter(None, map(str.strip, keys_of(command, keymap).split(","))):
            # What acts in one panel alone may have the key of what acts in another alone.
            places = [(key, panel) for panel in command.where or EVERYWHERE]
            if (other := next((taken[at] for at in places if at in taken), "")) != "":
                found.append((key, other, command.id))
            taken |= {at: taken.get(at, command.id) for at in places}
    return found


def save_setting(key: str, value: str | bool | None) -> None:
    """Change one value of the settings file and leave the rest of its text as it is.

    A dotted key is that of a value in a table, as ``keymap.undo``; without a value it goes from
    the file. Raises MemwbError if the file cannot be read or written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = paths.settings_file()
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        document = tomlkit.parse(text)
        *tables, name = key.split(".")
        place: Any = document
        for table in tables:
            if table not in place:
                place[table] = tomlkit.table()
            place = place[table]
        if value is not None:
            place[name] = value
        elif name in place:
            del place[name]
        write_atomically(path, tomlkit.dumps(document).encode())
    except (TOMLKitError, OSError, ValueError, TypeError) as error:
        raise MemwbError(
            f"The {key} cannot be kept",
            f"{path}: {getattr(error, 'strerror', None) or error}",
            "Mend or remove the file, or make its folder writable.",
        ) from None


def session_file() -> Path:
    """Where the session is kept between two starts."""
    return paths.home() / "session.json"


def read_session() -> Session | None:
    """The last session; None when there was none or its file has no usable plan."""
    try:
        data = msgspec.json.decode(session_file().read_bytes())
        return _session(data)
    except (OSError, msgspec.DecodeError, MemwbError, KeyError, TypeError, ValueError):
        # A session from another version must never keep the workbench from starting.
        return None


def save_session(session: Session) -> None:
    """Keep the session; a crash in the middle leaves the one before."""
    data = msgspec.to_builtins(session)
    data["plan"] = plan_data(session.plan)
    data["base"] = plan_data(session.base) if session.base is not None else None
    data["undo"] = [plan_data(plan) for plan in session.undo]
    data["redo"] = [plan_data(plan) for plan in session.redo]
    write_atomically(session_file(), msgspec.json.encode(data))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one move: another reader sees the old or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _session(data: dict[str, Any]) -> Session:
    plan = plan_from(data.pop("plan"), "the last session")
    base = data.pop("base", None)
    undo = _plans(data.pop("undo", []))
    redo = _plans(data.pop("redo", []))
    rest = msgspec.convert({**data, "plan": {"model": plan.model}}, Session)
    began = _plans([base] if base else [])
    return msgspec.structs.replace(
        rest, plan=plan, base=began[0] if began else None, undo=undo, redo=redo
    )


def _plans(items: list[Any]) -> tuple[Plan, ...]:
    return tuple(plan_from(item, "the last session") for item in items)
