"""Changes of the settings, kept in their file and acting at once where they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from memwb.workbench.commands import COMMANDS, keys_of
from memwb.workbench.settings import Settings, save_setting

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench


def keep_theme(app: Workbench, name: str) -> None:
    """Another theme. Raises MemwbError where it cannot be kept."""
    app.theme = name
    save_setting("theme", name)
    app.settings = replace(app.settings, theme=name)


def rebind(app: Workbench, keymap: dict[str, str]) -> None:
    """Other keys, everywhere at once. Raises MemwbError where they cannot be kept."""
    before = app.settings.keymap
    for name in {**before, **keymap}:
        if before.get(name) != keymap.get(name):
            save_setting(f"keymap.{name}", keymap.get(name))
    app.settings = replace(app.settings, keymap=keymap)
    app.set_keymap({each.id: keys_of(each, keymap) for each in COMMANDS if each.id in keymap})
    app.main.rekey()


def change(app: Workbench, name: str, value: str | bool) -> None:
    """Another default. Raises MemwbError where it cannot be kept."""
    default = getattr(Settings(), name)
    save_setting(name, None if value == default else value)
    app.settings = replace(app.settings, **{name: value})
    if name in ("allow_pickle", "trust_remote_code"):
        app.resolve_model()
    app.predictor.follow()
