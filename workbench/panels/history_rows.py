"""Runs as rows of the history."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from memwb.engine.technique import techniques
from memwb.workbench.panels.rows import Row, Spans
from memwb.workbench.units import gib, name, rate

if TYPE_CHECKING:
    from memwb.engine.runs import Summary

OUTCOME = {
    "done": ("✓", "on"),
    "oom": ("▲", "error"),
    "failed": ("✗", "error"),
    "stopped": ("■", "warning"),
    "running": ("▶", "accent"),
    "interrupted": ("◌", "warning"),
    "damaged": ("!", "error"),
}


def label(run: int) -> str:
    """A run's short name."""
    return f"#{run}"


def history_rows(
    runs: Sequence[Summary],
    shown: str,
    marks: tuple[str, ...],
    width: int,
    outside: Container[str] = (),
) -> list[Row]:
    """One row a run, newest first: mark, outcome, number, model, techniques, peak, speed.

    With a word on the losses of those whose folder is in ``outside``.
    """
    return [_row(run, shown, marks, width, run.folder in outside) for run in runs]


def _row(run: Summary, shown: str, marks: tuple[str, ...], width: int, outside: bool) -> Row:
    sign, style = OUTCOME.get(run.outcome, ("?", "warning"))
    mark = "AB"[marks.index(run.folder)] if run.folder in marks else " "
    here = "›" if run.folder == shown or run.folder in marks else " "
    known = techniques()
    # A run may be of a technique that this version does not know.
    names = " + ".join(known[n].title if n in known else n for n in run.techniques) or "plain"
    left: Spans = (
        (f"{here}", "accent"),
        (mark, "accent"),
        (f"{sign} ", style),
        (f"{label(run.run):<5}", "plain"),
        (f"{name(run.model, 24)}  ", "accent" if run.folder == shown else "plain"),
        (names, "muted"),
    )
    peak = gib(run.peak.allocated) if run.peak else run.outcome
    right: Spans = (("  ✗ loss", "error"),) if outside else ()
    right += ((f"  {peak:>9}", "value"),)
    if width >= 60:
        right += ((f"  {rate(run.tokens_per_second):>13}", "muted"),)
    return Row(run.folder, left, (*right, (" ", "muted")))
