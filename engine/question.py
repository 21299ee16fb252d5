"""What a Predict asks for: a plan and its toggles, each known already or still to be predicted.

The engine's process predicts what is not known; everybody else can tell what is, without it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from memwb.engine.catalog import Model, resolve
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.gpus import target_of
from memwb.engine.plan import Plan, active, check, plan_from
from memwb.engine.prediction import Change
from memwb.engine.prediction_cache import find, key_of
from memwb.engine.protocol import (
    AllPredicted,
    Device,
    Event,
    Predict,
    Predicted,
    Toggled,
    Unpredicted,
)
from memwb.engine.toggles import Toggle, changes

Answer = Predicted | Unpredicted


class Job(NamedTuple):
    """One plan to predict for a target."""

    name: str
    """The same for plans that are alike."""
    key: str
    """What its result is kept under; empty where it is not kept."""
    plan: Plan
    target: str
    trust_remote_code: bool
    own: bool
    """Whether it is the plan that was asked for, and not a toggle of it."""


class Question:
    """One Predict: what is known of it, what waits, and who waits for it.

    ``here`` is this machine's device. Raises MemwbError for a plan that is wrong.
    """

    def __init__(self, command: Predict, here: Device) -> None:
        self.name = command.prediction
        self.began = time.monotonic()
        self.hopeless = False
        """Whether the plan cannot be predicted, and no toggle will change that."""
        self._trust = command.trust_remote_code
        self._target = command.target or _target_of(here)
        self._told = False
        self._early: list[tuple[Job, Answer]] = []
        self._toggles: dict[str, list[Toggle]] = {}
        self._impossible: list[Toggle] = []
        target_of(self._target)  # for its error
        plan = plan_from(command.plan)
        # No more is read of weights than headers: pickled ones do no harm.
        model = resolve(plan.model, plan.weights, True, self._trust)
        device = self._device(here)
        check(plan, model.config, device)
        self.own = self._job(plan, model, True)
        self.waiting = deque([self.own])
        """What is to be predicted, in this order."""
        for toggle in changes(plan, model.config, device) if command.changes else ():
            if toggle.plan is None:
                self._impossible.append(toggle)
                continue
            job = self._job(toggle.plan, model, False)
            if job.name not in (self.own.name, *self._toggles):
                self.waiting.append(job)
            self._toggles.setdefault(job.name, []).append(toggle)
        self._sort(command.first)
        self.all_known = False
        """Whether nothing of it had to be predicted."""

    def _sort(self, first: tuple[str, ...]) -> None:
        """The plan itself, the toggles that are wanted first, then the others."""
        ranks = {technique: at for at, technique in enumerate(first)}

        def rank(job: Job) -> int:
            if job.own:
                return -1
            return min(ranks.get(each.technique, len(ranks)) for each in self._toggles[job.name])

        self.waiting = deque(sorted(self.waiting, key=rank))

    def known(self) -> Iterator[Event]:
        """What needs no prediction: it is kept, or there is no such plan."""
        jobs, self.waiting = self.waiting, deque()
        for job in jobs:
            answer = None if self.hopeless else kept(job.key)
            if answer is not None:
                yield from self.take(job, answer)
            else:
                self.waiting.append(job)
        if self.hopeless:
            self.waiting.clear()
        self.all_known = not self.waiting

    def take(self, job: Job, answer: Answer) -> Iterator[Event]:
        """What can be told now that a job is done: the plan's own result comes first."""
        self._early.append((job, answer))
        if job.own:
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

    def over(self) -> AllPredicted:
        """The last that is told of it."""
        return AllPredicted(self.name, round(time.monotonic() - self.began, 3))

    def _device(self, here: Device) -> Device | None:
        """What a technique has to be able to run on; None where that is another machine's GPU.

        What a technique says of CUDA devices it says of this machine's packages and compilers,
        which is nothing to the target's.
        """
        if self._target == "cpu":
            return device_for("cpu")
        return here if self._target == _target_of(here) else None

    def _job(self, plan: Plan, model: Model, own: bool) -> Job:
        key = key_of(plan, model, self._target)
        name = key or repr(msgspec.json.encode((plan.workload, active(plan)), order="sorted"))
        return Job(name, key, plan, self._target, self._trust, own)


def recalled(command: Predict, here: Device) -> list[Event]:
    """What is kept of the answers, as the engine would tell it, without the engine.

    Nothing unless the plan's own prediction is among it; with AllPredicted at its end where that
    is everything that was asked for.
    """
    try:
        question = Question(command, here)
    except MemwbError:  # the engine will say it
        return []
    if kept(question.own.key) is None:
        return []
    events = list(question.known())
    return [*events, question.over()] if question.all_known else events


def kept(key: str) -> Answer | None:
    """The answer that is kept under a key."""
    found = find(key)
    if found is None:
        return None
    if found.result is not None:
        return Predicted("", found.result)
    return Unpredicted("", *found.refusal)


def _change(toggle: Toggle, answer: Answer | None) -> Change:
    reason = toggle.reason
    if isinstance(answer, Unpredicted):
        # Of the technique itself the reason alone: that it is not predicted is told already.
        title = "" if answer.technique == toggle.technique and answer.what else answer.title
        reason = ": ".join(part for part in (title, answer.what) if part)
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
