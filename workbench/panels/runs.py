"""The history of runs: sorted, filtered, chosen to be seen again, marked to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from memwb.engine.runs import pinned
from memwb.workbench import library
from memwb.workbench.commands import COMMANDS, bindings, keyed_in, shown_key
from memwb.workbench.comparing import LETTERS
from memwb.workbench.ordering import ORDERS, matching, sorted_runs
from memwb.workbench.panels.field import Field
from memwb.workbench.panels.history_rows import NOTED, Made, View, head, history_rows
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.owner import Owner
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.state import MARKS, Session

if TYPE_CHECKING:
    from memwb.engine.runs import Summary

TITLE = "$jump_runs Runs"
NOTHING = Row(
    "", ((" nothing matches: ", "muted"), ("esc", "accent"), (" shows all", "muted")), (), False
)
DOING = (
    ("name_run", "name"),
    ("note_run", "note"),
    ("replay", "replay"),
    ("take_plan", "plan"),
    ("delete_run", "delete"),
)
"""What can be done with a run beside what the footer says."""
HEAD = 6
"""From so many lines on the names of the columns are shown; and what is noted of a run."""


class RunsPanel(Vertical):
    """The list of runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("runs"),
        Binding("enter,down", "leave_filter(True)", "keep the filter", show=False, priority=True),
        Binding("escape", "leave_filter(False)", "no filter", show=False, priority=True),
    ]

    def __init__(self, owner: Owner, session: Session, *, id: str) -> None:
        super().__init__(id=id)
        self._owner = owner
        self._runs: Sequence[Summary] = ()
        self._view = View(sort=session.sort, turned=session.turned)
        self.wanted = ""
        """What is filtered by."""
        self._drawn: tuple[object, ...] = ()
        self._made: Made = {}

    def rekey(self) -> None:
        """The keys have changed."""
        self.border_title = keyed_in(self, TITLE)
        self._drawn = ()
        self._fill()
        self._say()

    def compose(self) -> ComposeResult:
        """The names of the columns, the list, what is noted of the run at the cursor."""
        self.border_title = keyed_in(self, TITLE)
        yield Line(id="runs-head")
        yield Rows([self._empty()], id="runs-rows")
        yield Static(id="runs-note", markup=False)

    @property
    def rows(self) -> Rows:
        """The list of rows."""
        return self.query_one("#runs-rows", Rows)

    @property
    def folder(self) -> str:
        """The folder of the run at the cursor."""
        row = self.rows.current
        return row.id if row is not None else ""

    @property
    def run(self) -> Summary | None:
        """The run at the cursor."""
        return next((run for run in self._runs if run.folder == self.folder), None)

    def show(self, runs: Sequence[Summary], session: Session) -> None:
        """Other runs, or others of them in the charts, or another order."""
        grown = len(runs) > len(self._runs)
        other = runs is not self._runs
        known = {run.folder for run in runs}
        self._runs = runs
        self._view = self._view._replace(
            shown=session.shown,
            # A run that somebody else has deleted has no letter.
            marks=tuple(mark for mark in session.marks if mark in known)[:MARKS],
            pinned=pinned(runs),
            sort=session.sort if session.sort in ORDERS else "time",
            turned=session.turned,
        )
        if other:
            self._made = {folder: row for folder, row in self._made.items() if folder in known}
            self._judge()
        self._fill()
        if grown and runs:
            self.rows.select(session.shown or runs[0].folder)
        self._say()

    @work(group="outside", exclusive=True)
    async def _judge(self) -> None:
        """Mark the runs whose losses are outside, and tell the plans of all.

        Found beside the list, which does not wait.
        """
        outside = await asyncio.to_thread(library.outside, self._runs)
        called = await asyncio.to_thread(library.called, self._runs)
        view = self._view._replace(outside=outside, called=called)
        if view != self._view:
            self._view = view
            self._fill()

    def choose(self) -> None:
        """Show the run at the cursor."""
        if self.folder:
            self._owner.show_run(self.folder)

    async def take_plan(self) -> None:
        """The plan of the run at the cursor in the place of the one that is edited."""
        run = self.run
        if run is None:
            self.say_none()
            return
        plan = await asyncio.to_thread(library.plan_of, run.folder)
        if plan is None:
            told = f"The plan of #{run.run} cannot be read: look at plan.toml in {run.folder}."
            self.app.notify(told, severity="warning", markup=False)
        else:
            self._owner.take_plan(plan, f"from #{run.run}")

    def say_none(self) -> None:
        """There is no run that something could be done with: how to come by one."""
        how = "esc shows all again" if self._runs else keyed_in(self, "$run runs the plan")
        self.app.notify(f"There is no run at the cursor; {how}.", markup=False)

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A click shows the run."""
        event.stop()
        self.choose()

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """What is noted of the run at the cursor."""
        event.stop()
        self._tell()

    def on_resize(self) -> None:
        """Narrow rows have fewer figures, short lists no head."""
        self._fill()
        # The list is as wide as it will be only once the head has come or gone.
        self.call_after_refresh(self._fill)
        self._say()

    def _fill(self) -> None:
        width = self.rows.scrollable_content_region.width
        # The session changes with every key; of the history there may be a thousand rows.
        drawn = (self._runs, self._view, self.wanted, width, self.content_size.height)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        found = matching(self._runs, self.wanted, self._view.called)
        found = sorted_runs(found, self._view.sort, self._view.turned)
        rows = history_rows(found, self._view, width, self._made)
        self.rows.fill(rows or [NOTHING if self._runs else self._empty()])
        high = bool(self._runs) and self.content_size.height >= HEAD
        line = self.query_one("#runs-head", Line)
        line.display = high
        if high:
            line.show(*head(self._view, width))
        self._tell()

    def _empty(self) -> Row:
        run = (keyed_in(self, "$run"), "accent")
        return Row("", ((" no runs yet: ", "muted"), run, (" runs the plan", "muted")), (), False)

    def _tell(self) -> None:
        """The note of the run at the cursor, where the list has room for it."""
        note, run = self.query_one("#runs-note", Static), self.run
        text = run.note if run is not None and self.content_size.height >= HEAD else ""
        note.display = bool(text)
        if text:
            note.update(f"{NOTED} {text}")

    def _say(self) -> None:
        """The order where it is not the usual one, then the marks, or what can be done."""
        marks = len(self._view.marks)
        letters = LETTERS[1:marks]
        order = ORDERS[self._view.sort]
        said = order.turned if self._view.turned else order.says
        parts = ["" if self._view.sort == "time" and not self._view.turned else said]
        if marks == 1:
            parts.append(self._keyed("A marked · $compare on another compares"))
        elif letters:
            more = "" if marks == MARKS else self._keyed(" · $compare adds one")
            # In a small terminal neither the charts nor the table are in sight.
            show = self._keyed("$jump_memory $jump_peak show them · ")
            where = show if self.screen.has_class("-single") else ""
            parts.append(f"{where}A filled · {' '.join(letters)} outlined{more} · esc leaves")
        elif self._runs:
            parts += [_link(*each, self._owner.settings.keymap) for each in DOING]
        self.border_subtitle = " · ".join(part for part in parts if part)

    def _keyed(self, text: str) -> str:
        return _plain(keyed_in(self, text))

    # The filter

    async def filter(self) -> None:
        """Open the field that narrows the list."""
        if not self.query("#runs-filter"):
            field = Field(placeholder="filter runs", id="runs-filter")
            kept = Line(id="runs-kept")
            await self.mount(field, kept)
        field = self.query_one("#runs-filter", Field)
        field.display = True
        self.query_one("#runs-kept").display = False
        self.screen.set_focus(field)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list while one types."""
        event.stop()
        if event.input.display:
            self._narrow(event.value)

    def _narrow(self, text: str) -> None:
        self.wanted = text.strip()
        self._fill()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The filter's keys are for its field alone."""
        focused = self.screen.focused
        return action != "leave_filter" or (focused is not None and focused.id == "runs-filter")

    async def action_leave_filter(self, kept: bool) -> None:
        """Back to the list, narrowed or all of it."""
        if not kept:
            self.clear_filter()
            return
        field = self.query_one("#runs-filter", Field)
        await field.settled()
        self._narrow(field.value)
        line = self.query_one("#runs-kept", Line)
        line.show(Content(f" /{self.wanted}"), "[$text-muted]esc clears [/]")
        line.display = bool(self.wanted)
        self.screen.set_focus(self.rows)
        field.display = False

    def clear_filter(self) -> bool:
        """Every run again; False when nothing was filtered."""
        fields = self.query("#runs-filter").results(Field)
        shown = False
        for field in fields:
            shown = bool(field.display)
            field.display = False
            field.value = ""
            self.query_one("#runs-kept").display = False
        if not shown and not self.wanted:
            return False
        self.wanted = ""
        self._fill()
        self.screen.set_focus(self.rows)
        return True


def _link(name: str, word: str, keymap: dict[str, str]) -> str:
    """A key and its word, to be pressed with the mouse too."""
    command = next(command for command in COMMANDS if command.id == name)
    action = command.action if "." in command.action else f"screen.{command.action}"
    return f"[@click={action}]{_plain(shown_key(command, keymap))} {word}[/]"


def _plain(text: str) -> str:
    """A text for a border, which may hold markup; a bracket alone, as a key is, may begin some."""
    return text.replace("[", r"\[")
