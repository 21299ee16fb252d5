"""One burst through the engine, recorded: what the commands that run something share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from memwb.engine import paths
from memwb.engine.catalog import resolve
from memwb.engine.client import Engine, named
from memwb.engine.data import check_data
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data
from memwb.engine.prediction import Prediction
from memwb.engine.protocol import (
    AllPredicted,
    Device,
    Ended,
    Event,
    Peak,
    Predict,
    Predicted,
    Problem,
    Ready,
    Start,
    Started,
    Stop,
    Unpredicted,
)
from memwb.engine.runs import Recorder, Summary, record

EXIT_CODES = {"done": 0, "failed": 1, "refused": 2, "oom": 3, "stopped": 130}


PATIENCE = 3.0
"""Seconds that a burst waits for its prediction where nobody can be asked about it; the engine is
warm by then."""

LONG_PATIENCE = 30.0
"""The same on a terminal, where a plan that exceeds is asked about: large ones take longest."""


class Trust(NamedTuple):
    """What the user has allowed by a flag."""

    allow_pickle: bool = False
    trust_remote_code: bool = False


class Result(NamedTuple):
    """How a burst ended. ``summary`` is None when it ended before it had started."""

    ended: Ended
    summary: Summary | None


def checked(plan: Plan, trust: Trust = Trust()) -> Plan:  # noqa: B008
    """The plan with its data's path made absolute, if its model and data are there.

    Raises MemwbError otherwise, before anything is started or written.
    """
    resolve(plan.model, plan.weights, *trust)
    return check_data(plan)


class Forecast(NamedTuple):
    """What was predicted, as far as it was, and on what the engine runs bursts."""

    result: Prediction | None
    device: Device | None
    failure: Unpredicted | None = None


def with_answer(forecast: Forecast, event: Event) -> Forecast:
    """The forecast with an answer taken in."""
    match event:
        case Predicted():
            return forecast._replace(result=event.result)
        case Unpredicted():
            return forecast._replace(failure=event)
    return forecast


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[Engine]:
    """A running engine: the one that MEMWB_ENGINE names as a command, else our own."""
    running = Engine(named(), log=paths.log_file())
    try:
        await running.start()
        yield running
    finally:
        await running.close()


async def foretell(
    running: Engine,
    question: Predict,
    on_event: Callable[[Event], None],
    patience: float | None = None,
) -> Forecast:
    """Have a plan predicted by an engine that has just been started; for Ctrl-C see ``burst``.

    Waits for the engine as long as it takes, for the answers no longer than ``patience`` seconds
    from then on. Raises MemwbError when the engine does not take the question.
    """
    forecast = Forecast(None, None)
    loop = asyncio.get_running_loop()

    async def listen() -> None:
        nonlocal forecast
        async for event in running.events():
            on_event(event)
            if isinstance(event, Ready):
                forecast = forecast._replace(device=event.device)
                if patience is not None:
                    limit.reschedule(loop.time() + patience)
            forecast = with_answer(forecast, event)
            if isinstance(event, Unpredicted | AllPredicted):
                return
            if isinstance(event, Problem):
                raise MemwbError(event.title, event.what, event.fix)

    def interrupt(task: asyncio.Task[object]) -> None:
        task.cancel()

    try:
        with _signals(interrupt):
            running.send(question)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    await listen()
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    return forecast


async def burst(
    running: Engine,
    plan: Plan,
    on_event: Callable[[Event, Recorder | None], None],
    device: str = "auto",
    trust: Trust = Trust(),  # noqa: B008 - a tuple of two booleans
    name: str = "",
    warm: bool = False,
    predicted: Peak | None = None,
) -> Result:
    """Run one burst and record it; the first Ctrl-C stops it, a second one abandons it.

    ``on_event`` sees each event after it was recorded. Raises MemwbError when the engine
    refuses the plan: then nothing was written. ``warm`` says that the engine is ready already;
    ``predicted`` is kept with the run.
    """
    recorder: Recorder | None = None
    asked = False

    def interrupt(task: asyncio.Task[object]) -> None:
        nonlocal asked
        if recorder is None or asked:
            task.cancel()
        else:
            asked = True
            running.send(Stop())

    try:
        with _signals(interrupt):
            running.send(Start(plan_data(plan), device, "1", *trust))
            async for event in running.events():
                warm = warm or isinstance(event, Ready)
                if isinstance(event, Started):
                    recorder = record(plan, event, name, predicted)
                elif isinstance(event, Predicted) and recorder is not None:
                    recorder.foretold(event.result.peak)  # later than it was waited for
                elif recorder is not None:
                    recorder.event(event)
                elif isinstance(event, Problem) and warm:
                    raise MemwbError(event.title, event.what, event.fix)
                on_event(event, recorder)
                if isinstance(event, Ended):
                    if event.outcome == "refused":
                        raise MemwbError(event.title, event.what, event.fix)
                    return Result(event, recorder.summary if recorder else None)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        if recorder is not None:
            recorder.close()
    title = "The engine ended before the burst was over"
    ended = Ended("1", "failed", title=title, fix="`memwb doctor` looks at what is installed.")
    return Result(ended, None)


@contextlib.contextmanager
def _signals(interrupt: Callable[[asyncio.Task[object]], None]) -> Iterator[None]:
    """Ctrl-C and a polite kill call ``interrupt`` instead of breaking into the loop."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows keeps KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, task)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
