"""Presets: what each is for, loading one, and saving the plan as one."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, read_plan
from memwb.engine.presets import delete_preset, is_own, load_plan, presets, save_preset
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.preset_texts import comment, contents, differences, goal
from memwb.workbench.screens.dialog import (
    DIALOG,
    HEIGHTS,
    HELP,
    HELP_TYPING,
    WIDTHS,
    explain,
    keys_line,
    say,
)
from memwb.workbench.screens.help import Page

WIDEST = 34
"""Columns that a name may take in the list; the packaged ones have room."""
KEYS = {
    "take": ("↵", "load"),
    "save": ("w", "save the plan"),
    "delete": ("d", "delete"),
    "explain": ("?", "help"),
    "dismiss": ("esc", "leave"),
}
STYLES = {"+": "$text-success", "\N{MINUS SIGN}": "$text-error", "~": "$text-warning"}


class PresetScreen(ModalScreen[Plan | None]):
    """Returns the plan of the chosen preset."""

    DEFAULT_CSS = f"""
    PresetScreen {{
        {DIALOG}
        #both {{ height: 1fr; }}
        #about {{
            height: 14;
            margin-top: 1;
            padding-top: 1;
            border-top: solid $foreground 15%;
            scrollbar-gutter: stable;
        }}
        Rows {{ height: 1fr; }}
        .said {{ min-height: 1; }}
        &.-short #about {{ height: 9; margin-top: 0; padding-top: 0; }}
        &.-large #both {{ layout: horizontal; }}
        &.-large Rows {{ width: 38; }}
        &.-large #about {{
            width: 1fr;
            height: 1fr;
            margin: 0;
            padding: 0 0 0 2;
            border-top: none;
            border-left: solid $foreground 15%;
        }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    HORIZONTAL_BREAKPOINTS = WIDTHS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "take", "load"),
        Binding("w", "save", "save the plan"),
        Binding("d,delete", "delete", "delete"),
        HELP,
        Binding("escape,q,l", "dismiss", "leave"),
    ]

    def __init__(self, plan: Plan) -> None:
        """``plan`` is what a preset is held against."""
        super().__init__()
        self._plan = plan
        self._about_said = ""
        """The preset that something was said of last."""

    def compose(self) -> ComposeResult:
        """The list, what a preset is for, and what it would change."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Presets"
            with Vertical(id="both"):
                yield Rows()
                with VerticalScroll(id="about"):
                    yield Page(self._about)
            yield Static(classes="said", markup=False)
            yield Line(keys_line(KEYS), id="preset-keys")

    def on_mount(self) -> None:
        """The first one is described at once."""
        if not self.children:  # the workbench was left meanwhile
            return
        self._fill()
        self.query_one(Rows).focus()
        self.query_one(Rows).action_edge(0)
        self._describe()

    def _fill(self) -> None:
        self._files = presets()
        own = [name for name in self._files if is_own(name)]
        rest = [name for name in self._files if name not in own]
        room = min(WIDEST, max(map(len, self._files), default=0)) + 2
        listing = self.query_one(Rows)
        # Beside what is said of one there is no room for what each is for.
        brief = listing.size.width < room + 16
        rows: list[Row] = []
        for title, names in (("yours", own), ("shipped", rest)):
            if names and own:
                rows.append(Row("", ((f" {title}", "group"),), (), False))
            rows += [_row(name, self._files[name], room, brief) for name in names]
        listing.fill(rows)

    def on_resize(self) -> None:
        """Another width may have room for more."""
        if self.children:
            self.call_after_refresh(self._fill)

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Say what the preset at the cursor is for."""
        if event.row.id != self._about_said:
            say(self, "")
        self._describe()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click loads it."""
        if event.again:
            self.action_take()

    @property
    def _chosen(self) -> str:
        row = self.query_one(Rows).current
        return row.id if row is not None else ""

    def action_take(self) -> None:
        """Load the preset at the cursor."""
        if not self._chosen:
            return
        try:
            self.dismiss(load_plan(self._chosen))
        except MemwbError as error:
            self._say(f"✗ {error}", "-bad")

    def action_save(self) -> None:
        """Save the plan as it stands."""

        def saved(path: str | None) -> None:
            if path:
                self._fill()
                self.query_one(Rows).select(Path(path).stem)
                self._describe()
                self._say(f"saved: {path}", "-good")

        self.app.push_screen(SaveScreen(self._plan), saved)

    def action_delete(self) -> None:
        """Delete a preset of one's own, if that is meant."""
        from memwb.workbench.screens.ask import AskScreen

        name = self._chosen
        if not name:
            return
        if not is_own(name):
            self._say(f"{name} comes with memwb and stays; your own can be deleted.", "-bad")
            return

        def answered(sure: bool | None) -> None:
            if not sure:
                return
            try:
                delete_preset(name)
            except MemwbError as error:
                self._say(f"✗ {error}", "-bad")
                return
            self._fill()
            self._describe()
            self._say(f"{name} is deleted.", "-good")

        text = f"{name}\n{self._files[name]}"
        question = AskScreen("Delete this preset?", text, "delete", "keep", careful=True)
        self.app.push_screen(question, answered)

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "presets")

    def _say(self, text: str, kind: str) -> None:
        self._about_said = self._chosen
        say(self, text, kind)

    def _describe(self) -> None:
        page = self.query_one(Page)
        page.update(self._about(page.size.width))
        self.query_one("#about").scroll_home(animate=False)

    def _about(self, width: int) -> Content:
        """What the preset would change of the plan, then what its own comment says."""
        if self._chosen not in self._files:
            return Content()
        file = self._files[self._chosen]
        lines: list[Content] = []
        try:
            changes = differences(self._plan, read_plan(file))
        except MemwbError as error:
            return Content.styled(f"✗ {error}", "$text-error")
        count = f"{len(changes)} value{'s' if len(changes) > 1 else ''}"
        head = f"Loading it changes {count} of the plan" if changes else "This is the plan"
        lines.append(Content.styled(head, "bold $text-primary"))
        for mark, path, text in changes:
            told = textwrap.fill(
                f"{path}  {text}", max(24, width - 2), subsequent_indent="    "
            ).partition(path)[2]
            lines.append(
                Content.assemble((f"{mark} ", STYLES[mark]), path, (told, "$foreground 60%"))
            )
        told = comment(file) or contents(file)
        for part in told.split("\n\n"):
            lines += [Content(), Content(textwrap.fill(part, max(24, width)))]
        return Content("\n").join(lines)


class SaveScreen(ModalScreen[str | None]):
    """Returns the file that the plan was saved to."""

    DEFAULT_CSS = f"""
    SaveScreen {{
        {DIALOG}
        .dialog {{ width: 70; max-width: 100%; height: auto; padding: 1 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "leave"), HELP_TYPING]

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._asked = ""

    def compose(self) -> ComposeResult:
        """A name and an answer."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Save the plan as a preset"
            box.border_subtitle = "↵ saves · f1 help · esc leaves"
            yield Input(placeholder="a name, such as my-lora")
            yield Static("It is kept beside your runs.", classes="said", markup=False)

    def action_explain(self) -> None:
        """What a preset is."""
        explain(self, "saving")

    def on_input_changed(self) -> None:
        """Another name asks again."""
        self._asked = ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Save; a name that is taken is asked about once."""
        name = event.value.strip()
        said = self.query_one(".said", Static)
        said.set_class(True, "-bad")
        if name in presets() and self._asked != name:
            self._asked = name
            said.update(f"There is a preset {name!r} already. ↵ again replaces it for you.")
            return
        try:
            self.dismiss(str(save_preset(name, self._plan)))
        except MemwbError as error:
            said.update(f"✗ {error}")


def _row(name: str, path: Path, room: int, brief: bool) -> Row:
    shown = name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…"
    return Row(name, ((f" {shown:<{room}}", "accent"), ("" if brief else goal(path), "muted")))
