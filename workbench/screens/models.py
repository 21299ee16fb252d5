"""Choosing a model: search what is known here, or give a folder or a hub id."""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar

from msgspec.structs import replace
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.fuzzy import FuzzySearch
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.catalog import Model
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.workbench import library
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.screens.dialog import DIALOG
from memwb.workbench.settings import Settings
from memwb.workbench.units import count, parameters

SOURCES = {"catalogue": "catalogue", "cache": "local cache", "folder": "folder", "hub": "hub"}


class ModelScreen(ModalScreen[Plan | None]):
    """Returns the plan with another model."""

    DEFAULT_CSS = f"""
    ModelScreen {{
        {DIALOG}
        Rows {{ height: 1fr; }}
        #columns {{ height: 1; color: $foreground 60%; }}
        .said {{ margin-top: 1; min-height: 3; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Leave"),
        Binding("down", "move(1)", "Next", priority=True, show=False),
        Binding("up", "move(-1)", "Previous", priority=True, show=False),
        Binding("pagedown", "page(1)", "Page down", priority=True, show=False),
        Binding("pageup", "page(-1)", "Page up", priority=True, show=False),
    ]

    def __init__(self, plan: Plan, settings: Settings) -> None:
        super().__init__()
        self._plan = plan
        self._settings = settings
        self._models: list[Model] = []

    def compose(self) -> ComposeResult:
        """A field, the models, and a line that answers."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Choose a model"
            box.border_subtitle = "↵ takes it · esc leaves"
            yield Input(placeholder="search, or a folder, or a hub id such as owner/name")
            yield Static(_columns(), id="columns")
            yield Rows(id="models")
            yield Static(classes="said", markup=False)

    async def on_mount(self) -> None:
        """Reading the cache's folders is left to a thread."""
        self.query_one(Input).focus()
        self._models = await asyncio.to_thread(library.models)
        self._fill("")
        self.query_one(Rows).select(self._plan.model)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list while one types."""
        self._fill(event.value.strip())

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Say what is at the cursor."""
        self._describe()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click takes the model."""
        self._describe()
        if event.again:
            self._take(event.row.id)

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the model at the cursor, or what was typed if nothing matches."""
        row = self.query_one(Rows).current
        typed = event.value.strip()
        if typed and (row is None or not row.id or _is_path(typed)):
            self._take(typed)
        elif row is not None and row.id:
            self._take(row.id)

    def action_move(self, by: int) -> None:
        """Move in the list without leaving the field."""
        self.query_one(Rows).action_move(by)

    def action_page(self, by: int) -> None:
        """A screenful, without leaving the field."""
        self.query_one(Rows).action_page(by)

    def _take(self, name: str) -> None:
        self.run_worker(self._resolve(name), exclusive=True)

    async def _resolve(self, name: str) -> None:
        plan = replace(self._plan, model=name)
        try:
            await asyncio.to_thread(library.resolve, plan, self._settings)
        except MemwbError as error:
            if plan.weights == "auto":
                self._say(f"✗ {error}", "-bad")
                return
            # Weights that were asked for another model need not exist for this one.
            plan = replace(plan, weights="auto")
            try:
                await asyncio.to_thread(library.resolve, plan, self._settings)
            except MemwbError as second:
                self._say(f"✗ {second}", "-bad")
                return
        self.dismiss(plan)

    def _fill(self, wanted: str) -> None:
        found = _search(self._models, wanted)
        rows = [_row(model) for model in found]
        listing = self.query_one(Rows)
        if not rows:
            text = f"  ↵ takes {wanted!r} as a folder or hub id" if wanted else "  reading…"
            rows = [Row("", ((text, "muted"),), (), False)]
        listing.fill(rows)
        if wanted:
            listing.action_edge(0)
        self._describe()

    def _describe(self) -> None:
        row = self.query_one(Rows).current
        model = next((one for one in self._models if row and one.name == row.id), None)
        if model is None:
            self._say("", "")
        elif model.weights == "random":
            tail = "" if model.location else ", and there are none to download"
            self._say(
                f"{model.name}: random weights. No weights are on this machine{tail}; memory is "
                "the same, and the loss starts from nothing learned.",
                "",
            )
        else:
            where = "not on this machine, to be fetched from the hub"
            where = where if model.source == "hub" else f"pretrained weights from {model.location}"
            self._say(f"{model.name}: {where}.", "")

    def _say(self, text: str, kind: str) -> None:
        said = self.query_one(".said", Static)
        said.update(text)
        for name in ("-bad", "-good"):
            said.set_class(name == kind, name)


def _search(models: list[Model], wanted: str) -> list[Model]:
    if not wanted or _is_path(wanted):
        return [] if wanted else models
    fuzzy = FuzzySearch()
    scored = [(fuzzy.match(wanted, f"{model.name} {model.location}")[0], model) for model in models]
    scored = [pair for pair in scored if pair[0] > 0]
    return [model for _, model in sorted(scored, key=lambda pair: -pair[0])]


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or os.path.isdir(os.path.expanduser(text))


def _columns() -> str:
    figures = f"{'size':>9}{'vocabulary':>12}{'context':>9}"
    return f"  {'model':<22}{figures}  {'weights':<12}{'source':<13}licence"


def _row(model: Model) -> Row:
    random = model.weights == "random"
    return Row(
        model.name,
        (
            (f"  {model.name:<22}", "accent"),
            (f"{parameters(model.parameters) if model.parameters else '–':>9}", "value"),
            (f"{count(model.vocabulary):>12}{count(model.context):>9}  ", "plain"),
            (f"{'random' if random else 'pretrained':<12}", "warning" if random else "on"),
            (f"{SOURCES.get(model.source, model.source):<13}{model.licence}", "muted"),
        ),
    )
