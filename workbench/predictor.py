"""Asking the engine what the plan will need, on every edit, without anybody waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace
from textual.timer import Timer

from memwb.engine.client import DIED
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data
from memwb.engine.protocol import (
    AllPredicted,
    Device,
    Event,
    Peak,
    Predict,
    Predicted,
    Toggled,
    Unpredicted,
)
from memwb.workbench import dialogs, library, workers
from memwb.workbench import outlook as outlooks
from memwb.workbench.aside import Asides
from memwb.workbench.foresight import capacity_of, exceeds
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels import toggles

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench

Subject = tuple[Plan, str]
"""What is predicted: a plan, and the target that was chosen for it."""
KEPT = "kept"
"""The name of a question that is asked of what is kept."""
DELAY = 0.15
"""Seconds without another edit after which the engine is asked."""
PATIENCE = 30.0
"""Seconds that a run waits for a prediction before it asks whether to go without."""
STRIDE = 0.1
"""Seconds between two drawings while the changes come in one by one."""


class Predictor:
    """Keeps the outlook on the plan as it stands, and one on this machine for what is run.

    What was predicted before is shown at once, with or without an engine; the rest is asked for.
    """

    def __init__(self, app: Workbench) -> None:
        self.app = app
        self.asides = Asides(app)
        """What an open screen wants to know of other plans."""
        self.outlook = Outlook()
        self._here = Outlook()
        """Only for this machine, where the outlook is for another target."""
        self._count = 0
        self._asked: Subject | None = None
        """What the engine was asked about last."""
        self._changes = False
        """Whether it was asked for the changes too."""
        self._toggling = ""
        """The question whose changes the engine is still at work on."""
        self._sought: Subject | None = None
        """What was looked up last among what is kept."""
        self._machine: Device | None = None
        """The device that bursts will most likely run on, until the engine says it."""
        self._delay: Timer | None = None
        self._meant: Subject | None = None
        """What is asked for at its end."""
        self._drawing: Timer | None = None
        self._patience: Timer | None = None
        """Runs while a run waits."""
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
        app.call_later(self.asides.again)
        now = self._subject
        ready = app.engine_state not in ("starting", "restarting", "dead")
        if not ready:
            self._toggling = ""
            if not self._here.settled:
                self._here = Outlook()
        if not ready or now != self._asked:
            self._asked = None
        problems = [each for each in app.main.plan_panel.found if not (each.here and self._abroad)]
        if problems:
            self._rest()
            self._asked = self._sought = None
            if self.outlook.state != outlooks.PROBLEMS:
                self.outlook = outlooks.unasked(self.outlook, *now)
                self.show()
            return
        # Nobody is in the middle of an edit.
        still = self.outlook.state in (outlooks.NOTHING, outlooks.PROBLEMS)
        if now != self._sought:
            self._sought = now
            workers.displace(app, "recall", self._recall, now)
        settled = self.outlook.about == now and self.outlook.settled
        if not ready and not settled:
            self._rest()
            if self.outlook.result is not None and self.outlook.state != outlooks.WAITING:
                self.outlook = outlooks.waiting(self.outlook, *now)
                self.show()
        if not ready or (settled and self.outlook.complete):
            return
        if now == self._asked:
            # A run that waits for what is predicted here comes first.
            free = not app.busy and not app.bursts.wanted and not self.asides.waits
            if not self.outlook.complete and not self._changes and free:
                self._ask()
        elif still:
            self._ask()
        elif self._delay is None or now != self._meant:
            self._rest()
            self._meant = now
            self._delay = app.set_timer(DELAY, self._ask)
            if not settled:
                self.outlook = outlooks.waiting(self.outlook, *now)
                self.show()

    @property
    def _subject(self) -> Subject:
        return self.app.session.plan, self.app.target

    @property
    def where(self) -> str:
        """What is predicted for, as the engine is asked."""
        return self.app.target or self._local

    @property
    def here(self) -> Device | None:
        """This machine's device, as far as it is known."""
        return self.app.device or self._machine

    @property
    def _standing(self) -> bool:
        """Whether there is a screen; a timer may outlive it."""
        return bool(self.app.main.children)

    @property
    def _abroad(self) -> bool:
        """Whether it is predicted for another machine."""
        return self.app.target not in ("", self._local)

    @property
    def _doing(self) -> str:
        """What the engine is at, as long as there is no answer."""
        if self._behind:
            return "predicting for this machine first"
        unknown = self.app.model is not None and self.app.model.config is None
        return "asking the hub for its config" if unknown else "predicting"

    @property
    def _behind(self) -> bool:
        """Whether the engine is at work on the plan for this machine, before the other."""
        here = self._here
        return self._abroad and here.waits and here.plan == self.app.session.plan

    @property
    def _local(self) -> str:
        """This machine as a target: its GPU where it has one, unless bursts run on the CPU."""
        return "cpu" if self.app.settings.device == "cpu" else ""

    def _rest(self) -> None:
        if self._delay is not None:
            self._delay.stop()
            self._delay = None

    async def _recall(self, subject: Subject) -> None:
        """Show what was predicted of the plan before, as far as that is kept."""
        plan, target = subject
        if self._machine is None:
            self._machine = await asyncio.to_thread(library.assumed_device)
        # The plan alone is found in no time; its changes only when nobody edits any more.
        for changes in (False, True):
            question = self._question(plan, target or self._local, changes, KEPT)
            here = self.app.device or self._machine
            events = await asyncio.to_thread(library.recalled, question, here)
            if not events or not self._standing or subject != self._subject:
                return
            self._remember(subject, events, changes)
        self.follow()

    def _remember(self, subject: Subject, events: Sequence[Event], changes: bool) -> None:
        """Take in what is kept, unless the engine was faster."""
        now = self.outlook
        if now.about == subject and now.complete:
            return
        outlook = outlooks.asked(now, KEPT, *subject)
        for event in events:
            outlook = outlooks.told(outlook, event)
        if subject == self._asked:
            # The engine's answers are still to come, and are taken in as well.
            outlook = replace(outlook, asked=now.asked)
        outlook = replace(outlook, complete=outlook.complete and changes)
        if outlook.complete:
            self._rest()
        self.outlook = outlook
        self.show()
        self._answered()

    def _ask(self) -> None:
        """Ask for the plan as it stands; while a burst runs, which is timed, not for changes."""
        self._rest()
        if not self._standing:
            return
        if self._behind:  # it would take the place of what a run waits for
            self.show()
            return
        self._changes = not self.app.busy
        plan, target = self._subject
        name = self._send(plan, target or self._local, self._changes)
        if name:
            self._asked = (plan, target)
            self.outlook = outlooks.asked(self.outlook, name, plan, target)
        self.show()

    def _send(self, plan: Plan, target: str, changes: bool) -> str:
        self._count += 1
        name = str(self._count)
        try:
            self.app.bursts.tell(self._question(plan, target, changes, name))
        except MemwbError:  # it has just died, which is told elsewhere
            return ""
        self.asides.displaced()
        self._toggling = name if changes else ""
        return name

    def _question(self, plan: Plan, target: str, changes: bool, name: str) -> Predict:
        return Predict(
            plan=plan_data(plan),
            target=target,
            prediction=name,
            changes=changes,
            first=self.app.main.plan_panel.looked_at() if changes else (),
            trust_remote_code=self.app.settings.trust_remote_code,
        )

    # What a screen wants to know of other plans.

    def give_way(self) -> None:
        """The engine is asked for another plan: it works no more on this one's changes."""
        if not self.outlook.complete:
            self._changes, self._toggling = False, ""

    def resume(self) -> None:
        """Nothing else is wanted: what is still unknown of the plan is asked for again."""
        if not self._changes and not self.asides.waits:
            self.follow()

    # What the engine answers.

    def hear(self, event: Event) -> None:
        """An answer: what it changes is shown, the changes at strides."""
        self._here = outlooks.told(self._here, event)
        before = self.outlook
        after = outlooks.told(before, event)
        if isinstance(event, AllPredicted) and not self._changes:
            after = replace(after, complete=before.complete)
        if isinstance(event, AllPredicted) and event.prediction == self._toggling:
            self._toggling = ""
        self.outlook = after
        if isinstance(event, Toggled):
            if self._drawing is None:
                self._drawing = self.app.set_timer(STRIDE, self._draw)
        elif after != before:
            self.show()
        # The death of the engine, which is told elsewhere, is no answer.
        if isinstance(event, Predicted) or (isinstance(event, Unpredicted) and event.title != DIED):
            self._answered()
        self.asides.hear(event)

    def _answered(self) -> None:
        """What waits for a prediction may go on."""
        known = self.local
        if self._owed is not None and known.current and known.result is not None:
            if known.plan == self._owed:
                self.app.bursts.foretell(known.result.peak)
            self._owed = None
        self.app.bursts.predicted()
        if self._standing:
            dialogs.ask_run_again(self.app)
        if self._abroad:
            # What was asked about this machine has stopped what was asked about the other.
            self.follow()

    def _draw(self) -> None:
        self._drawing = None
        self.show()

    def show(self) -> None:
        """Put it on the screen."""
        if not self._standing:
            return
        awaited = self.app.engine_state != "dead"
        outlook = replace(self.outlook, awaited=awaited, doing=self._doing)
        self.app.main.foresee(outlook, self.app.device or self._machine)
        dialogs.ask_run_again(self.app)

    # Before a run.

    @property
    def local(self) -> Outlook:
        """What is known of the plan on the device that it would run on."""
        return self._here if self._abroad else self.outlook

    def held(self) -> bool:
        """Whether a run has to wait, since an answer is on its way."""
        plan = self.app.session.plan
        if self._waited == plan:
            return False
        known = self.local
        if known.plan == plan and known.settled:
            return False
        if not self._abroad:
            if known.plan != plan or not known.asked:
                self._ask()
        elif known.plan != plan:
            # It stops the changes of the other target, too: they are asked for again afterwards.
            self._changes = False
            name = self._send(plan, self._local, False)
            self._here = outlooks.asked(Outlook(), name, plan, "")
            self.show()
        if self._patience is None:
            self._patience = self.app.set_timer(PATIENCE, lambda: self._enough(plan))
        return True

    def not_run(self) -> None:
        """Nobody waits any more for what is predicted here: the other target goes on."""
        if not self._here.settled:
            self._here = Outlook()
        self.follow()

    def unheld(self) -> None:
        """No run waits any more."""
        self._waited = None
        if self._patience is not None:
            self._patience.stop()
            self._patience = None

    def _enough(self, plan: Plan) -> None:
        self._patience, self._waited = None, plan
        if self._standing:
            self.app.bursts.predicted()

    def doubt(self, asked: bool = False) -> tuple[str, str]:
        """The question before a run that will not fit, or of which nothing is known yet.

        Empty where it fits, and where it cannot be told; but once it was ``asked``, that is told.
        """
        known, device = self.local, self.app.device
        if known.plan != self.app.session.plan or not known.settled:
            return toggles.UNKNOWN
        if known.result is None:
            return toggles.UNTOLD if asked else ("", "")
        capacity = capacity_of(known, device)
        if capacity is None or not exceeds(known.result.peak, capacity):
            return toggles.fitting(known, capacity) if asked else ("", "")
        return toggles.doubt(known, capacity, device, self.outlook if self._abroad else None)

    def ran(self) -> Peak | None:
        """A burst starts: the changes rest meanwhile. What was predicted for where it runs."""
        self.unheld()
        if self._toggling:
            self._ask()
        known, plan = self.local, self.app.session.plan
        if known.plan == plan and known.current and known.result is not None:
            self._owed = None
            return known.result.peak
        self._owed = plan
        return None
