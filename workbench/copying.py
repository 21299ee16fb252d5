"""What the focused panel shows, as text for the clipboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memwb.engine.plan import plan_toml
from memwb.engine.protocol import CATEGORIES, Sample
from memwb.workbench import units
from memwb.workbench.charts.legend import place, seconds, totals_of
from memwb.workbench.ordering import whole_peak

if TYPE_CHECKING:
    from memwb.engine.runs import Summary
    from memwb.workbench.screens.main import MainScreen
    from memwb.workbench.state import Session


def copied(main: MainScreen, session: Session) -> tuple[str, str]:
    """What it is and its text; without a text, why there is none."""
    match main.panel:
        case "memory":
            sample, kind = main.memory.chart.moment()
            if sample is None:
                return "no moment has been measured yet.", ""
            return f"the moment of the {kind.partition(' ·')[0]}", moment(sample)
        case "loss":
            return _losses(main)
        case "peak":
            return "the peak", main.peak.text.rstrip()
        case "runs":
            chosen = main.runs.run
            if chosen is None:
                return "there is no run at the cursor.", ""
            return f"run #{chosen.run}", run(chosen)
    return "the plan as TOML", plan_toml(session.plan).rstrip()


def moment(sample: Sample) -> str:
    """A moment of a burst, to the byte."""
    lines = [f"{place(sample)}, {seconds(sample.time)}"]
    parts = sample.categories
    if parts is not None:
        lines += [f"{name:<12}{getattr(parts, name):>16,} B" for name in CATEGORIES]
    lines += [f"{name:<12}{size:>16,} B" for name, size in totals_of(sample)]
    return "\n".join(lines)


def _losses(main: MainScreen) -> tuple[str, str]:
    """The values at the cursor, or every step's."""
    chart = main.loss.chart
    series = [(line.name or "loss", dict(line.points)) for line in chart.series]
    steps = sorted({step for _, points in series for step in points})
    if not steps:
        return "no step is over yet.", ""
    chosen = steps if chart.cursor is None else [chart.cursor]
    head = "\t".join(["step", *(name for name, _ in series)])
    rows = ["\t".join([str(step), *(str(of.get(step, "")) for _, of in series)]) for step in chosen]
    what = "the losses" if chart.cursor is None else f"the loss of step {chart.cursor}"
    return what, "\n".join([head, *rows])


def run(summary: Summary) -> str:
    """A run in a few lines, as one would tell somebody of it."""
    peak = whole_peak(summary)
    losses = summary.losses
    rows = [
        ("run", f"#{summary.run} {summary.name}"),
        ("note", summary.note),
        ("when", summary.created),
        ("model", f"{summary.model}, {summary.weights} weights"),
        ("device", f"{summary.device}, {summary.device_name}"),
        ("outcome", " ".join(part for part in (summary.outcome, summary.title) if part)),
        ("peak", f"{peak:,} B ({units.gib(peak)})" if peak is not None else ""),
        ("loss", f"{units.loss(losses[0])} → {units.loss(losses[-1])}" if losses else ""),
        ("speed", units.rate(summary.tokens_per_second) if summary.tokens_per_second else ""),
        ("folder", summary.folder),
    ]
    return "\n".join(f"{name:<9}{text}" for name, text in rows if text)
