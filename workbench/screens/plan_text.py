"""The plan as TOML text: read it, change it, copy it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, in_order, parse_plan, plan_toml, problems
from memwb.workbench import edits, toml_text
from memwb.workbench.panels.line import Line
from memwb.workbench.screens.dialog import DIALOG, HELP_TYPING, explain, keys_line

KEYS = {
    "apply": ("ctrl+s", "apply"),
    "copy": ("ctrl+t", "copy all"),
    "explain": ("f1", "help"),
    "leave": ("esc", "leave"),
}


FIRST = "A technique is on while its table stands here. Comments are kept."


class Written(NamedTuple):
    """A plan and the text that it was read from, whose comments are kept."""

    plan: Plan
    text: str


class Toml(TextArea):
    """A text area that knows the parts of TOML; Textual's own colours need a compiled parser."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "toml--table",
        "toml--key",
        "toml--text",
        "toml--value",
        "toml--comment",
    }
    DEFAULT_CSS = """
    Toml {
        border: none;
        padding: 0 1;
        background: $background;
        scrollbar-size-vertical: 1;
        &:focus { border: none; }
        .toml--table { color: $text-secondary; text-style: bold; }
        .toml--key { color: $foreground; }
        .toml--text { color: $text-success; }
        .toml--value { color: $text-accent; }
        .toml--comment { color: $foreground 60%; text-style: italic; }
    }
    """

    def get_line(self, line_index: int) -> Text:
        """A line with the colours of its parts."""
        line = super().get_line(line_index)
        for start, end, part in toml_text.parts(line.plain):
            # Colours with an alpha are blended with what is behind the text.
            own = self.get_visual_style(f"toml--{part}", partial=True)
            whole = (self.visual_style + own).rich_style
            look = Style(color=whole.color, bold=own.bold, italic=own.italic)
            line.stylize(look, start, end)
        return line


class PlanTextScreen(ModalScreen[Written | None]):
    """Returns the plan of the text once it is applied; a text that is no plan stays."""

    DEFAULT_CSS = f"""
    PlanTextScreen {{
        {DIALOG}
        Toml {{ height: 1fr; }}
        .said {{ min-height: 2; margin-top: 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "apply", "apply", priority=True),
        Binding("ctrl+t", "copy", "copy all", priority=True),
        Binding("escape", "leave", "leave", priority=True),
        HELP_TYPING,
    ]

    def __init__(self, plan: Plan, template: str) -> None:
        """``template`` is what was written before: its comments are kept."""
        super().__init__()
        self._plan = plan
        self._first = written(plan, template)
        self._asked = False

    def compose(self) -> ComposeResult:
        """The text, what is wrong with it, the keys."""
        with Vertical(classes="dialog") as box:
            box.border_title = "The plan as TOML"
            yield Toml(self._first, show_line_numbers=True, soft_wrap=False)
            yield Static(FIRST, classes="said", markup=False)
            yield Line(keys_line(KEYS), id="text-keys")

    def on_mount(self) -> None:
        """It is typed into at once."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(Toml).focus()

    def on_text_area_changed(self) -> None:
        """Say at once what is wrong, or what would change."""
        self._asked = False
        try:
            plan = self._read()
        except MemwbError as error:
            self._say(f"✗ {toml_text.mistake(self._text, error)}", "-bad")
            return
        told = f"✓ {edits.told(self._plan, plan)}"
        found = problems(plan)
        if found:
            told += f"\nto be mended in the plan: {found[0].technique}: {found[0].reason}"
        self._say(told, "" if plan == self._plan else "-good")

    def action_apply(self) -> None:
        """Take the text over if it is a plan; else go to where it is not."""
        text = self._text
        try:
            self.dismiss(Written(self._read(), text))
        except MemwbError as error:
            self.app.bell()
            if place := toml_text.place(text, error):
                self.query_one(Toml).move_cursor(place, center=True)

    def action_copy(self) -> None:
        """Put the whole text on the terminal's clipboard."""
        self.app.copy_to_clipboard(self._text)
        self._say("Copied, where the terminal allows it (OSC 52).", "-good")

    def action_leave(self) -> None:
        """Nothing is taken over; what was changed is asked about once."""
        if self._text == self._first or self._asked:
            self.dismiss(None)
            return
        self._asked = True
        self._say(
            "What you changed is not applied: esc again leaves it, ctrl+s applies it.", "-bad"
        )

    def action_explain(self) -> None:
        """What may stand in a plan."""
        explain(self, "text")

    @property
    def _text(self) -> str:
        return self.query_one(Toml).text

    def _read(self) -> Plan:
        return in_order(parse_plan(self._text), self._plan)

    def _say(self, text: str, kind: str) -> None:
        said = self.query_one(".said", Static)
        said.update(text)
        for name in ("-bad", "-good"):
            said.set_class(name == kind, name)


def written(plan: Plan, template: str) -> str:
    """The text of a plan: as it was written if that is it still, else with its comments."""
    if not template:
        return plan_toml(plan)
    try:
        return template if parse_plan(template) == plan else plan_toml(plan, template)
    except MemwbError:
        # It was written with another version.
        return plan_toml(plan)
