"""Asking the engine what the plan will need, on every edit, without anybody waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace
from textual.timer import Timer

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data
from memwb.engine.protocol import (
    AllPredicted,
    Event,
    Peak,
    Predict,
    Predicted,
    Toggled,
    Unpredicted,
)
from memwb.workbench import outlook as outlooks
from memwb.workbench.foresight import capacity_of, exceeds
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels import forecast

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench

ANSWERS = Predicted | Toggled | Unpredicted | AllPredicted
DELAY = 0.15
"""Seconds without another edit after which the engine is asked."""
PATIENCE = 1.0
"""Seconds that a run waits for a prediction that is not there yet."""
STRIDE = 0.1
"""Seconds between two drawings while the changes come in one by one."""


class Predictor:
    """Keeps the outlook on the plan as it stands, and one on this machine for what is run."""

    def __init__(self, app: Workbench) -> None:
        self.app = app
        self.outlook = Outlook()
        self._here = Outlook()
        """Only for this machine, where the outlook is for another target."""
        self._count = 0
        self._changes = False
        """Whether the question that is out asks for the changes too."""
        self._delay: Timer | None = None
        self._drawing: Timer | None = None
        self._waited: Plan | None = None
        """The plan that a run has waited long enough for."""
        self._owed: Plan | None = None
        """The plan that runs while nothing is known of it yet."""

    # Following the plan.

    def follow(self) -> None:
        """The plan, the target, the device or the engine may be others now: ask if they are."""
        app = self.app
        if not self._standing:
            return
        if app.engine_state in ("starting", "dead"):
            if self.outlook.result is not None:
                self.outlook = outlooks.waiting(self.outlook)
            return
        plan, target = app.session.plan, app.target
        problems = [each for each in app.main.plan_panel.found if not (each.here and self._abroad)]
        if problems:
            self._rest()
            if self.outlook.state != outlooks.PROBLEMS:
                self.outlook = outlooks.unasked(self.outlook)
                self.show()
            return
        known = (plan, target) == (self.outlook.plan, self.outlook.target)
        if known and self.outlook.asked:
            self._rest()
            if not self.outlook.complete and not self._changes and not app.busy:
                self._ask()
            return
        if self.outlook.state in (outlooks.NOTHING, outlooks.PROBLEMS):
            # Nobody is in the middle of an edit.
            self._ask()
            return
        self.outlook = outlooks.waiting(self.outlook)
        self._rest()
        self._delay = app.set_timer(DELAY, self._ask)
        self.show()

    @property
    def _standing(self) -> bool:
        """Whether there is a screen; a timer may outlive it."""
        return bool(self.app.main.children)

    @property
    def _abroad(self) -> bool:
        """Whether it is predicted for another machine."""
        return self.app.target not in ("", self._local)

    @property
    def _local(self) -> str:
        """This machine as a target: its GPU where it has one, unless bursts run on the CPU."""
        return "cpu" if self.app.settings.device == "cpu" else ""

    def _rest(self) -> None:
        if self._delay is not None:
            self._delay.stop()
            self._delay = None

    def _ask(self) -> None:
        """Ask for the plan as it stands; while a burst runs, which is timed, not for changes."""
        self._rest()
        if not self._standing:
            return
        self._changes = not self.app.busy
        plan, target = self.app.session.plan, self.app.target
        name = self._send(plan, target or self._local, self._changes)
        if name:
            self.outlook = outlooks.asked(self.outlook, name, plan, target)
        self.show()

    def _send(self, plan: Plan, target: str, changes: bool) -> str:
        self._count += 1
        name = str(self._count)
        question = Predict(
            plan=plan_data(plan),
            target=target,
            prediction=name,
            changes=changes,
            trust_remote_code=self.app.settings.trust_remote_code,
        )
        try:
            self.app.tell_engine(question)
        except MemwbError:  # it has just died, which is told elsewhere
            return ""
        return name

    # What the engine answers.

    def hear(self, event: Event) -> None:
        """An answer: what it changes is shown, the changes at strides."""
        self._here = outlooks.told(self._here, event)
        before = self.outlook
        after = outlooks.told(before, event)
        if isinstance(event, AllPredicted) and not self._changes:
            after = replace(after, complete=before.complete)
        self.outlook = after
        if isinstance(event, Toggled):
            if self._drawing is None:
                self._drawing = self.app.set_timer(STRIDE, self._draw)
        elif after != before:
            self.show()
        known = self.local
        if self._owed is not None and known.current and known.result is not None:
            if known.plan == self._owed:
                self.app.foretell(known.result.peak)
            self._owed = None
        if isinstance(event, Predicted | Unpredicted):
            self.app.predicted()

    def _draw(self) -> None:
        self._drawing = None
        self.show()

    def show(self) -> None:
        """Put it on the screen."""
        if not self._standing:
            return
        self.app.main.foresee(self.outlook, self.app.device)

    # Before a run.

    @property
    def local(self) -> Outlook:
        """What is known of the plan on the device that it would run on."""
        return self._here if self._abroad else self.outlook

    def held(self) -> bool:
        """Whether a run had better wait a moment, since an answer is on its way."""
        plan = self.app.session.plan
        if self._waited == plan:
            return False
        known = self.local
        if known.plan == plan and known.state in (outlooks.CURRENT, outlooks.FAILED):
            return False
        if not self._abroad:
            if known.plan != plan or not known.asked:
                self._ask()
        elif known.plan != plan:
            # It stops the changes of the other target, too: they are asked for again afterwards.
            self._changes = False
            name = self._send(plan, self._local, False)
            self._here = outlooks.asked(Outlook(), name, plan, "")
        self.app.set_timer(PATIENCE, lambda: self._enough(plan))
        return True

    def _enough(self, plan: Plan) -> None:
        self._waited = plan
        if self._standing:
            self.app.predicted()

    def doubt(self) -> tuple[str, str]:
        """The question before a run that will not fit; empty where it fits, or nobody knows."""
        known, device = self.local, self.app.device
        if known.plan != self.app.session.plan or not known.current or known.result is None:
            return "", ""
        capacity = capacity_of(known, device)
        if capacity is None or not exceeds(known.result.peak, capacity):
            return "", ""
        told = self.outlook if self._abroad else known
        return forecast.doubt(replace(told, result=known.result), capacity, device)

    def ran(self) -> Peak | None:
        """A burst starts: the changes rest meanwhile. What was predicted for where it runs."""
        self._waited = None
        if self._changes and not self.outlook.complete and self.outlook.asked:
            self._ask()
        known, plan = self.local, self.app.session.plan
        if known.plan == plan and known.current and known.result is not None:
            self._owed = None
            return known.result.peak
        self._owed = plan
        return None
