"""The process that predicts one plan, and what the server holds of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from memwb.engine.catalog import resolve
from memwb.engine.errors import CannotPredict, MemwbError
from memwb.engine.protocol import Predicted, Unpredicted, decode_event, encode
from memwb.engine.trainer.child import forked

if TYPE_CHECKING:
    from memwb.engine.question import Answer, Job

LONGEST = 120.0
"""Seconds after which a prediction is ended: it hangs."""

LOG = "The engine's log may say more (`memwb locate` says where)."
NO_MEMORY = (
    "This machine has too little memory to predict the plan",
    "the process that predicted it was refused more",
    "Close something else, or predict on another machine.",
)

LEARNED = "learned"
"""The file in a worker's folder with what it has found out about operators."""

NICE = 5
NICER = 10
"""How far the plan's own prediction, and those of toggles, stand back behind a burst."""


def cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Worker:
    """A prediction at work as the server sees it. ``close``: see ``forked``."""

    def __init__(self, job: Job, close: Iterable[int]) -> None:
        self.job = job
        self.until = time.monotonic() + LONGEST
        self._said = b""
        self._status: int | None = None
        # Whatever the process leaves behind when it is killed lies in there.
        self._folder = tempfile.mkdtemp(prefix="memwb-")
        self.pid, self.pipe = forked(lambda pipe: _predict(job, self._folder, pipe), close)

    def look(self) -> Answer | None:
        """What the process said, or how it died; None while it is at work."""
        over = self._collect(os.WNOHANG)
        if self._read() and not over:
            # Its end of the pipe is closed: it is about to go.
            over = self._collect(0)
        if over:
            return self._answer() or _died(self._status or 0)
        if time.monotonic() >= self.until:
            what = f"the plan was still being predicted after {LONGEST:g} s"
            return Unpredicted("", "The prediction took too long", what, LOG)
        return None

    def end(self) -> None:
        """Leave nothing behind: no process, no pipe, no file."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._collect(0)
        os.close(self.pipe)
        self._learn()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _learn(self) -> None:
        """Keep what it found out about operators: the next process starts from there."""
        if self._answer() is not None:
            from memwb.engine.predict import shortcuts

            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
                shortcuts.learn(Path(self._folder, LEARNED).read_bytes())

    def _collect(self, options: int) -> bool:
        """Whether the process is gone; without WNOHANG it is waited for."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def _read(self) -> bool:
        """Take in what has come; whether that was all."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.pipe, 1 << 20):
                self._said += chunk
            return True
        return False

    def _answer(self) -> Answer | None:
        if not self._said.endswith(b"\n"):
            return None
        try:
            event = decode_event(self._said)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return event if isinstance(event, Predicted | Unpredicted) else None


def unpredicted(prediction: str, error: MemwbError) -> Unpredicted:
    """The event for an error."""
    technique = error.technique if isinstance(error, CannotPredict) else ""
    return Unpredicted(prediction, error.title, error.what, error.fix, technique)


def surprise(error: BaseException) -> MemwbError:
    """The words for an exception that nobody foresaw; the log has its traceback."""
    if isinstance(error, MemoryError):
        return MemwbError(*NO_MEMORY)
    lines = str(error).strip().splitlines() or [""]
    title = f"The prediction failed: {type(error).__name__}: {lines[0]}".rstrip(": ")
    return MemwbError(title, "\n".join(lines[1:6]), LOG)


def _unfetched(job: Job, error: BaseException) -> MemwbError | None:
    """The words for a model that is only on the hub, where the hub could not be asked."""
    if not isinstance(error, OSError):
        return None
    if resolve(job.plan.model, job.plan.weights, True, job.trust_remote_code).config is not None:
        return None
    return MemwbError(
        f"The config of {job.plan.model} is not here and could not be fetched",
        (str(error).strip().splitlines() or [""])[0],
        "Check its name and the network, or take a catalogue model or a folder with config.json.",
    )


def _predict(job: Job, folder: str, pipe: int) -> int:
    """The forked process: predict, keep the result, and say it."""
    # Not at the top: the server says hello before it imports torch, which takes seconds.
    import torch

    from memwb.engine.predict import shortcuts

    known = shortcuts.known()
    # No GPU is needed, and a context would take memory from the burst that may run there.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tempfile.tempdir = folder
    with contextlib.suppress(OSError):
        os.nice(NICE if job.own else NICER)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # Where memory runs short, rather this goes than the burst.
        score.write("500")
    # Two of these run at once. Filling 8-bit states, which are real, with threads of its own takes
    # one more than twice the processor time (1.5 s for 0.66 with 8-bit AdamW).
    torch.set_num_threads(1)
    answer = encode(_result(job))
    with contextlib.suppress(OSError):
        Path(folder, LEARNED).write_bytes(shortcuts.told(known))
    rest = memoryview(answer)
    while rest:
        rest = rest[os.write(pipe, rest) :]
    return 0


def _result(job: Job) -> Answer:
    try:
        from memwb.engine.predict.predictor import predict
        from memwb.engine.prediction_cache import Kept, keep

        at_once = job.own and cores() > 1
        result = predict(
            job.plan, job.target, trust_remote_code=job.trust_remote_code, at_once=at_once
        )
    except CannotPredict as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError):
            return unpredicted("", surprise(cause))
        if error.technique and not isinstance(cause, OSError):
            # It will not run the next time either.
            keep(job.key, Kept(refusal=(error.title, error.what, error.fix, error.technique)))
        return unpredicted("", error)
    except MemwbError as error:
        return unpredicted("", error)
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        return unpredicted("", _unfetched(job, error) or surprise(error))
    keep(job.key, Kept(result=result))
    return Predicted("", result)


def _died(status: int) -> Unpredicted:
    gone = "its process was gone before it could say anything"
    if status == -signal.SIGKILL:
        fix = (
            "When a machine runs short of memory, the system's out-of-memory killer does this: "
            "close something else, or predict on another machine."
        )
        return Unpredicted("", "The prediction was killed (signal 9)", gone, fix)
    if status < 0:
        return Unpredicted("", f"The prediction was killed (signal {-status})", gone, LOG)
    return Unpredicted("", f"The prediction ended without a word (exit code {status})", "", LOG)
