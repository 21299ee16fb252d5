"""The plan's panel: rows to toggle, an editor over a row, and a filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from memwb.engine.plan import Plan, Problem, override, problems, toggle
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques
from memwb.workbench import edits
from memwb.workbench.commands import bindings, keyed_in
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels import forecast, plan_rows, texts, toggles, values
from memwb.workbench.panels.field import Field
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.owner import Owner
from memwb.workbench.panels.rows import Row, Rows, Spans
from memwb.workbench.state import Session

if TYPE_CHECKING:
    from memwb.engine.explain import Explanation

Config = Mapping[str, Any] | None
"""The content of the model's config.json; None while it is not known."""
TITLE = "$jump_plan Plan"


class PlanPanel(Vertical):
    """Shows a plan and asks for edits; the screen holds the plan itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("plan"),
        Binding("enter,down", "leave_filter(True)", "keep the filter", show=False, priority=True),
        Binding("escape", "leave_filter(False)", "no filter", show=False, priority=True),
    ]

    def __init__(self, owner: Owner, session: Session, *, id: str) -> None:
        super().__init__(id=id)
        self._owner = owner
        self.plan = session.plan
        self.folded = session.folded
        self.facts = self.wanted = ""
        self.config: Config = None
        self.device: Device | None = None
        self._outlook = Outlook()
        self._here: Device | None = None
        self.found: list[Problem] = []
        self._first = session.row
        self._at_absent = False

    def compose(self) -> ComposeResult:
        """The rows; editor and filter come when they are first asked for."""
        self.border_title = keyed_in(self, TITLE)
        rows = Rows(plan_rows.plan_rows(self.plan, self._keymap, self.folded), id="plan-rows")
        any(rows.select(each) for each in (self._first, "model"))
        yield rows
        yield Static(id="about")

    @property
    def rows(self) -> Rows:
        """The list of rows."""
        return self.query_one("#plan-rows", Rows)

    @property
    def row(self) -> Row | None:
        """The row at the cursor."""
        return self.rows.current

    def show(
        self,
        plan: Plan,
        folded: tuple[str, ...],
        facts: str,
        device: Device | None = None,
        config: Config = None,
    ) -> None:
        """Another plan, other folds, other facts about the model; device and config once known."""
        changed = (plan, folded) != (self.plan, self.folded)
        self.plan, self.folded, self.facts = plan, folded, facts
        self.device, self.config = device or self.device, config
        self._fill()
        if changed:
            self.border_title = keyed_in(self, TITLE)
            # What a key has just brought about is to be seen.
            self.rows.reveal(*plan_rows.block(self.rows.rows, self.rows.cursor))
        self._count()

    def rekey(self) -> None:
        """The keys have changed."""
        self.border_title = keyed_in(self, TITLE)
        self._fill()

    @property
    def _keymap(self) -> dict[str, str]:
        return self._owner.settings.keymap

    def meet(self, device: Device) -> None:
        """The device is known: what cannot run on it is told."""
        self.device = device
        self._fill()
        self._count()

    def foresee(self, outlook: Outlook, device: Device | None) -> None:
        """What each toggle would change stands beside it; the rows stay the same."""
        self._outlook, self._here = outlook, device
        self.rows.beside(self._beside())
        self._tell()
        self._entitle()

    def looked_at(self) -> tuple[str, ...]:
        """The techniques that are seen, those nearest to the cursor first."""
        rows = (row.id.partition(":") for row in self.rows.in_sight())
        return tuple(name for kind, _, name in rows if kind == "technique")

    def _beside(self) -> dict[str, Spans]:
        return toggles.beside(self._outlook, self._here, self.plan, "~")

    def _count(self) -> None:
        self.found = problems(self.plan, self.config, self.device)
        self.set_class(bool(self.found), "-problems")
        self._entitle()

    def _entitle(self) -> None:
        """What is wrong, or in a small terminal, which shows no other panel, what is predicted."""
        said = f"✗ {len(self.found)} to mend" if self.found else ""
        if len(self.found) == 1:
            # Its row may not be in sight.
            said += f": {texts.title_of(self.found[0].technique)}"
        if not said and self.screen.has_class("-single"):
            said = forecast.one_line(self._outlook, self._here)
        self.border_subtitle = Content(said) if said else ""

    def technique_at_cursor(self) -> str:
        """The technique that the cursor's row belongs to, or nothing."""
        row = self.row
        if row is None:
            return ""
        kind, _, rest = row.id.partition(":")
        if kind == "technique":
            return rest
        return rest.split(".")[1] if rest.startswith("techniques.") else ""

    def explained(self, device: Device | None = None) -> Explanation | None:
        """The technique at the cursor explained for this plan; None where there is none."""
        from memwb.engine.explain import explain

        name = self.technique_at_cursor()
        return explain(name, self.plan, self.config, device) if name else None

    def predicted(self) -> str:
        """What is predicted of toggling the technique at the cursor, in words."""
        name, row = self.technique_at_cursor(), self.row
        own = row is not None and row.id.startswith("technique:")
        called = "it" if own or not name else techniques()[name].title
        return toggles.toggle_words(self._outlook, name, self._here, called)

    async def toggle_row(self) -> None:
        """What the space bar does at the cursor."""
        row = self.row
        if row is None:
            return
        kind, _, rest = row.id.partition(":")
        if kind == "group":
            self._owner.fold(rest)
        elif kind == "technique":
            self._owner.change_plan(toggle(self.plan, rest, rest not in self.plan.techniques))
        elif kind == "value":
            await self._step(rest)
        else:
            await self.edit_row()

    async def edit_row(self) -> None:
        """What Enter does at the cursor: open the value, or the first one of a technique."""
        row = self.row
        if row is None:
            return
        kind, _, rest = row.id.partition(":")
        if kind == "group":
            self._owner.fold(rest)
        elif kind == "model":
            self._owner.action_model()
        elif kind == "value":
            await self._open(rest)
        elif kind == "technique":
            await self._edit_technique(rest)

    def mend(self) -> str:
        """Make the edit of the first problem, of the cursor's technique if it has one.

        Returns what was done, or nothing where there was nothing to do.
        """
        found = problems(self.plan, self.config, self.device)
        name = self.technique_at_cursor()
        found.sort(key=lambda problem: problem.technique != name)
        for problem in found:
            if problem.override:
                self._owner.change_plan(override(self.plan, problem.override))
                return texts.mended(problem, len(self.found))
        return ""

    def reset_row(self) -> None:
        """What the cursor is on as it usually is."""
        before, row = self.plan, self.row.id if self.row else ""
        made = edits.reset(before, row)
        if made == before:
            self.app.notify(texts.nothing_to_reset(row, before, self._keymap))
            return
        self._owner.change_plan(made)
        self.say(before, "reset")

    def went(self, before: Plan, how: str) -> None:
        """An edit that no row brought about: the cursor goes to the row of it."""
        for path in edits.differing(before, self.plan)[:1]:
            row = edits.row_of(path)
            any(self.rows.select(each) for each in (row, *plan_rows.above(row)))
        self.say(before, how)

    def say(self, before: Plan, how: str) -> None:
        """What an edit has changed, in the title; in a toast where the plan is not in sight."""
        said = f"{how}: {edits.told(before, self.plan)}"
        self.border_title = Content(f"{keyed_in(self, TITLE)} · {said}")
        if not self.region.area:
            self.app.notify(f"{said[:1].upper()}{said[1:]}.", markup=False)

    async def prepare(self) -> None:
        """Mount the fields, which no first paint needs; then they open without a wait."""
        from memwb.workbench.panels.editor import Editor

        if not self.query(Editor):
            field = Field(placeholder="filter techniques", id="filter")
            field.display = False
            kept = Line(id="kept")
            kept.display = False
            check = lambda path, text: values.wrong(self.plan, path, text)  # noqa: E731
            editor = Editor(check, self.accept, self.leave, self._place_open)
            await self.mount(editor, field, kept)
            # However the list scrolls, the field stays on its row.
            self.watch(self.rows, "scroll_y", self._place_open, init=False)

    async def filter(self) -> None:
        """Open the field that narrows the rows."""
        await self.prepare()
        field = self.query_one("#filter")
        field.display = True
        self.query_one("#kept").display = False
        self.screen.set_focus(field)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the rows while one types."""
        if event.input.id == "filter" and event.input.display:
            self._narrow(event.value)

    def _narrow(self, text: str) -> None:
        self.wanted = text.strip()
        self._fill()
        found = plan_rows.best(self.rows.rows, self.wanted) if self.wanted else ""
        if found:
            self.rows.select(found)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The filter's keys are for its field alone."""
        focused = self.screen.focused
        return action != "leave_filter" or (focused is not None and focused.id == "filter")

    async def action_leave_filter(self, kept: bool) -> None:
        """Back to the rows, narrowed or all of them."""
        if not kept:
            self.clear_filter()
            return
        field = self.query_one("#filter", Field)
        await field.settled()
        self._narrow(field.value)
        line = self.query_one("#kept", Line)
        line.show(Content(f" /{self.wanted}"), "[$text-muted]esc clears [/]")
        line.display = bool(self.wanted)
        self.screen.set_focus(self.rows)
        field.display = False

    def clear_filter(self) -> bool:
        """Every row again; False when nothing was filtered."""
        fields = self.query("#filter")
        shown = bool(fields) and bool(fields.first().display)
        if not shown and not self.wanted:
            return False
        self.wanted = ""
        for field in fields:
            field.display = False
            field.value = ""  # type: ignore[attr-defined]
            self.query_one("#kept").display = False
        self._fill()
        self.screen.set_focus(self.rows)
        return True

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Where there is room, a few words on what the cursor is on."""
        event.stop()
        # Why something cannot run here is told whole at the cursor alone.
        if plan_rows.absent(self.row) or self._at_absent:
            self._fill()
        self._tell()

    async def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A click on a technique toggles it, on a group folds it, on a value edits it."""
        event.stop()
        if event.row.id.startswith("value:"):
            await self.edit_row()
        elif event.row.id != "model" or event.again:
            await self.toggle_row()

    def on_resize(self) -> None:
        """Notes are wrapped to the width."""
        self._fill()
        self._entitle()

    async def accept(self, path: str, text: str, step: int) -> None:
        """Take over a value, and go on to the next row if that was asked for."""
        self.screen.set_focus(self.rows)
        self._owner.change_plan(override(self.plan, f"{path}={text}"))
        if step:
            await self._open_neighbour(path, step)

    def leave(self) -> None:
        """The rows have the focus again, and nothing has changed."""
        self.screen.set_focus(self.rows)

    def _fill(self) -> None:
        width = self.rows.scrollable_content_region.width or 44
        shown = (self.folded, self.wanted, width, self.facts, self.device, self.config)
        before = self.row.id if self.row else ""
        self.rows.beside(self._beside())
        self.rows.fill(plan_rows.plan_rows(self.plan, self._keymap, *shown, at=before))
        if self.row is None or self.row.id != before:
            # Its row is gone, as a parameter's with its technique: the nearest it belongs to.
            any(self.rows.select(each) for each in plan_rows.above(before))
        self._at_absent = plan_rows.absent(self.row)
        self._tell()
        # The row may stand elsewhere now, once all of this is laid out.
        self.call_after_refresh(self._place_open)

    def _tell(self) -> None:
        row = self.row.id if self.row else ""
        if self.screen.has_class("-tall"):
            told = texts.about_row(row, self._keymap, self.explained(), self.predicted())
        elif self.screen.has_class("-high"):
            told = texts.brief_row(row, self._keymap, self.technique_at_cursor())
        else:
            return
        self.query_one("#about", Static).update(told)

    async def _step(self, path: str) -> None:
        """The next of a choice or a switch; anything else is typed."""
        following = values.following(self.plan, path, self.device)
        if following is None:
            await self._open(path)
            return
        text = f"{path}={plan_rows.text_of(following)}"
        self._owner.change_plan(override(self.plan, text))

    async def _edit_technique(self, name: str) -> None:
        """Open its first parameter, switched on if it is off; or say that it has none."""
        fields = techniques()[name].params.__struct_fields__
        if not fields:
            self.app.notify(texts.nothing_to_edit(name, name in self.plan.techniques, self._keymap))
            return
        if name not in self.plan.techniques:
            self._owner.change_plan(toggle(self.plan, name, True))
        await self._open(f"techniques.{name}.{fields[0]}")

    async def _open_neighbour(self, path: str, step: int) -> None:
        found = [row.id for row in self.rows.rows if row.id.startswith("value:")]
        place = found.index(f"value:{path}") + step
        if 0 <= place < len(found):
            await self._open(found[place].removeprefix("value:"))

    async def _open(self, path: str) -> None:
        from memwb.workbench.panels.editor import Editor

        await self.prepare()
        self.rows.select(f"value:{path}")
        text = plan_rows.text_of(plan_rows.value_at(self.plan, path))
        self.query_one(Editor).open(path, text, values.hint(self.plan, path, self.device))

    def _place_open(self) -> None:
        """The field on its row, and below it what is said of the value: no row is hidden."""
        from memwb.workbench.panels.editor import Editor

        for editor in self.query(Editor):
            row, height = f"value:{editor.path}", self.rows.size.height
            width = self.rows.scrollable_content_region.width
            told = (*editor.said, width, max(0, height - 1))
            self.rows.part(row, plan_rows.said(*told) if editor.display else ())
            if editor.display:
                line = max(0, min(self.rows.line_of(row), height - 1))
                editor.place(plan_rows.LABEL, line, max(12, width - plan_rows.LABEL))
