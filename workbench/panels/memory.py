"""The memory chart and what it says when there is nothing to draw yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from memwb.engine.protocol import Device, Event, Sample, Samples, Started, Step, Timeline
from memwb.workbench.charts.stacked import StackedChart
from memwb.workbench.commands import bindings, keyed_in
from memwb.workbench.foresight import capacity_of
from memwb.workbench.outlook import Outlook, samples_of
from memwb.workbench.panels import forecast
from memwb.workbench.panels.titled import Titled
from memwb.workbench.trace import Trace


class MemoryPanel(Titled):
    """Memory by category over the samples of a burst, live or recorded."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("memory")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._label = ""
        self._runs: tuple[str, str] | None = None
        self._traced: tuple[int, ...] = ()
        self._outlook = Outlook()
        self._device: Device | None = None
        self._measured = False
        self._told: Sample | str | None = None

    def compose(self) -> ComposeResult:
        """The chart, hidden until there is something in it."""
        self.entitle(self._called, "")
        yield Static(id="first-steps")
        yield StackedChart(id="memory-chart")

    @property
    def chart(self) -> StackedChart:
        """The chart."""
        return self.query_one(StackedChart)

    @property
    def frozen(self) -> bool:
        """Whether new samples are held back."""
        return self.chart.frozen

    def on_mount(self) -> None:
        """The title says what of the chart is not as usual, whoever did it."""
        self.chart.display = False
        self.query_one("#first-steps").can_focus = True
        for name in ("frozen", "window", "hidden"):
            self.watch(self.chart, name, self._retitle, init=False)

    @property
    def front(self) -> Widget:
        """What can have the focus: the chart, or what stands in its place."""
        return self.chart if self.chart.display else self.query_one("#first-steps")

    def _turn_up(self, chart: bool) -> None:
        """The chart, or what to do first; the focus stays in the panel."""
        held = self.has_focus_within
        self.query_one("#first-steps").display = not chart
        self.chart.display = chart
        if held and not self.front.has_focus:
            self.front.focus()

    def freeze(self, frozen: bool) -> None:
        """Hold the chart still, or let it catch up."""
        self.chart.frozen = frozen

    def release(self) -> bool:
        """Take the chart's cursor away if the chart has the focus; False without one."""
        if self.chart.cursor is None or not self.chart.has_focus:
            return False
        self.chart.action_release()
        return True

    def empty(self, text: Content) -> None:
        """What to do first; nothing changes once there is a burst to show."""
        self.query_one("#first-steps", Static).update(text)

    def foresee(self, outlook: Outlook, device: Device | None) -> None:
        """What is predicted: behind what was measured, or alone as long as nothing was."""
        changed = outlook.result != self._outlook.result
        stale = outlook.current != self._outlook.current
        self._outlook, self._device = outlook, device
        if changed or stale:
            self._foresee()
        else:
            # Whether another is on its way may be all that has changed.
            self._retitle()

    def _foresee(self) -> None:
        result, chart = self._outlook.result, self.chart
        chart.stale = not self._outlook.current
        if self._measured:
            chart.foreseen = samples_of(result)
            chart.predicted = result.peak.allocated if result is not None else None
        elif result is not None:
            self._turn_up(chart=True)
            chart.foretold = True
            chart.capacity = capacity_of(self._outlook, self._device)
            chart.words = tuple(forecast.what_is_large(result))
            chart.set_samples(samples_of(result))
        else:
            # What stood there is of another model, or nothing came of the question.
            self._turn_up(chart=False)
        self._entitle()

    def show(self, trace: Trace | None, over: Sequence[Trace] = ()) -> None:
        """A whole burst, with the outlines of others over it."""
        if trace is None:
            return
        self._reveal()
        labels = " ".join(each.label for each in over)
        self._turn_to(trace.label, labels)
        self._label = trace.label
        device = trace.device
        self.chart.capacity = device.capacity if device is not None else None
        steps = () if trace.ended or not trace.started else trace.started.traced
        self.chart.set_samples(trace.samples, steps)
        self.chart.lay_over([(each.label, each.samples) for each in over])
        self.chart.resting = "peak" if trace.ended else "latest"
        if over:
            self._label = f"{trace.label}, outline{'s' * (len(over) > 1)} {labels}"
        self._entitle()

    def take(self, event: Event, label: str) -> None:
        """An event of the burst that is shown: only what it changes is drawn again."""
        match event:
            case Started():
                self._reveal()
                self._turn_to(label, "")
                self._label = ""
                self._traced = event.traced
                self.chart.capacity = event.device.capacity
                self.chart.overlay = ()
                self.chart.set_samples((), event.traced)
                self.chart.resting = "latest"
                self._entitle()
            case Samples():
                self.chart.append(event.samples)
                if event.samples:
                    self._entitle(event.samples[-1])
            case Timeline():
                self.chart.replace_step(event.step, event.samples)
                if event.samples:
                    self._entitle(event.samples[-1])
            case Step():
                # No samples come from here on: what follows is timed without any tracing.
                if event.step + 1 > max(self._traced, default=0):
                    self._entitle(f"step {event.step} timed" if not event.traced else "timing")

    def _turn_to(self, run: str, over: str) -> None:
        """Let a frozen chart go when it would bear the name of a run that it does not show."""
        if self._runs is not None and self._runs != (run, over):
            self.freeze(False)
        self._runs = (run, over)

    def _reveal(self) -> None:
        self._turn_up(chart=True)
        if not self._measured:
            self._measured = True
            self.chart.foretold = False
            self.chart.words = ()
            self._foresee()

    def rekey(self) -> None:
        """The keys have changed."""
        self._retitle()

    @property
    def _called(self) -> str:
        return keyed_in(self, "$jump_memory Memory")

    def _retitle(self) -> None:
        self._entitle(self._told)

    def _entitle(self, moment: Sample | str | None = None) -> None:
        self._told = moment
        parts = [self._called, self._label]
        if isinstance(moment, Sample):
            parts.append(f"step {moment.step} · {moment.phase}" if moment.step else "loading")
        if isinstance(moment, str):
            parts.append(moment)
        if self._outlook.result is not None and not self.chart.overlay:
            told = forecast.meant(self._outlook) if self._outlook.target else "predicted"
            # A moment's wait for the next is told by its looks, where there are colours.
            looks = self._outlook.waits and not self.app.no_color
            if self._outlook.current or looks:
                parts.append(f"dotted: the plan, {told}" if self._measured else told)
            else:
                parts.append(f"dotted: {told} before" if self._measured else f"{told} before")
        parts.append(self.chart.window.mark())
        parts.append("frozen" if self.frozen else "")
        alone = not self._measured and self._outlook.result is not None
        self.entitle(
            " · ".join(part for part in parts if part),
            keyed_in(self, "nothing has run yet · $run runs and measures") if alone else "",
        )
