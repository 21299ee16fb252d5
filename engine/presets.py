"""Presets: plans with a name and comments, packaged ones and the user's own."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from memwb.engine import paths
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.plan import Plan, check, override, plan_toml, read_plan
from memwb.engine.technique import group_of, techniques

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


def presets() -> dict[str, Path]:
    """The file of every preset by name, sorted; a user's preset hides a packaged one."""
    found = {
        file.stem: file
        for folder in (_packaged_folder(), paths.presets_folder())
        # Unlike Path's own, os.path's do not raise where one may not look.
        if os.path.isdir(folder)
        for file in folder.glob("*.toml")
        if os.path.isfile(file)
    }
    return dict(sorted(found.items()))


def load_plan(name_or_path: str, overrides: Sequence[str] = ()) -> Plan:
    """The checked plan of a preset or a TOML file, with ``KEY=VALUE`` overrides applied in turn.

    A preset's name goes before a file of the same name; write ``./NAME`` for the file. Raises
    MemwbError for an unknown preset, a missing file, a wrong value or a conflict.
    """
    return check(overridden(read_plan(_find(name_or_path)), overrides))


def load_shipped(name: str) -> Plan:
    """The plan of a packaged preset, whatever preset of that name a user has."""
    return read_plan(_packaged_folder() / f"{name}.toml")


def overridden(plan: Plan, overrides: Sequence[str]) -> Plan:
    """The plan with ``KEY=VALUE`` overrides applied in turn, not checked.

    Raises MemwbError for a wrong one, and when one would silently switch off what another one
    switched on.
    """
    asked: list[str] = []
    for text in overrides:
        before, plan = plan, override(plan, text)
        key, _, value = (part.strip() for part in text.partition("="))
        lost = [name for name in asked if name in before.techniques and name != key]
        lost = [name for name in lost if name not in plan.techniques]
        if lost:
            group = group_of(techniques()[key].group).title
            raise MemwbError(
                "Two overrides exclude each other",
                f"-o {lost[0]}=on and -o {key}=on: only one of {group} can act",
                "Give one of them.",
            )
        asked += [key] if value == "on" else []
    return plan


def save_preset(name: str, plan: Plan) -> Path:
    """Write the plan among the user's presets and return its file.

    The comments of a preset that had this name are kept, of a packaged one too; the packaged
    file itself is never touched. Raises MemwbError for a name that cannot be a file's.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith(".toml"):
        raise MemwbError(
            f"{name!r} cannot be a preset's name",
            "a preset's name is made of letters, digits and . _ + -, without .toml",
            "For example my-lora.",
        )
    file = paths.presets_folder() / f"{name}.toml"
    known = presets().get(name)
    text = _with_comments(plan, known) if known else plan_toml(plan)
    try:
        _replace(file, text)
    except OSError as error:
        raise MemwbError(
            f"The preset {name!r} was not saved",
            f"{file}: {error.strerror}",
            "Make the folder writable, or set MEMWB_HOME to another one.",
        ) from None
    return file


def is_own(name: str) -> bool:
    """Whether a preset of that name is the user's, perhaps in the place of a packaged one."""
    return os.path.isfile(paths.presets_folder() / f"{name}.toml")


def delete_preset(name: str) -> None:
    """Delete one of the user's presets; a packaged one of that name is to be had again.

    Raises MemwbError for one that is not the user's, or cannot be deleted.
    """
    file = paths.presets_folder() / f"{name}.toml"
    if name not in presets():
        raise MemwbError(
            f"There is no preset {name!r}", nearest(name, presets()), "See `memwb presets`."
        )
    if not is_own(name):
        raise MemwbError(
            f"The preset {name!r} comes with memwb",
            "only presets of your own can be deleted",
            "Save one of the same name, and it takes its place.",
        )
    try:
        file.unlink()
    except OSError as error:
        raise MemwbError(
            f"The preset {name!r} was not deleted",
            f"{file}: {error.strerror}",
            "Make the folder writable.",
        ) from None


def _find(name_or_path: str) -> Path:
    known = presets()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(os.path.expanduser(name_or_path))
    separators = [sep for sep in (os.sep, os.altsep) if sep]
    if any(sep in name_or_path for sep in separators) or name_or_path.endswith(".toml"):
        return path
    if os.path.isfile(path):
        return path
    raise MemwbError(
        f"There is no preset {name_or_path!r}",
        nearest(name_or_path, known),
        "See `memwb presets`, or give the path of a TOML file.",
    )


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec("memwb.presets")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _with_comments(plan: Plan, template: Path) -> str:
    from tomlkit.exceptions import TOMLKitError

    try:
        return plan_toml(plan, template.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, TOMLKitError):
        # What is being replaced cannot be read; there are no comments to keep.
        return plan_toml(plan)


def _replace(file: Path, text: str) -> None:
    """Write the whole file or nothing: a crash leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner alone, and a preset is meant to be handed on.
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
