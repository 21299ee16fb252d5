"""Predictions beside whatever runs: each plan in a process of its own, a few at a time.

A fork costs less than telling what one prediction has left behind in its process (settings of
torch, patches of classes) from what the next one needs; so a plan's prediction is the same whether
it is asked for itself or as the change of a toggle, and it can be cancelled at any moment.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from selectors import EVENT_READ, BaseSelector
from typing import TYPE_CHECKING

from memwb.engine.errors import MemwbError
from memwb.engine.protocol import (
    AllPredicted,
    Device,
    Event,
    Predict,
    Unpredicted,
)
from memwb.engine.trainer.warm import warm
from memwb.engine.trainer.worker import LOG, Worker, cores, surprise, unpredicted

if TYPE_CHECKING:
    from memwb.engine.question import Job, Question

MOST_AT_ONCE = 2


class Predictions:
    """What the server holds of the prediction that was asked for last.

    ``turn`` is to be called whenever a pipe of ``watch`` is readable, a child has died, or
    ``patience`` is over; ``own`` tells the descriptors that no forked process may hold on to.
    """

    def __init__(
        self,
        send: Callable[[Event], None],
        watch: BaseSelector,
        own: Callable[[], Iterable[int]],
    ) -> None:
        self.failed = False
        """Whether a plan that was asked for could not be predicted."""
        self._send = send
        self._watch = watch
        self._own = own
        self._workers: list[Worker] = []
        self._asked: Question | None = None

    @property
    def busy(self) -> bool:
        """Whether something is still to be told."""
        return self._asked is not None

    @property
    def pipes(self) -> list[int]:
        """The open pipes from the processes at work."""
        return [worker.pipe for worker in self._workers]

    def begin(self, command: Predict, here: Device) -> None:
        """Predict a plan, in place of the one before it. ``here`` is this machine's device."""
        self.cancel()
        # Not at the top: it takes a while, and the engine says hello before.
        from memwb.engine.question import Question

        try:
            asked = Question(command, here)
        except Exception as error:
            if not isinstance(error, MemwbError):
                traceback.print_exc(file=sys.stderr)
                error = surprise(error)
            self._say([unpredicted(command.prediction, error)])
            self._send(AllPredicted(command.prediction, 0.0))
            return
        self._asked = asked
        self._say(asked.known())
        self.turn()
        if self._workers:
            # While the first of them are at work, for all that come.
            warm()

    def cancel(self) -> None:
        """End what is going on; no more of it is told."""
        self._dismiss()
        self._asked = None

    def patience(self) -> float | None:
        """Seconds until a prediction has taken too long; None where nothing is predicted."""
        if not self._workers:
            return None
        return min(worker.until for worker in self._workers) - time.monotonic()

    def turn(self) -> None:
        """Take in what has been predicted, end what hangs, and start what waits."""
        asked = self._asked
        if asked is None:
            return
        for worker in list(self._workers):
            answer = worker.look()
            if answer is not None:
                self._dismiss(worker)
                self._say(asked.take(worker.job, answer))
        if asked.hopeless:
            self._dismiss()
        while asked.waiting and self._room():
            self._start(asked, asked.waiting.popleft())
        if not self._workers:
            self._asked = None
            self._send(asked.over())
            if not asked.all_known:
                from memwb.engine.prediction_cache import prune

                prune()

    def _room(self) -> bool:
        """Whether one more can be at work. The plan's own takes two cores, and is waited for."""
        most = min(MOST_AT_ONCE, cores())
        return sum(2 if worker.job.own else 1 for worker in self._workers) < most

    def _start(self, asked: Question, job: Job) -> None:
        try:
            worker = Worker(job, self._own())
        except OSError as error:
            title = "The prediction could not start"
            self._say(asked.take(job, Unpredicted("", title, str(error), LOG)))
            return
        self._workers.append(worker)
        self._watch.register(worker.pipe, EVENT_READ, _later)

    def _dismiss(self, *workers: Worker) -> None:
        """End these, or all."""
        for worker in workers or tuple(self._workers):
            self._workers.remove(worker)
            self._watch.unregister(worker.pipe)
            worker.end()

    def _say(self, events: Iterable[Event]) -> None:
        for event in events:
            self.failed |= isinstance(event, Unpredicted)
            self._send(event)


def _later() -> None:
    """A turn looks at every worker."""
