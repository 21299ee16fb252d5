"""Work done in a forked process while this one does other work."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """What a forked process does; see ``beside``."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._pipe, writing = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            code = 1
            try:
                os.close(self._pipe)
                with os.fdopen(writing, "wb") as pipe:
                    pickle.dump(work(), pipe, pickle.HIGHEST_PROTOCOL)
                code = 0
            finally:
                # Nothing of the process it came from may run twice, nor is an error told twice.
                os._exit(code)
        os.close(writing)

    def result(self) -> T:
        """What the work gave. Where that did not come, it is done again here, and fails here."""
        with os.fdopen(os.dup(self._pipe), "rb") as pipe, suppress(EOFError, pickle.PickleError):
            found: T = pickle.load(pipe)
            return found
        return self._work()

    def end(self) -> None:
        """Leave nothing of it behind."""
        os.close(self._pipe)
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Beside[T]]:
    """Begin work in a process of its own, to be ended with the block.

    What it gives has to be pickled. Only for processes that have one thread.
    """
    begun = Beside(work)
    try:
        yield begun
    finally:
        begun.end()
