"""What is known of a plan's memory before it runs: the latest prediction, as plain data.

Answers arrive one by one and for one question at a time; what was known before stays, marked as
old, until the answer to the newest question takes its place.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from memwb.engine.plan import Plan, active
from memwb.engine.prediction import Change, Fit, Prediction
from memwb.engine.protocol import AllPredicted, Event, Predicted, Sample, Toggled, Unpredicted
from memwb.engine.technique import group_of, techniques

NOTHING, WAITING, CURRENT, PROBLEMS, FAILED = "", "waiting", "current", "problems", "failed"
"""What an outlook can be: nothing was asked yet; asked and not answered; of the plan as it
stands; of an earlier plan, since this one has problems; the answer was that there is none."""

LEAST = 0.001
"""Changes of less than this part of the peak stand beside a technique as none: what is left of
rounding and of small buffers is no reason to switch it. Explained, they are told to the byte."""


class Gap(msgspec.Struct, frozen=True):
    """By how much a toggle would have changed the peak of an earlier plan."""

    change: int
    """Bytes, rounded as they stood beside the technique."""
    stood: tuple[str, ...]
    """How the technique stood in that plan (see ``standing``): otherwise it says nothing."""


class Outlook(msgspec.Struct, frozen=True):
    """The latest prediction and how far it is that of the plan as it stands."""

    state: str = NOTHING
    asked: str = ""
    """The name of the question that is out or was answered last."""
    plan: Plan | None = None
    """The plan that was asked about."""
    target: str = ""
    """The target that was asked for; empty means this machine."""
    result: Prediction | None = None
    changes: dict[str, Change] = {}
    """By technique."""
    fresh: frozenset[str] = frozenset()
    """The techniques whose change is the answer to this question."""
    gaps: dict[str, Gap] = {}
    """What an earlier plan's changes were, by technique."""
    complete: bool = False
    """Whether every change has been told."""
    failure: Unpredicted | None = None
    awaited: bool = True
    """Whether there is an engine that may still answer."""
    doing: str = "predicting"
    """What it is at, in a word or some."""

    @property
    def waits(self) -> bool:
        """Whether an answer on the plan as it stands may still come."""
        return self.awaited and self.state == WAITING

    @property
    def current(self) -> bool:
        """Whether the figures are those of the plan as it stands."""
        return self.state == CURRENT

    @property
    def settled(self) -> bool:
        """Whether there is an answer for the plan as it stands."""
        return self.state in (CURRENT, FAILED)

    @property
    def about(self) -> tuple[Plan | None, str]:
        """The plan and the target that were asked about."""
        return self.plan, self.target


def asked(outlook: Outlook, name: str, plan: Plan, target: str) -> Outlook:
    """A new question is out. The figures stay as old ones, unless they are of this very plan."""
    same = (plan, target) == (outlook.plan, outlook.target)
    if same and outlook.current:
        return replace(outlook, asked=name, complete=False)
    return replace(
        _aged(outlook, WAITING, plan, target),
        asked=name,
        plan=plan,
        target=target,
        fresh=frozenset(),
        complete=False,
        failure=None,
    )


def waiting(outlook: Outlook, plan: Plan, target: str) -> Outlook:
    """A question will be out in a moment: nothing that was told is of the plan any more."""
    return _aged(outlook, WAITING, plan, target)


def unasked(outlook: Outlook, plan: Plan, target: str) -> Outlook:
    """The plan has problems: nothing is asked, and no answer is waited for."""
    return _aged(outlook, PROBLEMS, plan, target)


def _aged(outlook: Outlook, state: str, plan: Plan, target: str) -> Outlook:
    """What was told, as that of an earlier plan: of another model or target it says nothing."""
    before = outlook.plan
    kin = (
        before is not None
        and (before.model, before.weights) == (plan.model, plan.weights)
        and outlook.target == target
    )
    gaps, result = (_gaps(outlook), outlook.result) if kin else ({}, None)
    changes = outlook.changes if kin else {}
    return replace(
        outlook,
        state=state,
        asked="",
        result=result,
        changes=changes,
        gaps=gaps,
        fresh=frozenset(),
        complete=False,
    )


def _gaps(outlook: Outlook) -> dict[str, Gap]:
    """The changes as they were told, each against the peak that it was told for."""
    result, plan = outlook.result, outlook.plan
    if result is None or plan is None:
        return {}
    told = ((name, outlook.changes[name].peak) for name in outlook.fresh)
    return outlook.gaps | {
        name: Gap(rounded(peak.allocated - result.peak.allocated, result), standing(plan, name))
        for name, peak in told
        if peak
    }


def standing(plan: Plan, name: str) -> tuple[str, ...]:
    """What of a plan decides on what toggling a technique does: it and those it excludes."""
    group = group_of(techniques()[name].group)
    rivals = [
        other
        for other in active(plan)
        if other == name or (group.exclusive and techniques()[other].group == group.name)
    ]
    return (*rivals, "named" if name in plan.techniques else "")


def rounded(gap: int, result: Prediction) -> int:
    """A change as it stands beside a technique, in bytes."""
    return gap if abs(gap) >= LEAST * result.peak.allocated else 0


def told(outlook: Outlook, event: Event) -> Outlook:
    """The outlook with an answer taken in; answers to earlier questions change nothing."""
    match event:
        case Predicted() if event.prediction == outlook.asked:
            return replace(outlook, state=CURRENT, result=event.result, failure=None)
        case Toggled() if event.prediction == outlook.asked:
            name = event.change.technique
            changes = {**outlook.changes, name: event.change}
            return replace(outlook, changes=changes, fresh=outlook.fresh | {name})
        case Unpredicted() if event.prediction == outlook.asked:
            return replace(outlook, state=FAILED, failure=event, result=None, changes={}, gaps={})
        case AllPredicted() if event.prediction == outlook.asked:
            return replace(outlook, complete=True)
    return outlook


def fit_of(result: Prediction, target: str = "") -> Fit | None:
    """How the plan fits the target itself, which comes first; None where that is not told."""
    wanted = target or result.target
    return next((fit for fit in result.fits if fit.gpu == wanted), None)


def samples_of(result: Prediction | None) -> list[Sample]:
    """The predicted timeline as a chart takes it; its clock is the order of its points.

    A prediction knows no seconds: the chart lays each phase over the measured one.
    """
    if result is None:
        return []
    return [
        Sample(float(at), point.step, point.phase, point.allocated, 0, 0, point.categories)
        for at, point in enumerate(result.timeline)
    ]


def ratio(measured: int, predicted: int) -> str:
    """A measured figure over the predicted one: ``1.003 × predicted``."""
    return f"{measured / predicted:.3f} × predicted" if predicted else ""
