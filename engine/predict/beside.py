"""A piece of work done in a forked process, while this one does another."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

Made = TypeVar("Made")


@contextlib.contextmanager
def beside(work: Callable[[], Made]) -> Iterator[Callable[[], Made]]:
    """Begin ``work`` in a process of its own; what is given waits for it and returns its result.

    The result has to be one that can be pickled. Where the work fails it is done again by who
    asks, so that an exception is raised where it can be told of; where nobody asks, it ends with
    the block. To be entered before this process has threads.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            rest = memoryview(pickle.dumps(work(), pickle.HIGHEST_PROTOCOL))
            while rest:
                rest = rest[os.write(writing, rest) :]
        finally:
            # Nothing of the process that it was forked from may run twice.
            os._exit(0)
    os.close(writing)

    def wait() -> Made:
        with open(reading, "rb", closefd=False) as pipe:
            said = pipe.read()
        try:
            made: Made = pickle.loads(said)
        except (EOFError, pickle.UnpicklingError):
            return work()
        return made

    try:
        yield wait
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
