"""The history of runs: choose one to see it again, mark two to lay them over each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical

from memwb.workbench import library
from memwb.workbench.panels.history_rows import history_rows
from memwb.workbench.panels.owner import Owner
from memwb.workbench.panels.rows import Row, Rows

if TYPE_CHECKING:
    from memwb.engine.runs import Summary

EMPTY = Row("", ((" no runs yet", "muted"),), (), False)
SAID = ("", "A marked · c on another compares", "A filled · B outlined")
"""What is said of so many marks."""


class RunsPanel(Vertical):
    """The list of runs, newest first."""

    def __init__(self, owner: Owner, *, id: str) -> None:
        super().__init__(id=id)
        self._owner = owner
        self._runs: Sequence[Summary] = ()
        self._shown = ""
        self._marks: tuple[str, ...] = ()
        self._outside: frozenset[str] = frozenset()

    def compose(self) -> ComposeResult:
        """The list."""
        self.border_title = "5 Runs"
        yield Rows([EMPTY], id="runs-rows")

    @property
    def rows(self) -> Rows:
        """The list of rows."""
        return self.query_one("#runs-rows", Rows)

    @property
    def folder(self) -> str:
        """The folder of the run at the cursor."""
        row = self.rows.current
        return row.id if row is not None else ""

    def show(self, runs: Sequence[Summary], shown: str, marks: tuple[str, ...]) -> None:
        """Other runs, or others of them in the charts."""
        grown = len(runs) > len(self._runs)
        other = runs is not self._runs
        self._runs, self._shown, self._marks = runs, shown, marks
        if other:
            self._judge()
        self._fill()
        if grown and runs:
            self.rows.select(shown or runs[0].folder)
        self.border_subtitle = SAID[len(marks)]

    @work(group="outside", exclusive=True)
    async def _judge(self) -> None:
        """Mark the runs whose losses are outside; found beside the list, which does not wait."""
        outside = await asyncio.to_thread(library.outside, self._runs)
        if outside != self._outside:
            self._outside = outside
            self._fill()

    def choose(self) -> None:
        """Show the run at the cursor."""
        if self.folder:
            self._owner.show_run(self.folder)

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A click shows the run."""
        event.stop()
        self.choose()

    def on_resize(self) -> None:
        """Narrow rows leave the speed out."""
        self._fill()

    def _fill(self) -> None:
        width = self.rows.size.width
        rows = history_rows(self._runs, self._shown, self._marks, width, self._outside)
        self.rows.fill(rows or [EMPTY])
