"""The main screen: the plan at the left, what was measured at the right, one line of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Input

from memwb.engine.protocol import Device, Event, Samples, Started, Step, Timeline
from memwb.engine.runs import pinned
from memwb.workbench import chart_actions, guide, layout, state
from memwb.workbench.commands import bindings, keyed_in
from memwb.workbench.layout import PANELS
from memwb.workbench.lean import LeanCompositor
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.body import Body
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.loss import LossPanel
from memwb.workbench.panels.memory import MemoryPanel
from memwb.workbench.panels.notice import Notice
from memwb.workbench.panels.owner import Owner
from memwb.workbench.panels.peak import PeakPanel
from memwb.workbench.panels.plan import Config, PlanPanel
from memwb.workbench.panels.runs import RunsPanel
from memwb.workbench.panels.texts import first_steps, footer, header_left, header_right, tabs
from memwb.workbench.state import Session

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.runs import Summary
    from memwb.workbench.panels.compared import Compared
    from memwb.workbench.trace import Trace

FILTERS = ("filter", "runs-filter")


class MainScreen(Screen[None]):
    """Lays the panels out and passes keys on to the app's actions."""

    # The panel that had the focus last gets it.
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(""),
        Binding("escape", "back", "back", show=False, priority=True),
        Binding("tab", "next_panel(1)", "next panel", show=False, priority=True),
        Binding("shift+tab", "next_panel(-1)", "previous panel", show=False, priority=True),
    ]

    def __init__(self, owner: Owner, session: Session) -> None:
        super().__init__()
        self._compositor = LeanCompositor()
        self._owner = owner
        self._session = session
        self._trace: Trace | None = None
        self._engine = "starting"

    def compose(self) -> ComposeResult:
        """Header, panels, notice, footer."""
        # Before there is anything whose style a class could change.
        self._set_layout(self._session)
        yield Line(
            header_left(self._session.plan, None), header_right(None, "starting")[0], id="header"
        )
        yield Line(id="tabs")
        with Body(self._resized, id="body"):
            yield PlanPanel(self._owner, self._session, id="plan")
            with Vertical(id="right"):
                yield MemoryPanel(id="memory")
                yield LossPanel(id="loss")
                yield PeakPanel(id="peak")
                yield RunsPanel(self._owner, self._session, id="runs")
        yield Notice(id="notice")
        yield Line(id="guide")
        yield Line(id="footer")

    def on_mount(self) -> None:
        """The layout of the last time."""
        # Whoever freezes the memory chart (it has a key of its own) freezes the curve with it.
        self.watch(self.memory.chart, "frozen", self.loss.freeze, init=False)
        self.lay_out(self._session)
        self.focus_panel(self._session.tab)

    def on_resize(self, event: events.Resize) -> None:
        """A small terminal shows one panel at a time."""
        self.lay_out(self._session)
        self.show_footer(self._engine)

    @property
    def plan_panel(self) -> PlanPanel:
        """The plan's panel."""
        return self.query_one("#plan", PlanPanel)

    @property
    def memory(self) -> MemoryPanel:
        """The memory chart's panel."""
        return self.query_one("#memory", MemoryPanel)

    @property
    def loss(self) -> LossPanel:
        """The loss chart's panel."""
        return self.query_one("#loss", LossPanel)

    @property
    def peak(self) -> PeakPanel:
        """The peak's panel."""
        return self.query_one("#peak", PeakPanel)

    @property
    def runs(self) -> RunsPanel:
        """The history's panel."""
        return self.query_one("#runs", RunsPanel)

    @property
    def notice(self) -> Notice:
        """What happened."""
        return self.query_one("#notice", Notice)

    @property
    def panel(self) -> str:
        """The panel that holds the focus."""
        focused = self.focused
        above = focused.ancestors_with_self if focused is not None else ()
        return next((node.id for node in above if node.id in PANELS), self._session.tab)

    @property
    def typing(self) -> bool:
        """Whether somebody types into a field, or has left one open to look at another window."""
        opened = any(editor.display for editor in self.query("Editor"))
        return opened or isinstance(self.focused, Input)

    def show_session(
        self, session: Session, facts: str, device: Device | None, config: Config = None
    ) -> None:
        """The plan and the layout as they are now; device and config as far as they are known."""
        self._session = session
        self.plan_panel.show(session.plan, session.folded, facts, device, config)
        self.lay_out(session)
        # Letters that are being typed must never become commands.
        if session.tab != self.panel and not self.typing:
            self.focus_panel(session.tab)

    def show_header(
        self, model: Model | None, device: Device | None, engine: str, doing: str
    ) -> None:
        """The line at the top, unless the screen is being taken down."""
        for line in self.query("#header").results(Line):
            left = header_left(self._session.plan, model)
            line.show(left, *header_right(device, engine, doing))

    def show_footer(self, engine: str) -> None:
        """The keys that matter now."""
        self._engine = engine
        running = engine in ("waiting", "running", "stopping", "silent")
        typing = self.focused is not None and "field" in self.focused.classes
        broken = bool(self.plan_panel.found)
        filtering = typing and self.focused is not None and self.focused.id in FILTERS
        how = (running, typing, self._keymap, broken, filtering, self.app.size.width)
        self.query_one("#footer", Line).show(footer(self._session.tab, *how))
        # Of a long script that takes a moment.
        shown = self._trace if self._session.guide == "again" else None
        ran = shown.techniques if shown is not None else None
        where = (self._session, self._engine, self._keymap, *self.app.size)
        told = guide.line(*where, broken=broken, ran=ran)
        strip = self.query_one("#guide", Line)
        strip.display = bool(told)
        if told:
            strip.show(*told)

    def show_trace(
        self, trace: Trace | None, over: Sequence[Trace] = (), compared: Compared | None = None
    ) -> None:
        """One burst in the charts, or up to four laid over each other."""
        self._trace = trace
        self.memory.show(trace, over)
        self.loss.show(trace, over)
        self.peak.show(trace, compared)

    @property
    def _keymap(self) -> dict[str, str]:
        return self._owner.settings.keymap

    def rekey(self) -> None:
        """Other keys are shown."""
        for panel in (self.plan_panel, self.memory, self.loss, self.peak, self.runs):
            panel.rekey()
        self.memory.empty(first_steps(self._keymap))
        self.lay_out(self._session)
        self.show_footer(self._engine)

    def foresee(self, outlook: Outlook, device: Device | None) -> None:
        """What is predicted of the plan: beside its techniques, in the chart, in the peak."""
        self.plan_panel.foresee(outlook, device)
        self.memory.foresee(outlook, device)
        self.peak.foresee(outlook, device)

    def take(self, event: Event, trace: Trace) -> None:
        """One event of the burst that is shown."""
        self.memory.take(event, trace.label)
        if isinstance(event, Started | Step):
            self.loss.show(trace)
        if isinstance(event, Started | Samples | Timeline):
            self.peak.show(trace)

    def show_runs(self, runs: Sequence[Summary], session: Session) -> None:
        """The history, and the baseline in it."""
        self.runs.show(runs, session)
        self.peak.hold_against(pinned(runs))

    def lay_out(self, session: Session) -> None:
        """One panel or all of them, and which."""
        self._set_layout(session)
        narrow = self.has_class("-narrow")
        large = session.maximised and not narrow
        bar = tabs(session.tab, large, self._keymap, self.app.size.width)
        self.query_one("#tabs", Line).show(bar)
        self.query_one(Body).share(session.sizes, self.has_class("-single"))

    def _resized(self, sizes: dict[str, float]) -> None:
        self._owner.arrange(replace(self._session, sizes=sizes))

    def _set_layout(self, session: Session) -> None:
        wanted = layout.classes(*self.app.size, session)
        # All at once: every change of a class looks at the styles of the whole screen again.
        classes = (self.classes - wanted.keys()) | {name for name, on in wanted.items() if on}
        if classes != self.classes:
            self.set_classes(classes)

    def focus_panel(self, name: str) -> None:
        """Give a panel the focus; the list in it if it has one."""
        targets = {
            "plan": "#plan-rows",
            "loss": "#loss-chart",
            "runs": "#runs-rows",
        }
        front = self.memory.front if name == "memory" else None
        self.set_focus(front or self.query_one(targets.get(name, f"#{name}")))

    def tell(self, kind: str, title: str, text: str = "", passing: bool = False) -> None:
        """A message above the footer; a passing one goes with the next edit of the plan."""
        self.notice.tell(kind, title, text, passing)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While one types into a field every key is the field's."""
        return not isinstance(self.focused, Input)

    async def action_toggle_row(self) -> None:
        """Space: switch what the cursor is on."""
        if self.panel == "runs":
            self.runs.choose()
        else:
            await self._in_plan().toggle_row()

    async def action_edit_row(self) -> None:
        """Enter: edit a value, or show the run at the cursor."""
        if self.panel == "runs":
            self.runs.choose()
            self.watch_charts()
        else:
            await self._in_plan().edit_row()

    def action_fix(self) -> None:
        """Mend what is wrong with the plan."""
        done = self._in_plan().mend()
        wrong = self.plan_panel.facts.startswith("✗")
        none = (
            "Nothing that an edit of the plan mends" if wrong else "Nothing is wrong with this plan"
        )
        said = f"{none}: {self.plan_panel.facts[2:]}." if wrong else f"{none}."
        self.app.notify(done or said, markup=False)

    def action_reset_row(self) -> None:
        """What the cursor is on as it usually is."""
        self._in_plan().reset_row()

    def action_reset_plan(self) -> None:
        """The plan as it began."""
        before, began = self._session.plan, state.beginning(self._session)
        if before == began:
            self.app.notify("The plan is as it began.")
        else:
            self._owner.change_plan(began)
            self._in_plan().went(before, keyed_in(self, "as it began ($undo undoes it)"))

    async def action_take_plan(self) -> None:
        """The plan of the run at the cursor of the history."""
        await self.runs.take_plan()

    def action_fold_all(self) -> None:
        """The groups alone, or all of the plan."""
        self._in_plan()
        self._owner.fold_all()

    async def action_filter(self) -> None:
        """Narrow the runs, or else the plan's rows."""
        if self.panel == "runs":
            await self.runs.filter()
        else:
            await self._in_plan().filter()

    def action_freeze(self) -> None:
        """Hold the charts, or let them go on."""
        self.memory.freeze(not self.memory.frozen)

    action_zoom = chart_actions.zoom
    action_pan = chart_actions.pan
    action_show_all = chart_actions.show_all
    action_band = chart_actions.band
    action_travel = chart_actions.travel

    def action_jump(self, name: str) -> None:
        """Go to a panel."""
        self._owner.arrange(replace(self._session, tab=name))

    def watch_charts(self) -> None:
        """In a small terminal what the history shows in the charts would not be seen."""
        if self.has_class("-narrow") and self._session.tab == "runs" and self.runs.run is not None:
            self.action_jump("memory")

    def action_next_panel(self, step: int) -> None:
        """The panel after this one."""
        names = list(PANELS)
        self.action_jump(names[(names.index(self.panel) + step) % len(names)])

    def action_maximise(self) -> None:
        """The focused panel alone, or all of them."""
        session = self._session
        layout = replace(session, tab=self.panel, maximised=not session.maximised)
        self._owner.arrange(layout)

    def action_resize(self, way: int) -> None:
        """More room for the focused panel, or less."""
        self.query_one(Body).grow(self.panel, way)

    def action_widen(self, way: int) -> None:
        """A wider plan, or a narrower one."""
        self.query_one(Body).grow("plan", way)

    def action_usual_sizes(self) -> None:
        """What every panel has without anybody's doing."""
        self._resized({})

    def action_back(self) -> None:
        """Put away what is in the way, the nearest first."""
        # What is in the panel in front before what is in the other.
        filters = [self.plan_panel.clear_filter, self.runs.clear_filter, self._leave_comparison]
        if self.panel == "runs":
            filters = [*filters[1:], filters[0]]
        # The nearest first: each is tried only where those before had nothing to put away.
        away = [self.memory.release, self.loss.release, self.notice.clear, *filters]
        if any(put_away() for put_away in away):
            return
        if self._session.maximised:
            self.action_maximise()

    def _leave_comparison(self) -> bool:
        session = self._session
        if session.marks:
            self._owner.show_run(session.shown or session.marks[0])
        return bool(session.marks)

    def action_help(self) -> None:
        """Explain the technique at the cursor, or the focused panel."""
        from memwb.workbench.screens.help import HelpScreen

        plan = self.plan_panel
        told = plan.explained(plan.device) if self.panel == "plan" else None
        predicted = plan.predicted() if self.panel == "plan" else ""
        self.app.push_screen(HelpScreen(self.panel, self._keymap, told, predicted))

    action_explain = action_help

    def on_descendant_focus(self) -> None:
        """The focus decides what the footer says and what a narrow terminal shows."""
        if self.panel != self._session.tab:
            self._owner.arrange(replace(self._session, tab=self.panel))
        self.show_footer(self._engine)

    def _in_plan(self) -> PlanPanel:
        """The plan's panel, brought to the front if it is not."""
        if self.panel != "plan":
            self.action_jump("plan")
        return self.plan_panel
