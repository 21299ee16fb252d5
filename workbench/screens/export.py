"""The script of the plan: read it, write it to a folder, copy it."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import Peak
from memwb.engine.script import adapters_of
from memwb.workbench import library
from memwb.workbench.panels.field import Field
from memwb.workbench.panels.line import Line
from memwb.workbench.screens.dialog import DIALOG, HEIGHTS, HELP, explain, keys_line, say
from memwb.workbench.settings import Settings

KEYS = {
    "write": ("w", "write"),
    "copy": ("y", "copy"),
    "copy_launch": ("Y", "copy line"),
    "target": ("t", "folder"),
    "merge": ("m", "merge"),
    "explain": ("?", "help"),
    "dismiss": ("esc", "leave"),
}
"""Actions with their keys; together they fit the smallest terminal."""


class ExportScreen(ModalScreen[tuple[str, str] | None]):
    """Returns the folder that was written to."""

    DEFAULT_CSS = f"""
    ExportScreen {{
        {DIALOG}
        #script {{ height: 1fr; margin-bottom: 1; background: $background; padding: 0 1; }}
        #text {{ width: auto; }}
        #launch {{ height: auto; max-height: 3; color: $text-accent; }}
        .said {{ min-height: 1; }}
        &.-short #script {{ margin-bottom: 0; }}
        &.-short Field, &.-short Field:focus {{ margin-bottom: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "write", "write", priority=True),
        Binding("y", "copy", "copy", priority=True),
        Binding("Y", "copy_launch", "copy the line", priority=True),
        HELP,
        Binding("t", "target", "folder", priority=True),
        Binding("m", "merge", "merge adapters", priority=True),
        Binding("q", "leave", "leave", priority=True),
        Binding("escape", "back", "leave", priority=True),
        Binding("enter", "take_folder", "take the folder", priority=True),
    ]

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        target: str,
        lack: str = "",
        predicted: tuple[str, Peak] | None = None,
    ) -> None:
        """``lack`` is why the script cannot run on this machine, if it cannot."""
        super().__init__()
        self._predicted = predicted
        self._lack = f"✗ {lack}" if lack else ""
        self._plan = plan
        self._settings = settings
        self._script = ""
        self._target = target or str(Path.cwd() / "export")
        self._asked = ""
        self._merge = False

    def compose(self) -> ComposeResult:
        """Script, folder, launch line, keys."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Export train.py"
            with ScrollableContainer(id="script"):
                yield Static("writing the script…", id="text")
            yield Field(self._target, placeholder="folder")
            yield Static(id="launch", markup=False)
            yield Static(classes="said", markup=False)
            yield Line(self._keys(), id="export-keys")

    def _keys(self) -> list[Content]:
        without = () if adapters_of(self._plan) else ("merge",)
        return keys_line({action: key for action, key in KEYS.items() if action not in without})

    async def on_mount(self) -> None:
        """The script is put together in a thread: a model's folder may be slow to read."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one("#script").focus()
        self._launch()
        self._say(self._lack, "-bad")
        await self._write_script()

    async def _write_script(self) -> None:
        try:
            self._script = await asyncio.to_thread(
                library.script, self._plan, self._settings, self._merge, self._predicted
            )
        except MemwbError as error:
            self._say(f"✗ {error}", "-bad")
            self.query_one("#text", Static).update("")
            return
        text = await asyncio.to_thread(highlighted, self._script)
        self.query_one("#text", Static).update(text)
        lines = self._script.count("\n")
        self.query_one(".dialog").border_subtitle = f"{lines} lines · this is what a burst runs"

    def on_input_changed(self, event: Input.Changed) -> None:
        """Another folder, another launch line."""
        self._retarget(event.value)

    def _retarget(self, text: str) -> None:
        if text.strip() != self._target:
            self._target = text.strip()
            self._asked = ""
            self._launch()
            if self._script:
                # What was said was said of the other folder.
                self._say(self._lack, "-bad")

    def action_target(self) -> None:
        """Type another folder."""
        self.set_focus(self.query_one(Field))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While the folder is typed, letters are text."""
        if action == "take_folder":
            return self._typing
        letters = ("write", "copy", "copy_launch", "target", "merge", "leave", "explain")
        return action not in letters or not self._typing

    @property
    def _typing(self) -> bool:
        return isinstance(self.focused, Field)

    def action_leave(self) -> None:
        """Back to the main screen."""
        self.dismiss(None)

    async def action_back(self) -> None:
        """Out of the field first, then out of the screen."""
        if self._typing:
            await self.action_take_folder()
        else:
            self.dismiss(None)

    async def action_take_folder(self) -> None:
        """What was typed is the folder."""
        field = self.query_one(Field)
        await field.settled()
        self._retarget(field.value)
        self.set_focus(self.query_one("#script"))

    async def action_merge(self) -> None:
        """Let the script save adapters, or one model that they are added into."""
        if not adapters_of(self._plan):
            self._say("✗ There are no adapters to merge: the plan trains the model itself.", "-bad")
            return
        self._merge = not self._merge
        self._launch()
        await self._write_script()
        what = "one model, its adapters added in" if self._merge else "the adapters"
        self._say(f"train.py saves {what}.", "-good")

    def action_copy(self) -> None:
        """Put the script on the terminal's clipboard."""
        if self._script:
            self.app.copy_to_clipboard(self._script)
            self._say("Copied, where the terminal allows it (OSC 52).", "-good")

    def action_copy_launch(self) -> None:
        """Put the line that starts the training on the terminal's clipboard."""
        self.app.copy_to_clipboard(self._line)
        self._say(f"Copied: {self._line}", "-good")

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "export")

    async def action_write(self) -> None:
        """Write train.py and plan.toml; files that are there already are asked about once."""
        if not self._script:
            return
        if not self._target:
            self._say("✗ Give a folder (t).", "-bad")
            return
        sure = self._asked == self._target
        try:
            folder = await asyncio.to_thread(
                library.export,
                self._plan,
                self._settings,
                self._target,
                sure,
                self._merge,
                self._predicted,
            )
        except MemwbError as error:
            there = os.path.join(os.path.expanduser(self._target), "train.py")
            if os.path.exists(there) and not sure:
                self._asked = self._target
                self._say(f"{error.what}. w again replaces it.", "-bad")
            else:
                self._say(f"✗ {error}", "-bad")
            return
        self.dismiss((str(folder), self._line))

    @property
    def _line(self) -> str:
        """What starts the training."""
        # A quoted ~ is a folder of that name.
        folder = os.path.expanduser(self._target)
        words = [os.path.join(folder, "train.py"), "--output", os.path.join(folder, "model")]
        words += ["--merge"] if self._merge else []
        return f"python {shlex.join(words) if self._target else '…'}"

    def _launch(self) -> None:
        self.query_one("#launch", Static).update(self._line)

    def _say(self, text: str, kind: str) -> None:
        say(self, text, kind)


def highlighted(script: str) -> Content:
    """Python with its colours, in those of the theme."""
    from textual.highlight import highlight

    return highlight(script, language="python")
