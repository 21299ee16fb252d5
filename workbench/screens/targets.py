"""The GPUs: what each has, whether the plan fits it, and which one plans are predicted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.plan import Plan
from memwb.engine.prediction import Fit, Prediction
from memwb.engine.protocol import Device
from memwb.workbench import library
from memwb.workbench.aside import Answer, Aside, Asides
from memwb.workbench.foresight import room_on
from memwb.workbench.library import Target
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import Row, Rows, Spans
from memwb.workbench.screens import gpu_rows
from memwb.workbench.screens.dialog import DIALOG, HEIGHTS, HELP_TYPING, explain, say
from memwb.workbench.screens.gpu_rows import SORTS, VERDICTS
from memwb.workbench.units import gib

EVERY = 1.0
"""Seconds between two looks at what is known of the plan by now."""
HERE = "here"
"""The id of the first row; no GPU is called so."""
CPU = "cpu"
NOTHING = Row("", (("  nothing matches", "muted"),), (), False)


class TargetScreen(ModalScreen[str | None]):
    """Returns the id of the chosen target, empty for this machine."""

    DEFAULT_CSS = f"""
    TargetScreen {{
        {DIALOG}
        Rows {{ height: 1fr; }}
        #verdicts {{ margin-bottom: 1; }}
        &.-short #verdicts {{ margin-bottom: 0; }}
        .said {{ height: 2; margin-top: 1; }}
        &.-short .said {{ margin-top: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "leave"),
        HELP_TYPING,
        Binding("tab", "next_sort", "sort", priority=True, show=False),
        Binding("shift+tab", "next_verdict", "narrow", priority=True, show=False),
        Binding("down", "move(1)", "next", priority=True, show=False),
        Binding("up", "move(-1)", "previous", priority=True, show=False),
        Binding("pagedown", "page(1)", "page down", priority=True, show=False),
        Binding("pageup", "page(-1)", "page up", priority=True, show=False),
    ]

    def __init__(
        self,
        plan: Plan,
        look: Callable[[], Outlook],
        target: str,
        device: Device | None,
        asides: Asides,
    ) -> None:
        """``look`` gives what is known of the plan by now."""
        super().__init__()
        self._plan = plan
        self._target = target
        self._device = device
        self._asides = asides
        self._targets = library.targets()
        self._look = look
        self._result: Prediction | None = None
        self._fits: dict[str, Fit] = {}
        self._known: set[str] = set()
        """Architectures that the plan was predicted for, or cannot be."""
        self._verdict = self._sort = ""
        self._catch_up()

    def compose(self) -> ComposeResult:
        """This machine, the GPUs, and the CPU; with the verdict on the plan as it stands."""
        with Vertical(classes="dialog") as box:
            box.border_title = "GPUs: what fits where"
            box.border_subtitle = "↵ predicts for it · tab sorts · f1 help · esc leaves"
            yield Input(placeholder="search, as 4090 or h100")
            yield Line(id="verdicts")
            yield Line(id="columns")
            yield Rows()
            yield Static(classes="said", markup=False)

    def on_mount(self) -> None:
        """The cursor stands on what it is now; the other architectures are asked for."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one("#columns").add_class("columns")
        self.query_one(Rows).led = True
        self.query_one(Input).focus()
        self._fill()
        self.query_one(Rows).select(self._target or HERE)
        self._ask("")
        self.set_interval(EVERY, self._follow)

    def _catch_up(self) -> bool:
        """Whether more is known of the plan than before."""
        outlook = self._look()
        result = outlook.result if outlook.current else None
        if result is None or result is self._result:
            return False
        self._result = result
        self._learn(result)
        return True

    def _follow(self) -> None:
        if self._catch_up():
            self._fill()
        else:
            self._describe()

    def on_unmount(self) -> None:
        """The engine goes on with the plan."""
        self._asides.leave()

    def on_resize(self, event: events.Resize) -> None:
        """Other columns."""
        if self.children:
            self.call_after_refresh(self._fill)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list while one types."""
        self._narrowed()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Choose the row at the cursor."""
        self._take()

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Its architecture is the next that is predicted for."""
        found = self._named(event.row.id)
        self._describe()
        if found is not None and found.arch not in self._known:
            self._ask(found.arch)

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click chooses."""
        if event.again:
            self._take()

    def action_move(self, by: int) -> None:
        """Move in the list without leaving the field."""
        self.query_one(Rows).action_move(by)

    def action_page(self, by: int) -> None:
        """A screenful, without leaving the field."""
        self.query_one(Rows).action_page(by)

    def action_next_sort(self) -> None:
        """Sort by the next column."""
        names = list(SORTS)
        self.action_sort(names[(names.index(self._sort) + 1) % len(names)])

    def action_sort(self, name: str) -> None:
        """Sort by a column; the empty one is the order of the list."""
        self._sort = name
        self._narrowed()

    def action_next_verdict(self) -> None:
        """Narrow to the next verdict."""
        names = list(VERDICTS)
        self.action_narrow(names[(names.index(self._verdict) + 1) % len(names)])

    def action_narrow(self, verdict: str) -> None:
        """Only the GPUs of a verdict; empty shows all."""
        self._verdict = verdict
        self._narrowed()

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "targets")

    def _take(self) -> None:
        row = self.query_one(Rows).current
        if row is not None and row.id:
            self.dismiss("" if row.id == HERE else row.id)

    # What fits

    def _ask(self, first: str) -> None:
        """Predict for one GPU of each architecture that is not known, one of them first."""
        by_arch = {one.arch: one.id for one in reversed(self._targets)}
        wanted = [arch for arch in dict.fromkeys(one.arch for one in self._targets)]
        wanted = [arch for arch in wanted if arch not in self._known]
        wanted.sort(key=lambda arch: arch != first)
        self._asides.ask([Aside(arch, self._plan, by_arch[arch]) for arch in wanted], self._told)
        self._describe()

    def _told(self, arch: str, answer: Answer) -> None:
        self._known.add(arch)
        if isinstance(answer, Prediction):
            self._learn(answer)
            self._fill()
        else:
            say(self, f"✗ not predicted: {answer.what or answer.title}", "-bad")

    def _learn(self, result: Prediction) -> None:
        self._fits = gpu_rows.merged(self._fits, result.fits)
        if (named := self._named(result.target)) is not None:
            self._known.add(named.arch)

    def _named(self, target: str) -> Target | None:
        return next((one for one in self._targets if one.id == target), None)

    # The list

    def _narrowed(self) -> None:
        """Another choice of rows: the cursor goes to the first, or to the target."""
        self._fill()
        listing = self.query_one(Rows)
        plain = not (self.query_one(Input).value.strip() or self._verdict or self._sort)
        if not plain or not listing.select(self._target or HERE):
            listing.action_edge(0)

    def _fill(self) -> None:
        listing = self.query_one(Rows)
        width = listing.size.width or self.app.size.width
        text = self.query_one(Input).value
        words = text.lower().split()
        rows = []
        if not self._verdict and not self._sort:
            rows = [row for row, says in self._others(width) if all(word in says for word in words)]
        found = gpu_rows.chosen(self._targets, self._fits, text, self._verdict, self._sort)
        told = [
            gpu_rows.row(
                one, one.id == self._target, gpu_rows.fit_spans(self._fits.get(one.id)), width
            )
            for one in found
        ]
        # This machine comes first, any CPU last.
        rows = [*rows[:1], *told, *rows[1:]] if len(rows) == 2 else [*rows, *told]
        listing.fill(rows or [NOTHING])
        self.query_one("#columns", Line).show(gpu_rows.columns(width, self._sort))
        self.query_one("#verdicts", Line).show(
            gpu_rows.chips(self._verdict, self._fits, len(self._targets))
        )
        self._describe()

    def _others(self, width: int) -> list[tuple[Row, str]]:
        """The rows of this machine and of any CPU, and what they are found by."""
        here = self._device
        room = room_on(self._result, here) if self._result is not None and here else None
        told: Spans = ()
        if room is not None and self._result is not None and here is not None:
            own = self._result.target == here.kind
            told = gpu_rows.room_spans(room) if own else ()
        name = here.name if here is not None else ""
        capacity = here.capacity if here is not None else 0
        names = gpu_rows.name_width(width)
        wide = gpu_rows.RATE - 9 if names else 0
        space = gpu_rows.ID + names
        shown = f"{'this machine':<{gpu_rows.ID}}{name}" if space > gpu_rows.ID else "this machine"
        first = Row(
            HERE,
            (
                (" ● " if not self._target else "   ", "on"),
                (f"{shown:<{space}.{space}}", "accent"),
                (f"{gib(capacity) if capacity else '':>9}{'':>{wide + 18}}", "value"),
                *told,
            ),
        )
        last = Row(
            CPU,
            (
                (" ● " if self._target == CPU else "   ", "on"),
                (f"{'cpu':<{gpu_rows.ID}}", "accent"),
                ("any CPU: what its meter would measure", "muted"),
            ),
        )
        return [(first, f"this machine {name.lower()}"), (last, "cpu any")]

    def _describe(self) -> None:
        """What is still predicted, or what the mark means that some rows have."""
        if self.query_one(".said").has_class("-bad"):
            return
        missing = {one.arch for one in self._targets} - self._known
        if missing:
            waiting = self._asides.why_waiting()
            some = f"{len(missing)} architecture{'s' if len(missing) > 1 else ''} to go"
            say(self, f"{some}: {waiting} · ~ is told for another's kernels, which may differ")
        else:
            say(self, "every verdict is for kernels of the card's own architecture")
