"""What toggling a technique would change of the predicted peak: beside it, and in words."""

from __future__ import annotations

from memwb.engine.plan import Plan
from memwb.engine.prediction import Change, Prediction
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques
from memwb.workbench import outlook as outlooks
from memwb.workbench.foresight import capacity_of, exceeds, need
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.rows import Spans
from memwb.workbench.units import delta, gib

UNKNOWN = (
    "Not predicted yet",
    "Whether this plan fits is still being predicted: run anyway?",
)
"""The question before a run of which nothing is known yet."""
UNTOLD = ("Not predicted", "Whether this plan fits cannot be predicted: run it?")
"""The same once the answer has come while it was asked, and there is none."""
MOST_SAVING = 3
"""How many toggles are named that would save the most."""


def beside(outlook: Outlook, device: Device | None, plan: Plan, mark: str) -> dict[str, Spans]:
    """What stands at the end of the techniques' rows, by the row."""
    found = {
        f"technique:{name}": toggle_spans(outlook, name, device, plan, mark)
        for name in techniques()
    }
    return {row: spans for row, spans in found.items() if spans}


def toggle_spans(
    outlook: Outlook, name: str, device: Device | None, plan: Plan | None = None, mark: str = ""
) -> Spans:
    """What toggling a technique would change of the predicted peak, for the end of its row.

    The mark after it says that the plan would fit then, or would not any more, or that something
    else is switched along with it. What an earlier
    plan's change was stays as an old one where the technique stands in the plan as it did there,
    with the mark before it.
    """
    broken = outlook.state == outlooks.PROBLEMS
    if outlook.failure is not None and outlook.failure.technique == name and not broken:
        return ((" ?  ", "warning"),)
    result, changed = outlook.result, outlook.changes.get(name)
    waits = outlook.waits or (outlook.awaited and outlook.current and not outlook.complete)
    if not outlook.current or name not in outlook.fresh or result is None or changed is None:
        old = outlook.gaps.get(name)
        if old is not None and plan is not None and outlooks.standing(plan, name) == old.stood:
            return ((f" {mark}{_gap(old.change)}", "old"), (" … " if waits else "   ", "muted"))
        return ((" …  ", "muted"),) if waits else ()
    if changed.peak is None:
        return ((" ?  ", "muted"),)
    gap = outlooks.rounded(changed.peak.allocated - result.peak.allocated, result)
    room = capacity_of(outlook, device)
    before, after = exceeds(result.peak, room), exceeds(changed.peak, room)
    end, style = (" + " if changed.overrides[1:] else "   ", "muted")
    if before and not after:
        end, style = " ✓ ", "on"
    if after and not before:
        end, style = " ! ", "warning"
    look = "muted" if not gap else "saves" if gap < 0 else "warning"
    return ((f" {_gap(gap)}", look), (end, style))


def _gap(gap: int) -> str:
    return delta(gap) if gap else "±0"


def toggle_words(outlook: Outlook, name: str, device: Device | None, called: str = "it") -> str:
    """The same in words: the peak that it would make, or why that cannot be told.

    The technique is called by its title where it is not the row that is spoken of.
    """
    result, changed = outlook.result, outlook.changes.get(name)
    if not (outlook.current and name in outlook.fresh) or result is None or changed is None:
        return ""
    doing = "on" if changed.on else "off"
    if changed.peak is None:
        return f"turning {called} {doing} is not predicted: {changed.reason}"
    gap = changed.peak.allocated - result.peak.allocated
    room = capacity_of(outlook, device)
    before, after = exceeds(result.peak, room), exceeds(changed.peak, room)
    ends = ""
    if before != after:
        ends = ", and it would no longer fit" if after else ", and it would fit"
    return (
        f"turning {called} {doing}{_along(changed)} {_gap(gap)}: a peak of "
        f"{gib(changed.peak.allocated)} in {changed.peak.phase}{ends}"
    )


def _along(change: Change) -> str:
    """What is switched along with a technique, since it needs it or excludes it."""
    parts = [edit.partition("=") for edit in change.overrides[1:]]
    known = techniques()
    named = [f"{known[key].title if key in known else key} {value}" for key, _, value in parts]
    return f", and {', '.join(named)}," if named else ""


def savings(outlook: Outlook, capacity: int | None) -> list[str]:
    """The toggles that save the most, the best first, each as a line.

    It says which of them make the plan fit, where the capacity is known.
    """
    result = outlook.result
    if result is None or not outlook.current:
        return []
    found = [
        (need(change.peak), change)
        for name, change in outlook.changes.items()
        if name in outlook.fresh and change.peak and need(change.peak) < need(result.peak)
    ]
    found.sort(key=lambda pair: pair[0])
    return [_saving(change, result, capacity) for _, change in found[:MOST_SAVING]]


def _saving(change: Change, result: Prediction, capacity: int | None) -> str:
    assert change.peak is not None
    title = techniques()[change.technique].title
    gap = need(change.peak) - need(result.peak)
    ends = ", then it fits" if capacity and not exceeds(change.peak, capacity) else ""
    along = _along(change).rstrip(",")
    return f"{title} {'on' if change.on else 'off'}{along}: {delta(gap)}{ends}"


def fitting(outlook: Outlook, capacity: int | None) -> tuple[str, str]:
    """What a question turns into when it was open and the plan is found to fit."""
    assert outlook.result is not None
    room = f" of {gib(capacity)}" if capacity else ""
    return "This plan fits", f"Predicted {gib(need(outlook.result.peak))}{room}: run it?"


def doubt(
    outlook: Outlook, capacity: int, device: Device | None, abroad: Outlook | None = None
) -> tuple[str, str]:
    """The question before a run that will not fit: a title and a text.

    Changes are only told against the peak on the same target: where the plan is predicted for
    another machine, only what would save there is known, and said to be so.
    """
    assert outlook.result is not None
    wanted = need(outlook.result.peak)
    what = "this GPU" if device is not None and device.kind == "cuda" else "this machine"
    lines = [f"Predicted {gib(wanted)}, {what} has {gib(capacity)}: run anyway?"]
    told = outlook if abroad is None else abroad
    best = savings(told, capacity if abroad is None else None)
    where = "" if abroad is None else f" on {abroad.target}"
    if best and told.complete:
        lines += ["", f"What would save the most{where}:", *(f"  {each}" for each in best)]
    elif best:
        lines += ["", f"What would save the most{where}, of what is predicted so far:"]
        lines += [f"  {each}" for each in best]
    elif abroad is None and not told.complete:
        lines += ["", "What would save is still being predicted."]
    return "This plan will probably not fit", "\n".join(lines)
