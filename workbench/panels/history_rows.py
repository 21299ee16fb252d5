"""Runs as rows of the history, and the line of column names above them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from textual.content import Content

from memwb.engine.keeping import given_name
from memwb.engine.technique import techniques
from memwb.workbench.comparing import LETTERS
from memwb.workbench.ordering import ORDERS, at_least, whole_peak
from memwb.workbench.panels.rows import Lazy, Row, Spans
from memwb.workbench.units import delta, gib, loss, moment, name, rate

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
PINNED, NOTED = "◆", "✎"
BEFORE, NUMBER = 4, 6
"""Columns of the marks and the outcome, then of the number and the pin."""
MUTED = "$foreground 60%"


class View(NamedTuple):
    """How a history is looked at."""

    shown: str = ""
    """The folder of the run in the charts."""
    marks: tuple[str, ...] = ()
    pinned: Summary | None = None
    sort: str = "time"
    turned: bool = False
    outside: Container[str] = ()
    """Folders of the runs whose losses are outside what they owe."""
    called: Mapping[str, tuple[str, str]] = {}
    """Techniques with their parameters, and the workload, by folder; once they are read."""


class Column(NamedTuple):
    """A figure at the right of every row."""

    sort: str
    """The order that a click on its name gives; empty where there is none."""
    title: str
    width: int
    style: str
    room: int
    """From how wide a list on it is shown; what the list is sorted by always is."""
    text: Callable[[Summary, View], str]


def _moment(run: Summary, view: View) -> str:
    return moment(run.created)


def _peak(run: Summary, view: View) -> str:
    if run.peak is None:
        return run.outcome
    return f"{at_least(run)}{gib(run.peak.allocated)}"


def _gap(run: Summary, view: View) -> str:
    if view.pinned is None:
        return ""
    if run.folder == view.pinned.folder:
        return "baseline"
    own, other = whole_peak(run), whole_peak(view.pinned)
    return "" if own is None or other is None else delta(own - other)


def _workload(run: Summary, view: View) -> str:
    return view.called.get(run.folder, ("", ""))[1]


COLUMNS = (
    Column("time", "time", 13, "muted", 104, _moment),
    Column(
        "loss", "loss", 9, "muted", 84, lambda run, _: loss(run.losses[-1]) if run.losses else "–"
    ),
    Column("", "batch × seq", 14, "muted", 120, _workload),
    Column("", "to ◆", 11, "muted", 0, _gap),
    Column("peak", "peak", 11, "value", 0, _peak),
    Column("speed", "speed", 15, "muted", 60, lambda run, _: rate(run.tokens_per_second)),
)


def label(run: int) -> str:
    """A run's short name."""
    return f"#{run}"


Made = dict[str, tuple[object, Row]]
"""Rows by their runs' folders, each with all that it was made of."""


def history_rows(runs: Sequence[Summary], view: View, width: int, made: Made | None = None) -> Lazy:
    """One row a run: marks, outcome, number, model, name or techniques, then its figures.

    Those that were ``made`` before are taken as they are: a key changes few.
    """
    columns, known = tuple(columns_in(width, view)), {} if made is None else made

    def make(at: int) -> Row:
        run = runs[at]
        of = (
            run,
            columns,
            view.pinned,
            run.folder == view.shown,
            view.marks.index(run.folder) if run.folder in view.marks else None,
            run.folder in view.outside,
            view.called.get(run.folder),
        )
        found = known.get(run.folder)
        if found is None or found[0] != of:
            found = known[run.folder] = (of, _row(run, view, columns))
        return found[1]

    return Lazy([run.folder for run in runs], make)


def columns_in(width: int, view: View) -> list[Column]:
    """The figures that a list of this width has room for."""
    found = [one for one in COLUMNS if width >= one.room or one.sort == view.sort != "time"]
    return [one for one in found if one.text is not _gap or view.pinned is not None]


def head(view: View, width: int) -> tuple[Content, Content]:
    """The names of the columns, each a click away from its order: the left part, then the right."""
    columns = columns_in(width, view)
    arrow = "▼" if ORDERS[view.sort].down != view.turned else "▲"
    titles = {one.sort for one in columns if one.sort}
    left = [("", "run"), ("model", "model"), ("name", "name")]
    if "time" not in titles:
        left[0] = ("time", "run")
    first, *others = (_title(sort, title, view, arrow) for sort, title in left)
    start = Content(" " * BEFORE) + first.pad_right(max(0, NUMBER - first.cell_length))
    right = []
    for one in columns:
        title = _title(one.sort, one.title, view, arrow)
        right.append(Content(" " * max(1, one.width - title.cell_length)) + title)
    return start + Content("  ").join(others), Content("").join(right) + "  "


def _title(sort: str, title: str, view: View, arrow: str) -> Content:
    if not sort:
        return Content.styled(title, MUTED)
    here = sort == view.sort
    style = "bold $text-accent" if here else MUTED
    text = f"{title} {arrow}" if here else title
    return Content.from_markup(f"[@click=app.sort_runs('{sort}')][{style}]{text}[/][/]")


def _row(run: Summary, view: View, columns: Sequence[Column]) -> Row:
    sign, style = OUTCOME.get(run.outcome, ("?", "warning"))
    marked = run.folder in view.marks
    mark = LETTERS[view.marks.index(run.folder)] if marked else " "
    here = "›" if run.folder == view.shown or marked else " "
    pinned = view.pinned is not None and run.folder == view.pinned.folder
    left: Spans = (
        (f"{here}", "accent"),
        (mark, "accent"),
        (f"{sign} ", style),
        (f"{label(run.run):<{NUMBER - 2}}", "plain"),
        (f"{PINNED if pinned else ' '} ", "accent"),
        (f"{name(run.model, 24)}  ", "accent" if run.folder == view.shown else "plain"),
        *_called(run, view),
    )
    right: Spans = (("  ✗ loss", "error"),) if run.folder in view.outside else ()
    right += tuple((f"{one.text(run, view):>{one.width}}", one.style) for one in columns)
    return Row(run.folder, left, (*right, (" ", "muted")))


def titles(run: Summary) -> str:
    """What a run is called that nobody gave a name: its techniques by their titles."""
    known = techniques()
    # A run may be of a technique that this version does not know.
    return " + ".join(known[n].title if n in known else n for n in run.techniques) or "plain"


def _called(run: Summary, view: View) -> Spans:
    """The given name before the techniques; the techniques alone where there is none."""
    names = view.called.get(run.folder, (titles(run), ""))[0]
    note: Spans = ((f"{NOTED} ", "accent"),) if run.note else ()
    given = given_name(run)
    return (
        (*note, (f"{given}  ", "value"), (names, "muted")) if given else (*note, (names, "muted"))
    )
