"""Predictions beside whatever runs: each plan in a process of its own, a few at a time.

A fork costs less than telling what one prediction has left behind in its process (settings of
torch, patches of classes) from what the next one needs; so a plan's prediction is the same whether
it is asked for itself or as the change of a toggle, and it can be cancelled at any moment.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from selectors import EVENT_READ, BaseSelector
from typing import TYPE_CHECKING

import msgspec

from memwb.engine.errors import MemwbError
from memwb.engine.gpus import target_of
from memwb.engine.plan import Plan, active, check, plan_from
from memwb.engine.prediction import Change
from memwb.engine.protocol import (
    AllPredicted,
    Device,
    Event,
    Predict,
    Predicted,
    Toggled,
    Unpredicted,
)
from memwb.engine.trainer.device import device_for
from memwb.engine.trainer.worker import LOG, Answer, Job, Worker, surprise, unpredicted

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.predict.toggles import Toggle

MOST_AT_ONCE = 2
NICE = 5
NICER = 10
"""How far the plan's own prediction, and those of toggles, stand back behind a burst."""


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
        self._asked: _Asked | None = None

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
        try:
            asked = _Asked(command, here)
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
        while asked.waiting and len(self._workers) < _at_once():
            self._start(asked, asked.waiting.popleft())
        if not self._workers:
            self._asked = None
            seconds = time.monotonic() - asked.began
            self._send(AllPredicted(asked.name, round(seconds, 3)))
            asked.close()

    def _start(self, asked: _Asked, job: Job) -> None:
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


class _Asked:
    """One Predict: what is known of it, what waits, and who waits for it.

    Raises MemwbError for a plan that is wrong.
    """

    def __init__(self, command: Predict, here: Device) -> None:
        # Not at the top: torch comes with it, and the engine says hello before.
        from memwb.engine.catalog import resolve
        from memwb.engine.predict.toggles import changes

        self.began = time.monotonic()
        self.name = command.prediction
        self.hopeless = False
        """Whether the plan cannot be predicted, and no toggle will change that."""
        self._command = command
        self._here = here
        self._target = command.target or _target_of(here)
        self._told = False
        self._early: list[tuple[Job, Answer]] = []
        self._toggles: dict[str, list[Toggle]] = {}
        self._impossible: list[Toggle] = []
        target_of(self._target)  # for its error
        plan = plan_from(command.plan)
        # Nothing is read of the weights: pickled ones do no harm.
        model = resolve(plan.model, plan.weights, True, command.trust_remote_code)
        device = self._device()
        check(plan, model.config, device)
        own = self._job(plan, model, NICE)
        self._own = own.name
        self.waiting = deque([own])
        for toggle in changes(plan, model.config, device) if command.changes else ():
            if toggle.plan is None:
                self._impossible.append(toggle)
                continue
            job = self._job(toggle.plan, model, NICER)
            if job.name not in (own.name, *self._toggles):
                self.waiting.append(job)
            self._toggles.setdefault(job.name, []).append(toggle)
        self._all = len(self.waiting)

    def known(self) -> Iterator[Event]:
        """What needs no prediction: the cache has it, or there is no such plan."""
        jobs, self.waiting = self.waiting, deque()
        for job in jobs:
            answer = None if self.hopeless else _kept(job.key)
            if answer is not None:
                self._all -= 1
                yield from self.take(job, answer)
            else:
                self.waiting.append(job)
        if self.hopeless:
            self.waiting.clear()

    def take(self, job: Job, answer: Answer) -> Iterator[Event]:
        """What can be told now that a job is done: the plan's own result comes first."""
        self._early.append((job, answer))
        if job.name == self._own:
            yield msgspec.structs.replace(answer, prediction=self.name)
            self._told = True
            if isinstance(answer, Unpredicted) and not answer.technique:
                self.hopeless = True
                self.waiting.clear()
                return
            for toggle in self._impossible:
                yield Toggled(self.name, _change(toggle, None))
        if self._told and not self.hopeless:
            for done, found in self._early:
                for toggle in self._toggles.pop(done.name, ()):
                    yield Toggled(self.name, _change(toggle, found))
            self._early.clear()

    def close(self) -> None:
        """Nothing is left to tell."""
        from memwb.engine.predict.cache import prune

        if self._all:
            prune()

    def _device(self) -> Device | None:
        """What a technique has to be able to run on; None where that is another machine's GPU.

        What a technique says of CUDA devices it says of this machine's packages and compilers,
        which is nothing to the target's.
        """
        if self._target == "cpu":
            return device_for("cpu")
        return self._here if self._target == _target_of(self._here) else None

    def _job(self, plan: Plan, model: Model, nice: int) -> Job:
        from memwb.engine.predict.cache import key_of

        key = key_of(plan, model, self._target, self._here)
        name = key or repr(msgspec.json.encode((plan.workload, active(plan)), order="sorted"))
        return Job(name, key, plan, self._target, self._command.trust_remote_code, nice)


def _kept(key: str) -> Answer | None:
    from memwb.engine.predict.cache import find

    kept = find(key)
    if kept is None:
        return None
    if kept.result is not None:
        return Predicted("", kept.result)
    return Unpredicted("", *kept.refusal)


def _change(toggle: Toggle, answer: Answer | None) -> Change:
    reason = toggle.reason
    if isinstance(answer, Unpredicted):
        reason = ": ".join(part for part in (answer.title, answer.what) if part)
    return Change(
        technique=toggle.technique,
        on=toggle.on,
        overrides=toggle.overrides,
        peak=answer.result.peak if isinstance(answer, Predicted) else None,
        reason=reason,
    )


def _target_of(here: Device) -> str:
    """The target that this machine's device is."""
    gpu = target_of("") if here.kind == "cuda" else None
    return gpu.id if gpu is not None else "cpu"


def _at_once() -> int:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(MOST_AT_ONCE, cores)


def _later() -> None:
    """A turn looks at every worker."""
