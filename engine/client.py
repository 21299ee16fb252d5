"""The engine as seen from outside: a process that is sent commands and gives events. No torch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from memwb.engine.errors import MemwbError
from memwb.engine.protocol import (
    AllPredicted,
    Command,
    Ended,
    Event,
    Predict,
    Problem,
    Quit,
    Start,
    Started,
    Step,
    Unpredicted,
    decode_event,
    encode,
)

DIED = "The engine died"
"""The title of the last word on a burst or a prediction that ended with the process."""
GARBLED = "The engine said something that is no event"
TOO_LONG = "The engine sent a line that is too long"
"""The titles of lines that could not be read."""
LONGEST_LINE = 64 * 2**20
"""A line may be this long; a longer one is a Problem, and the stream goes on."""


def named() -> list[str] | None:
    """The command that MEMWB_ENGINE names, None for our own. Raises MemwbError if it is none."""
    text = os.environ.get("MEMWB_ENGINE", "")
    try:
        return shlex.split(text) or None
    except ValueError as error:
        raise MemwbError(
            "The engine cannot be started",
            f"MEMWB_ENGINE is no command: {error}: {text}",
            "Quote it as a shell would want it, or unset it.",
        ) from None


class Engine:
    """An engine's process. ``command`` is anything that speaks the protocol on its stdio.

    ``log`` is a file that its standard error is appended to; without one, or where it cannot be
    written, it is dropped.
    """

    def __init__(self, command: Sequence[str] | None = None, log: Path | None = None) -> None:
        # -P: the folder that memwb is started in is no place to import from.
        self.command = tuple(command or (sys.executable, "-P", "-m", "memwb.engine"))
        self.log = log
        self._process: Process | None = None
        self._asked: str | None = None
        self._burst: str | None = None
        self._losses: list[float] = []
        self._prediction: str | None = None
        self._closing = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process's number, once started."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process. Raises MemwbError if the command cannot be run."""
        with contextlib.ExitStack() as stack:
            errors: int | IO[bytes] = asyncio.subprocess.DEVNULL
            if self.log is not None:
                try:
                    self.log.parent.mkdir(parents=True, exist_ok=True)
                    errors = stack.enter_context(self.log.open("ab"))
                except OSError:
                    # A burst is worth more than its narration; nobody is sent to this file then.
                    self.log = None
            try:
                # A session of its own: Ctrl-C in the terminal is for the client, which then asks
                # the engine to stop.
                self._process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=errors,
                    limit=LONGEST_LINE,
                    start_new_session=True,
                )
            except OSError as error:
                raise MemwbError(
                    "The engine cannot be started",
                    f"{' '.join(self.command)}: {error.strerror or error}",
                    "Check the command of the engine.",
                ) from None

    def send(self, command: Command) -> None:
        """Send a command. Raises MemwbError if the engine is gone."""
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise MemwbError("The engine is not running", "", "Start it again.")
        if isinstance(command, Start):
            self._asked = self._asked or command.burst
        elif isinstance(command, Predict):
            self._prediction = command.prediction
        process.stdin.write(encode(command))

    async def events(self) -> AsyncIterator[Event]:
        """Everything the engine says, until its process is gone.

        A line that is no event comes as a Problem. If the process dies while a burst runs or
        was asked for, an Ended that says how it died comes last, and an Unpredicted if it owed a
        prediction.
        """
        process = self._process
        assert process is not None and process.stdout is not None, "start() comes first"
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                # asyncio has dropped what it had read of the line.
                yield Problem(TOO_LONG, f"more than {LONGEST_LINE} bytes")
                continue
            except ConnectionResetError:
                break
            if not line:
                break
            if line.strip():
                event = _event(line)
                self._note(event)
                yield event
        code = await process.wait()
        if self._prediction is not None and not self._closing:
            yield self._unpredicted(self._prediction, code)
        lost = self._burst or self._asked
        self._burst = self._asked = None
        if lost is not None:
            yield self._lost(lost, code)

    async def close(self) -> None:
        """End the process: ask, then terminate, then kill. Never hangs, leaves no zombie."""
        process = self._process
        if process is None:
            return
        self._closing = True
        if process.returncode is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(encode(Quit()))
                process.stdin.close()
        for patience, end in ((3.0, process.terminate), (2.0, process.kill)):
            if await _gone(process, patience):
                break
            with contextlib.suppress(ProcessLookupError):
                end()
        else:
            await process.wait()
        # Nobody may be reading the events any more: what is left would keep the pipe open.
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()

    def _note(self, event: Event) -> None:
        if isinstance(event, Started):
            self._burst, self._losses = event.burst, []
        elif isinstance(event, Step):
            self._losses.append(event.loss)
        elif isinstance(event, Ended) and event.burst in (self._burst, self._asked):
            self._burst = self._asked = None
        elif isinstance(event, AllPredicted) and event.prediction == self._prediction:
            self._prediction = None

    def _lost(self, burst: str, code: int) -> Ended:
        if self._closing:
            title = "The burst was stopped"
            return Ended(burst, "stopped", losses=list(self._losses), title=title)
        return Ended(
            burst,
            "failed",
            losses=list(self._losses),
            title=DIED,
            what=f"its process ended while the burst was running ({_how(code)})",
            fix=f"Run it again: the engine is started anew.{self._where()}",
        )

    def _unpredicted(self, prediction: str, code: int) -> Unpredicted:
        return Unpredicted(
            prediction,
            title=DIED,
            what=f"its process ended before all was predicted ({_how(code)})",
            fix=f"Ask again: the engine is started anew.{self._where()}",
        )

    def _where(self) -> str:
        return f" {self.log} may say more." if self.log is not None else ""


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


async def _gone(process: Process, seconds: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _event(line: bytes) -> Event:
    try:
        return decode_event(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shown = line[:200].decode("utf-8", "replace").rstrip()
        return Problem(GARBLED, f"{error}: {shown}")
