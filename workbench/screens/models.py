"""Choosing a model: search what is known here, or give a folder or a hub id."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import ClassVar

from msgspec.structs import replace
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.catalog import Model
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import Device
from memwb.workbench import library, workers
from memwb.workbench.aside import Answer, Aside, Asides
from memwb.workbench.panels.forecast import MUTED
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.screens import model_rows, needs
from memwb.workbench.screens.dialog import DIALOG, HEIGHTS, HELP_TYPING, explain, say
from memwb.workbench.screens.model_rows import SOURCES, is_path
from memwb.workbench.settings import Settings
from memwb.workbench.typical import tokens, typical_plans
from memwb.workbench.units import gib


class ModelScreen(ModalScreen[Plan | None]):
    """Returns the plan with another model."""

    DEFAULT_CSS = f"""
    ModelScreen {{
        {DIALOG}
        Rows {{ height: 1fr; }}
        #sources {{ margin-bottom: 1; }}
        &.-short #sources {{ margin-bottom: 0; }}
        #needs {{ margin-top: 1; height: 6; }}
        &.-short #needs {{ margin-top: 0; border-top: solid $foreground 15%; height: 7; }}
        .said {{ height: 2; }}
        &.-short .said {{ height: 1; }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "leave"),
        HELP_TYPING,
        Binding("tab", "next_source(1)", "source", priority=True, show=False),
        Binding("shift+tab", "next_source(-1)", "source", priority=True, show=False),
        Binding("down", "move(1)", "next", priority=True, show=False),
        Binding("up", "move(-1)", "previous", priority=True, show=False),
        Binding("pagedown", "page(1)", "page down", priority=True, show=False),
        Binding("pageup", "page(-1)", "page up", priority=True, show=False),
    ]

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        asides: Asides,
        target: str = "",
        device: Device | None = None,
        used: Sequence[str] = (),
    ) -> None:
        """``used`` are models of earlier plans and runs, folders and hub ids among them."""
        super().__init__()
        self._plan = plan
        self._settings = settings
        self._asides = asides
        self._target = target
        self._device = device
        self._used = tuple(used)
        self._models: list[Model] = []
        self._typed: list[Model] = []
        """Folders and hub ids that go on from what is typed."""
        self._looked = ""
        """What they were looked for."""
        self._source = ""
        self._answers: dict[str, dict[str, Answer]] = {}
        """By model and plan."""
        self._wanted = ""
        """The model whose needs are asked for."""

    def compose(self) -> ComposeResult:
        """A field, the sources, the models, and what the one at the cursor needs."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Choose a model"
            box.border_subtitle = "↵ takes it · tab source · f1 help · esc leaves"
            yield Input(placeholder="search, or a folder, or a hub id such as owner/name")
            yield Line(id="sources")
            yield Line(id="columns")
            yield Rows(id="models")
            yield Static(id="needs")
            yield Static(classes="said", markup=False)

    async def on_mount(self) -> None:
        """Reading the cache's folders is left to a thread."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one("#columns").add_class("columns")
        self.query_one(Rows).led = True
        self.query_one(Input).focus()
        self._models = await asyncio.to_thread(library.models, self._used, self._settings)
        self._fill()
        self.query_one(Rows).select(self._plan.model)
        self._describe()
        workers.start(self, "kept", self._recall)
        # Why an answer is still waited for may be another by now.
        self.set_interval(1.0, self._show_needs)

    def on_unmount(self) -> None:
        """The engine goes on with the plan."""
        self._asides.leave()

    def on_resize(self, event: events.Resize) -> None:
        """Other columns, other bars: as wide as what is below the list has become."""
        if self._models:
            self.call_after_refresh(self._fill)

    @property
    def _text(self) -> str:
        return self.query_one(Input).value.strip()

    async def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list while one types; a path lists the folders that go on from it."""
        await self._look(event.value.strip())

    async def _look(self, text: str) -> None:
        typed: list[Model] = []
        if is_path(text):
            typed = await asyncio.to_thread(library.folders, text)
        elif library.is_hub_id(text) and not any(
            text in (each.name, each.location) for each in self._models
        ):
            typed = [Model(name=text, source="hub", location=text, weights="pretrained")]
        if text == self._text:
            self._typed, self._looked = typed, text
            self._fill()

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Tell of what is at the cursor."""
        self._describe()

    async def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click takes the model."""
        self._describe()
        if event.again:
            self._choose(event.row)

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the model at the cursor, or what was typed if nothing goes on from it."""
        typed = event.value.strip()
        if typed != self._looked:
            # What is typed fast has not been looked for yet.
            await self._look(typed)
        row = self.query_one(Rows).current
        if row is not None and row.id and row.id != f"{typed}/":
            self._choose(row)
        elif typed:
            self._take(typed)

    def action_move(self, by: int) -> None:
        """Move in the list without leaving the field."""
        self.query_one(Rows).action_move(by)

    def action_page(self, by: int) -> None:
        """A screenful, without leaving the field."""
        self.query_one(Rows).action_page(by)

    def action_next_source(self, by: int) -> None:
        """Only the models of the next source, and after the last all again."""
        names = list(SOURCES)
        self.action_source(names[(names.index(self._source) + by) % len(names)])

    def action_source(self, name: str) -> None:
        """Only the models of one source; empty shows all."""
        self._source = name
        self._fill()

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "models")

    def _choose(self, row: Row) -> None:
        model = self._model_of(row)
        if model is not None and model.source == "folder" and model.config is None:
            # Nothing to be trained yet: its folders are listed.
            field = self.query_one(Input)
            field.value = model.name
            field.cursor_position = len(model.name)
        else:
            self._take(row.id)

    def _take(self, name: str) -> None:
        workers.displace(self, "take", self._resolve, name)

    async def _resolve(self, name: str) -> None:
        plan = replace(self._plan, model=name)
        try:
            await asyncio.to_thread(library.resolve, plan, self._settings)
        except MemwbError as error:
            if plan.weights == "auto":
                say(self, f"✗ {error}", "-bad")
                return
            # Weights that were asked for another model need not exist for this one.
            plan = replace(plan, weights="auto")
            try:
                await asyncio.to_thread(library.resolve, plan, self._settings)
            except MemwbError as second:
                say(self, f"✗ {second}", "-bad")
                return
        self.dismiss(plan)

    # The list

    def _fill(self) -> None:
        text = self._text
        listing = self.query_one(Rows)
        found = model_rows.chosen([*self._typed, *self._models], text, self._source)
        width = listing.size.width or self.app.size.width
        rows = [model_rows.row(model, width) for model in found]
        if not rows:
            hint = model_rows.hint(self._source, text, bool(self._models))
            rows = [Row("", ((f"  {hint}", "muted"),), (), False)]
        listing.fill(rows)
        if text:
            listing.action_edge(0)
        self.query_one("#columns", Line).show(model_rows.columns(width), "plans ")
        counts = model_rows.counts(self._models)
        self.query_one("#sources", Line).show(model_rows.chips(self._source, counts))
        self._mark()
        self._describe()

    def _model_of(self, row: Row | None) -> Model | None:
        known = (*self._typed, *self._models)
        return next((one for one in known if row and one.name == row.id), None)

    def _describe(self) -> None:
        model = self._model_of(self.query_one(Rows).current)
        name = model.name if model is not None else ""
        if name != self._wanted:
            self._wanted = name
            say(self, model_rows.about(model))
            self._ask(model)
        self._show_needs()

    # What it needs

    def _plans(self, name: str) -> dict[str, Plan]:
        return typical_plans(name, self._plan.workload)

    def _ask(self, model: Model | None) -> None:
        if model is None or (model.source == "folder" and model.config is None):
            self._asides.ask((), self._told)
            return
        known = self._answers.setdefault(model.name, {})
        asides = [
            Aside(name, plan, self._target)
            for name, plan in self._plans(model.name).items()
            if name not in known
        ]
        self._asides.ask(asides, functools.partial(self._told, of=model.name))

    def _told(self, name: str, answer: Answer, of: str = "") -> None:
        self._answers.setdefault(of, {})[name] = answer
        self._mark()
        self._show_needs()

    async def _recall(self) -> None:
        """The marks of every model, as far as it was predicted before: those in sight first."""
        listing = self.query_one(Rows)
        order = [row.id for row in listing.in_sight()]
        order += [one.name for one in self._models if one.name not in order]
        for name in filter(None, order):
            plans = self._plans(name)
            found = await asyncio.to_thread(library.kept, plans, self._target, self._device)
            self._answers[name] = found | self._answers.get(name, {})
            if found:
                self._mark()

    def _mark(self) -> None:
        told = {name: needs.marks(answers, self._device) for name, answers in self._answers.items()}
        self.query_one(Rows).beside(told)

    def _show_needs(self) -> None:
        pane = self.query_one("#needs", Static)
        model = self._model_of(self.query_one(Rows).current)
        if model is None or (model.source == "folder" and model.config is None):
            pane.update("")
            return
        width = pane.size.width or self.app.size.width
        where = self._target or "this machine"
        room = self._capacity(model.name)
        head = Content.assemble(
            (f"{model.name}", "bold $text-primary"),
            (f"  needs for {where}{f', {gib(room)}' if room else ''}", MUTED),
            (f", with {tokens(self._plan.workload)}", MUTED),
        )
        waiting = self._asides.why_waiting(model.config is None)
        told = needs.lines(self._answers.get(model.name, {}), self._device, width, waiting)
        pane.update(Content("\n").join([head.truncate(max(20, width), ellipsis=True), *told]))

    def _capacity(self, name: str) -> int | None:
        return needs.capacity(self._answers.get(name, {}), self._device)
