"""The plan's panel: rows to toggle, an editor over a row, and a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.css.query import NoMatches
from textual.message import Message
from textual.widgets import Static

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override, problems, toggle
from memwb.engine.technique import techniques
from memwb.workbench.panels import plan_rows, texts
from memwb.workbench.panels.rows import Row, Rows

if TYPE_CHECKING:
    from textual.widgets import Input

    from memwb.workbench.panels.editor import Editor


class PlanPanel(Vertical):
    """Shows a plan and asks for edits; the screen holds the plan itself."""

    class Edited(Message):
        """A person made another plan."""

        def __init__(self, plan: Plan) -> None:
            super().__init__()
            self.plan = plan

    class Folded(Message):
        """A group was folded or unfolded."""

        def __init__(self, group: str) -> None:
            super().__init__()
            self.group = group

    class ModelWanted(Message):
        """A person wants another model."""

    def __init__(self, plan: Plan, folded: tuple[str, ...], *, id: str) -> None:
        super().__init__(id=id)
        self.plan = plan
        self.folded = folded
        self.facts = ""
        self.wanted = ""

    def compose(self) -> ComposeResult:
        """The rows; editor and filter come when they are first asked for."""
        self.border_title = "1 Plan"
        rows = Rows(plan_rows.plan_rows(self.plan, self.folded), id="plan-rows")
        rows.select("model")
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

    def show(self, plan: Plan, folded: tuple[str, ...], facts: str) -> None:
        """Another plan, other folds, other facts about the model."""
        self.plan, self.folded, self.facts = plan, folded, facts
        self._fill()
        found = problems(plan)
        self.border_subtitle = f"✗ {len(found)} to mend" if found else ""
        self.set_class(bool(found), "-problems")

    def technique_at_cursor(self) -> str:
        """The technique that the cursor's row belongs to, or nothing."""
        row = self.row
        if row is None:
            return ""
        kind, _, rest = row.id.partition(":")
        if kind == "technique":
            return rest
        return rest.split(".")[1] if rest.startswith("techniques.") else ""

    def toggle_row(self) -> None:
        """What the space bar does at the cursor."""
        row = self.row
        if row is None:
            return
        kind, _, rest = row.id.partition(":")
        if kind == "group":
            self.post_message(self.Folded(rest))
        elif kind == "technique":
            self._toggle(rest)
        elif kind == "value":
            self._step(rest)
        else:
            self.edit_row()

    def edit_row(self) -> None:
        """What Enter does at the cursor: open the value, or the first one of a technique."""
        row = self.row
        if row is None:
            return
        kind, _, rest = row.id.partition(":")
        if kind == "group":
            self.post_message(self.Folded(rest))
        elif kind == "model":
            self.post_message(self.ModelWanted())
        elif kind == "value":
            self._open(rest)
        elif kind == "technique":
            self._edit_technique(rest)

    def mend(self) -> bool:
        """Make the edit of the first problem, of the cursor's technique if it has one."""
        found = problems(self.plan)
        name = self.technique_at_cursor()
        found.sort(key=lambda problem: problem.technique != name)
        for problem in found:
            if problem.override:
                self.post_message(self.Edited(override(self.plan, problem.override)))
                return True
        return False

    def filter(self) -> None:
        """Open the field that narrows the rows."""
        self.run_worker(self._filter(), exclusive=True, group="field")

    async def _filter(self) -> None:
        field = await self._filter_field()
        field.display = True
        field.focus()

    async def _filter_field(self) -> Input:
        from textual.widgets import Input

        try:
            return self.query_one("#filter", Input)
        except NoMatches:
            field = Input(placeholder="filter techniques", compact=True, id="filter")
            await self.mount(field)
            return field

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the rows while one types."""
        if event.input.id == "filter":
            self.wanted = event.value.strip()
            self._fill()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter and go to the rows."""
        self.rows.focus()
        event.input.display = bool(self.wanted)

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
        self._fill()
        self.rows.focus()
        return True

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Where there is room, a few words on what the cursor is on."""
        event.stop()
        self._tell()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A click on a technique toggles it, on a group folds it, on a value edits it."""
        event.stop()
        if event.row.id.startswith("value:"):
            self.edit_row()
        elif event.row.id != "model" or event.again:
            self.toggle_row()

    def on_resize(self) -> None:
        """Notes are wrapped to the width."""
        self._fill()

    def on_editor_accepted(self, event: Editor.Accepted) -> None:
        """Take over a value, and go on to the next row if that was asked for."""
        event.stop()
        self.rows.focus()
        plan = override(self.plan, f"{event.path}={event.text}")
        if plan != self.plan:
            self.plan = plan
            self._fill()
            self.post_message(self.Edited(plan))
        if event.step:
            self._open_neighbour(event.path, event.step)

    def on_editor_left(self, event: Editor.Left) -> None:
        """The rows have the focus again."""
        event.stop()
        self.rows.focus()

    def _fill(self) -> None:
        width = self.rows.scrollable_content_region.width or 44
        self.rows.fill(plan_rows.plan_rows(self.plan, self.folded, self.wanted, width, self.facts))
        self._tell()

    def _tell(self) -> None:
        if self.screen.has_class("-tall"):
            row = self.row
            about = self.query_one("#about", Static)
            about.update(texts.about_row(row.id if row else "", self.technique_at_cursor()))

    def _toggle(self, name: str) -> None:
        on = name in self.plan.techniques
        self.post_message(self.Edited(toggle(self.plan, name, not on)))

    def _step(self, path: str) -> None:
        """The next of a choice or a switch; anything else is typed."""
        field = plan_rows.field(path)
        value = plan_rows.value_at(self.plan, path)
        choices = (False, True) if isinstance(value, bool) else field.choices if field else ()
        if value not in choices:
            self._open(path)
            return
        following = choices[(choices.index(value) + 1) % len(choices)]
        text = f"{path}={plan_rows.text_of(following)}"
        self.post_message(self.Edited(override(self.plan, text)))

    def _edit_technique(self, name: str) -> None:
        """Switch it on if it is off; open its first parameter if it has one."""
        fields = techniques()[name].params.__struct_fields__
        if name not in self.plan.techniques:
            plan = toggle(self.plan, name, True)
            self.plan = plan
            self._fill()
            self.post_message(self.Edited(plan))
        if fields:
            self._open(f"techniques.{name}.{fields[0]}")

    def _open_neighbour(self, path: str, step: int) -> None:
        values = [row.id for row in self.rows.rows if row.id.startswith("value:")]
        place = values.index(f"value:{path}") + step
        if 0 <= place < len(values):
            self._open(values[place].removeprefix("value:"))

    def _open(self, path: str) -> None:
        self.rows.select(f"value:{path}")
        # The list scrolls first, so that the field opens where the row has come to stand.
        self.call_after_refresh(
            self.run_worker, self._open_editor(path), exclusive=True, group="field"
        )

    async def _open_editor(self, path: str) -> None:
        editor = await self._editor()
        line = self.rows.line_of(f"value:{path}")
        height = self.rows.size.height
        width = self.rows.scrollable_content_region.width
        editor.styles.offset = (plan_rows.LABEL, min(line, max(0, height - 3)))
        editor.styles.width = max(12, width - plan_rows.LABEL)
        text = plan_rows.text_of(plan_rows.value_at(self.plan, path))
        editor.open(path, text, _hint(path))

    async def _editor(self) -> Editor:
        from memwb.workbench.panels.editor import Editor

        try:
            return self.query_one(Editor)
        except NoMatches:
            editor = Editor(self._wrong)
            await self.mount(editor)
            return editor

    def _wrong(self, path: str, text: str) -> str:
        try:
            override(self.plan, f"{path}={text}")
        except MemwbError as error:
            _, _, reason = error.what.partition(": ")
            return reason or error.what
        return ""


def _hint(path: str) -> str:
    field = plan_rows.field(path)
    if field is None:
        return ""
    known = " | ".join(str(choice) for choice in field.choices) or field.type
    return " · ".join(part for part in (field.description, known) if part)
