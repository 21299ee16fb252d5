"""A plan's prediction: traced on meta, folded out to all layers, and told as plain data."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Iterator

import numpy as np

from memwb.engine.data import of_script
from memwb.engine.errors import CannotPredict, MemwbError
from memwb.engine.gpus import context_bytes, fits
from memwb.engine.memory import Categories, Peak
from memwb.engine.plan import Plan, active
from memwb.engine.predict.beside import beside
from memwb.engine.predict.course import Course, course_of, thinned
from memwb.engine.predict.fold import fold
from memwb.engine.predict.layers import FIXED
from memwb.engine.predict.run import ALL, LONG, LONGER, SHORT, Traced, traced
from memwb.engine.predict.stream import alive_at, with_workspaces
from memwb.engine.predict.targets import Target, target_named
from memwb.engine.predict.words import notes_on, words_of
from memwb.engine.prediction import Parameters, Point, Prediction
from memwb.engine.technique import module_of, techniques
from memwb.engine.trainer.alive import MOST, largest_of
from memwb.engine.trainer.causes import Model
from memwb.engine.trainer.outcome import NO_MODEL
from memwb.engine.trainer.trace import downsample

POINTS = 400
"""At most so many points of one step are told."""


def predict(
    plan: Plan, target: str, *, trust_remote_code: bool = False, at_once: bool = False
) -> Prediction:
    """What the plan will need on a target: the id of a GPU, ``cpu``, or nothing for this machine.

    ``at_once`` traces the two depths in two processes: sooner where a core is idle. It forks, so
    it is for processes of one thread.

    Reads no more of weights than headers, and needs no GPU. Raises CannotPredict if a technique
    does not run on meta, and another MemwbError if the plan, its model or the target is wrong.
    """
    began = time.perf_counter()
    aim = target_named(target)
    found = whole(plan, aim, trust_remote_code, at_once=at_once)
    with uncollected():
        stream = with_workspaces(found.stream, aim.workspaces)
        course = course_of(stream, aim)
    at = course.peak
    row = course.row(at)
    reserved = course.reserved
    peak = Peak(
        allocated=row.total,
        reserved=reserved,
        device=reserved + (context_bytes(aim.arch) if aim.kind == "cuda" else 0),
        phase=row.phase,
        categories=Categories(*row.totals),
    )
    members = alive_at(stream, at)
    model = Model(found.vocabulary, plan.workload.sequence_length, found.layers)
    return Prediction(
        target=aim.id,
        peak=peak,
        step=row.step,
        timeline=timeline_of(course),
        largest=largest_of(members)[:MOST],
        fits=fits(peak, aim.arch) if aim.kind == "cuda" else (),
        parameters=Parameters(found.parameters, found.trainable),
        words=words_of(peak, row, members, model, aim),
        notes=notes_on(plan, aim, found.missing, stream.dtypes, found.in_place),
        seconds=round(time.perf_counter() - began, 3),
    )


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's collector: it would walk through a hundred thousand moments again and again,
    none of which is in a cycle."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def whole(
    plan: Plan,
    target: Target,
    trust_remote_code: bool = False,
    fold_it: bool = True,
    at_once: bool = False,
) -> Traced:
    """The run of all layers: folded out of two runs of few where that can be done."""
    found = folded(plan, target, trust_remote_code, at_once) if fold_it else None
    return found or _run(plan, target, ALL, trust_remote_code)


def folded(
    plan: Plan, target: Target, trust_remote_code: bool = False, at_once: bool = False
) -> Traced | None:
    """The run of all layers out of runs of few; None where these do not tell the rest."""
    short, long = _both(plan, target, trust_remote_code, at_once)
    if short.depths is None or long is None:
        return short
    few, more = short.depths
    with uncollected():
        stream = fold(short.stream, long.stream, short.layers, few, more)
    deepest = 2 * more - few
    if stream is None and few + more + deepest + FIXED < short.layers:
        # What reaches from one layer to the next but one (memory fetched ahead) is the same only
        # from a layer further on.
        longer = _run(plan, target, LONGER, trust_remote_code)
        with uncollected():
            stream = fold(long.stream, longer.stream, short.layers, more, deepest)
    if stream is None:
        return None
    times = (short.layers - few) // (more - few)
    return short._replace(
        stream=stream,
        parameters=short.parameters + times * (long.parameters - short.parameters),
        trainable=short.trainable + times * (long.trainable - short.trainable),
    )


def _both(plan: Plan, target: Target, trust: bool, at_once: bool) -> tuple[Traced, Traced | None]:
    """The runs of both depths; of one where that is all layers."""
    if not at_once:
        short = _run(plan, target, SHORT, trust)
        return short, None if short.depths is None else _run(plan, target, LONG, trust)
    with beside(lambda: _run(plan, target, SHORT, trust)) as begun:
        long = _run(plan, target, LONG, trust)
        return (long, None) if long.depths is None else (begun.result(), long)


def _run(plan: Plan, target: Target, take: int, trust: bool) -> Traced:
    try:
        return traced(plan, target, take, trust)
    except (MemwbError, MemoryError):
        raise
    except SystemExit as error:
        raise MemwbError("The script refused its input", str(error), "Check the plan.") from None
    except Exception as error:
        told = _cannot(plan, error)
        if told is None:
            raise
        raise told from error


def _cannot(plan: Plan, error: Exception) -> MemwbError | None:
    """What to tell of an exception in a script: of which technique it came, if of one.

    None where it is the system's word on a file or a process, which is not the plan's doing.
    """
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    if type(error).__name__ == "DataError":
        return of_script(error)
    if "load_config" in names:
        # A hub that refuses a model says so by an OSError too.
        title, fix = NO_MODEL
        return MemwbError(title, str(error), fix)
    if isinstance(error, OSError):
        return None
    blamed = ""
    for technique in active(plan):
        own = {name for name, value in vars(module_of(technique)).items() if callable(value)}
        own |= {f"{name}_{technique}" for name in own}
        if any(name in own for name in names if name not in _COMMON):
            blamed = technique
        if type(error).__module__.startswith("torch._dynamo"):
            # Whatever it stumbled over, without the compiler it would not have.
            compiles = techniques()[technique].group == "compile"
            blamed = technique if compiles else blamed
    what = _said(error)
    if not blamed:
        return CannotPredict("The plan cannot be predicted", what, "Run a burst to measure it.")
    return CannotPredict(
        f"{blamed} cannot be predicted",
        what,
        f"Run a burst to measure it, or predict without it: -o {blamed}=off.",
        technique=blamed,
    )


def _said(error: Exception) -> str:
    """What an exception means to who asked for a prediction; torch's own words where unknown."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(":")
    if any(words in str(error) for words in _WITHOUT_VALUES):
        return "it reads the values of a tensor, and a prediction has only its shape"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch.fx")):
        return f"torch's compiler gave up ({type(error).__name__})"
    own = f"{type(error).__name__}: {first}".rstrip(": ")
    if isinstance(error, NotImplementedError):
        return f"it does not run on tensors that have no values ({own})"
    return own


_WITHOUT_VALUES = (
    "cannot be called on meta tensors",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "data-dependent",
    "Cannot copy out of meta tensor",
    "is on the meta device",
)
"""In the messages of torch where an operator needs what a meta tensor does not have."""

_COMMON = frozenset(("main", "train", "loss", "forward", "backward", "step", "call", "<lambda>"))


def timeline_of(course: Course) -> tuple[Point, ...]:
    """Loading and both steps, thinned out: every phase's corners and the highest between."""
    points: list[Point] = []
    steps = course.moments.steps
    for step in (0, 1, 2):
        first, last = np.searchsorted(steps, [step, step + 1])
        rows = thinned(course, int(first), int(last), 4 * POINTS)
        points += (
            Point(row.phase, row.step, row.total, Categories(*row.totals))
            for row in downsample(rows, POINTS)
        )
    return tuple(points)
