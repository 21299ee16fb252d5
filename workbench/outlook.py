"""What is known of a plan's memory before it runs: the latest prediction, as plain data.

Answers arrive one by one and for one question at a time; what was known before stays, marked as
old, until the answer to the newest question takes its place.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from memwb.engine.plan import Plan
from memwb.engine.prediction import Change, Fit, Prediction
from memwb.engine.protocol import AllPredicted, Event, Predicted, Sample, Toggled, Unpredicted

NOTHING, WAITING, CURRENT, PROBLEMS, FAILED = "", "waiting", "current", "problems", "failed"
"""What an outlook can be: nothing was asked yet; asked and not answered; of the plan as it
stands; of an earlier plan, since this one has problems; the answer was that there is none."""


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
    gaps: dict[str, int] = {}
    """By how much the peak of an earlier plan would have changed, by technique."""
    complete: bool = False
    """Whether every change has been told."""
    failure: Unpredicted | None = None

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
        outlook,
        state=WAITING,
        asked=name,
        plan=plan,
        target=target,
        gaps=_gaps(outlook),
        fresh=frozenset(),
        complete=False,
        failure=None,
    )


def waiting(outlook: Outlook) -> Outlook:
    """A question will be out in a moment: nothing that was told is of the plan any more."""
    return _aged(outlook, WAITING)


def unasked(outlook: Outlook) -> Outlook:
    """The plan has problems: nothing is asked, and no answer is waited for."""
    return _aged(outlook, PROBLEMS)


def _aged(outlook: Outlook, state: str) -> Outlook:
    gaps = _gaps(outlook)
    return replace(outlook, state=state, asked="", gaps=gaps, fresh=frozenset(), complete=False)


def _gaps(outlook: Outlook) -> dict[str, int]:
    """The changes as they were told, each against the peak that it was told for."""
    if outlook.result is None:
        return {}
    before = outlook.result.peak.allocated
    told = ((name, outlook.changes[name].peak) for name in outlook.fresh)
    return outlook.gaps | {name: peak.allocated - before for name, peak in told if peak}


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
