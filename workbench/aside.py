"""Predictions of other plans than the one at hand, for a screen that is open.

The engine works on one question at a time: what is asked here takes the place of the changes that
are still being predicted of the plan, which go on afterwards; never of the plan's own figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from textual.timer import Timer

from memwb.engine.client import DIED
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data
from memwb.engine.prediction import Prediction
from memwb.engine.protocol import Event, Predict, Predicted, Unpredicted
from memwb.workbench import library, workers
from memwb.workbench import outlook as outlooks

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench

DELAY = 0.3
"""Seconds that a cursor has to rest before the engine is asked; what is kept is told at once."""


class Aside(NamedTuple):
    """One plan that a screen wants predicted, under a name of its own."""

    name: str
    plan: Plan
    target: str


Answer = Prediction | Unpredicted
Told = Callable[[str, Answer], None]


class Asides:
    """What the open screen wants to know; another wish takes the place of the one before."""

    def __init__(self, app: Workbench) -> None:
        self.app = app
        self._count = 0
        self._told: Told | None = None
        self._queue: list[Aside] = []
        """What is not kept, in the order in which the engine will be asked."""
        self._out = ""
        """The name of the question that the engine is at work on."""
        self._delay: Timer | None = None

    @property
    def waits(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._queue)

    def why_waiting(self, unknown: bool = False) -> str:
        """Why there is no answer yet, in a few words; ``unknown`` is a model only the hub knows."""
        if self.app.busy or self.app.bursts.wanted:
            return "after the burst"
        return {"starting": "when the engine is ready", "dead": "there is no engine"}.get(
            self.app.engine_state, "asking the hub" if unknown else "predicting"
        )

    def ask(self, asides: Sequence[Aside], told: Told) -> None:
        """Want these predicted, in the place of whatever was wanted before."""
        self._drop()
        self._told = told
        workers.displace(self.app, "asides", self._recall, tuple(asides))

    def leave(self) -> None:
        """Nothing is wanted any more: the engine goes on with the plan at hand."""
        self.app.workers.cancel_group(self.app, "asides")
        self._drop()
        self._told = None
        self.app.predictor.resume()

    def _drop(self) -> None:
        self._queue, self._out = [], ""
        if self._delay is not None:
            self._delay.stop()
            self._delay = None

    async def _recall(self, asides: tuple[Aside, ...]) -> None:
        """Tell what is kept; the engine is asked for the rest, once the cursor rests."""
        here = self.app.device
        unknown = []
        for aside in asides:
            events = await asyncio.to_thread(library.recalled, self._question(aside, "kept"), here)
            answer = next((found for event in events if (found := _answer(event))), None)
            if answer is None:
                unknown.append(aside)
            else:
                self._tell(aside.name, answer)
        self._queue = unknown
        self._delay = self.app.set_timer(DELAY, self.go_on)

    def go_on(self) -> None:
        """Ask the engine for the next, if it is free to answer."""
        app = self.app
        if self._delay is not None:
            self._delay.stop()
            self._delay = None
        if not self._queue or self._out:
            return
        if app.engine_state != "ready" or app.bursts.wanted:
            return
        if app.predictor.outlook.state == outlooks.WAITING:
            return
        self._count += 1
        name = f"aside {self._count}"
        try:
            app.bursts.tell(self._question(self._queue[0], name))
        except MemwbError:  # it has just died, which is told elsewhere
            return
        app.predictor.give_way()
        self._out = name

    def again(self) -> None:
        """The engine may be free by now."""
        if self._delay is None:
            self.go_on()

    def displaced(self) -> None:
        """The engine was asked something else: the question that was out is asked again later."""
        self._out = ""

    def hear(self, event: Event) -> None:
        """An answer of the engine; those to other questions change nothing."""
        if isinstance(event, Predicted | Unpredicted) and event.prediction == self._out != "":
            self._out = ""
            # What an engine that dies leaves unanswered is asked of the next one.
            if not (isinstance(event, Unpredicted) and event.title == DIED):
                aside = self._queue.pop(0)
                answer = _answer(event)
                assert answer is not None
                self._tell(aside.name, answer)
        if self._told is not None and self._delay is None:
            self.go_on()
            if not self._queue:
                self.app.predictor.resume()

    def _tell(self, name: str, answer: Answer) -> None:
        if self._told is not None:
            self._told(name, answer)

    def _question(self, aside: Aside, name: str) -> Predict:
        return Predict(
            plan=plan_data(aside.plan),
            target=aside.target,
            prediction=name,
            trust_remote_code=self.app.settings.trust_remote_code,
        )


def _answer(event: Event) -> Answer | None:
    if isinstance(event, Predicted):
        return event.result
    return event if isinstance(event, Unpredicted) else None
