"""A process forked off the server: that of a burst, and what the server holds of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import FrameType

import msgspec

from memwb.engine.protocol import (
    Ended,
    Event,
    Peak,
    Sample,
    Samples,
    Start,
    Step,
    Timeline,
    decode_event,
    encode,
)
from memwb.engine.trainer.outcome import EXIT_CODES, ended_by, killed


class Child:
    """A running burst as the server sees it: its pipe, its process, and what it said so far."""

    def __init__(self, pid: int, pipe: int, burst: str, folder: str) -> None:
        self.pid = pid
        # Its script lies in there, also when it was killed.
        self._folder = folder
        self.pipe = pipe
        self.burst = burst
        self.closed = False
        """Whether the pipe's other end is."""
        self._buffer = b""
        self._status: int | None = None
        self._ended: Ended | None = None
        self._losses: list[float] = []
        self._highest: Sample | None = None
        self._began = time.monotonic()
        self._stops: list[tuple[float, int]] = []
        self._stopped = False

    def read(self) -> list[bytes]:
        """The whole lines that have come, but not the end's: ``finish`` gives that.

        A client that hears of the end may start the next burst at once, so the process has to
        be gone by then.
        """
        try:
            chunk = os.read(self.pipe, 1 << 20)
        except BlockingIOError:
            return []
        if not chunk:
            self.closed = True
            return []
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        whole = []
        for line in lines:
            try:
                event = decode_event(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Cut short by whatever killed the burst, or not ours.
                print(f"memwb-engine: a burst said {line[:200]!r}", file=sys.stderr)
                continue
            self._note(event)
            if not isinstance(event, Ended):
                whole.append(line + b"\n")
        return whole

    def pending(self) -> bool:
        """Whether a dead process has left something in the pipe."""
        return bool(select.select([self.pipe], [], [], 0)[0])

    def is_over(self) -> bool:
        """Whether the process is gone (and collected)."""
        if self._status is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def stop(self, patience: float) -> None:
        """Ask it to end; after ``patience`` seconds terminate it, after as many more kill it."""
        now = time.monotonic()
        if not self._stopped:
            self._stopped = True
            self._signal(signal.SIGINT)
        self._stops = [(now + patience, signal.SIGTERM), (now + 2 * patience, signal.SIGKILL)]

    def press(self) -> None:
        """Do what is due of a stop."""
        while self._stops and time.monotonic() >= self._stops[0][0]:
            self._signal(self._stops.pop(0)[1])

    def kill(self) -> None:
        """End it now, and collect it."""
        if self._status is None:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._status = -signal.SIGKILL
        self._close()

    def finish(self) -> Ended:
        """How it ended: in its own words if it had any."""
        assert self._status is not None
        # Whatever it had started ends with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._close()
        if self._ended is not None:
            return self._ended
        if self._stopped:
            ended = Ended(self.burst, "stopped", self._peak(), title="The burst was stopped")
        else:
            ended = killed(self.burst, self._status, self._peak())
        seconds = round(time.monotonic() - self._began, 3)
        return msgspec.structs.replace(ended, losses=self._losses, seconds=seconds)

    def _note(self, event: Event) -> None:
        if isinstance(event, Step):
            self._losses.append(event.loss)
        elif isinstance(event, Ended):
            self._ended = event
            # It has only to clean up.
            self._stops = [(time.monotonic() + 3.0, signal.SIGKILL)]
        elif isinstance(event, Samples | Timeline):
            for sample in event.samples:
                if sample.categories is not None and (
                    self._highest is None or sample.allocated > self._highest.allocated
                ):
                    self._highest = sample

    def _peak(self) -> Peak | None:
        found = self._highest
        if found is None or found.categories is None:
            return None
        return Peak(found.allocated, found.reserved, found.device, found.phase, found.categories)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def _close(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
        self.pipe, self.closed = -1, True
        shutil.rmtree(self._folder, ignore_errors=True)


def fork(command: Start, close: Iterable[int]) -> Child:
    """Start a burst in a fresh process; ``close`` are the server's own descriptors."""
    folder = tempfile.mkdtemp(prefix="memwb-")
    pid, pipe = forked(lambda writing: _burst(command, folder, _Voice(writing)), close)
    return Child(pid, pipe, command.burst, folder)


def forked(work: Callable[[int], int], close: Iterable[int]) -> tuple[int, int]:
    """Do ``work`` in a fresh process of a group of its own, which dies with this one.

    ``work`` gets the writing end of a pipe and returns the exit code; it starts with SIGINT
    blocked. ``close`` are this process's own descriptors. Returns the new process's number and
    the reading end, which does not block.
    """
    reading, writing = os.pipe()
    # What is buffered here would be written twice.
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # A stop that comes before the child can hear it waits until it can.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _settle_in(parent, [*close, reading])
            code = work(writing)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            # Nothing of the server (its buffers, its exit handlers) may run twice.
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.close(writing)
    os.set_blocking(reading, False)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)
    return pid, reading


class _Voice:
    """Writes a burst's events, and hears that it should stop.

    An interrupt in the middle of a line waits for the line's end. One that is swallowed (Python
    ignores what is raised in a finalizer, and a traced step is full of them) is raised again
    with the next event.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._writing = False
        self._asked = False
        signal.signal(signal.SIGINT, self._interrupt)

    def emit(self, event: Event) -> None:
        """Write one event whole; from any thread."""
        with self._lock:
            self._writing = True
            rest = memoryview(encode(event))
            while rest:
                rest = rest[os.write(self._pipe, rest) :]
            self._writing = False
        last_words = isinstance(event, Timeline | Ended)
        here = threading.current_thread() is threading.main_thread()
        if self._asked and here and not last_words:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._writing:
            raise KeyboardInterrupt


def _settle_in(parent: int, close: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        # A group of its own: a terminal's Ctrl-C reaches the server, which then asks the burst.
        os.setpgid(0, 0)
    for descriptor in close:
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _die_with(parent)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the server is gone (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _burst(command: Start, folder: str, voice: _Voice) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        from memwb.engine.trainer.burst import run_plan

        ended = run_plan(command, voice.emit, folder)
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        ended = ended_by(command.burst, error, True, None)
        voice.emit(ended)
    return EXIT_CODES.get(ended.outcome, 1)
