"""Python programs as forks of one process that has the heavy imports behind it: they take seconds.

    python warm.py SOCKET MODULE ...     imports these, then listens at an inherited descriptor

A program has the standard streams, environment and folder of who started it, and its exit code is
theirs to see. It runs in a fork: what it does is seen by nobody else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

STREAMS = (0, 1, 2)
# A fork copies the table of pages, a third of what a small run costs: huge pages are few. (glibc
# on Linux; elsewhere the setting is not known and does nothing.)
PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    asked = json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(line, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(asked)
    told = line.recv(1)
os._exit(told[0] if told else 70)
"""


class Warm:
    """A process that listens, and the command lines that have it run something."""

    def __init__(self, modules: list[str]) -> None:
        # Not in pytest's folder: a socket's path is of a hundred letters at most.
        self._folder = tempfile.TemporaryDirectory(prefix="memwb-")
        self._place = str(Path(self._folder.name) / "warm")
        with socket.socket(socket.AF_UNIX) as line:
            line.bind(self._place)
            line.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", __file__, str(line.fileno()), *modules],
                pass_fds=[line.fileno()],
                env={**os.environ, **PAGES},
            )

    def python(self, *words: str | Path) -> list[str]:
        """A command for ``python -P WORDS``; of its options only ``-m`` may stand there."""
        return [sys.executable, "-I", "-S", "-c", CLIENT, self._place, *map(str, words)]

    def close(self) -> None:
        """End the process; what still runs goes on."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def listen(line: socket.socket) -> None:
    """Fork for each that comes."""
    while True:
        caller, _ = line.accept()
        with caller:
            head, streams, _, _ = socket.recv_fds(caller, 4, len(STREAMS))
            if head and os.fork() == 0:
                line.close()
                _attend(caller, int.from_bytes(head, "big"), streams)
            for stream in streams:
                os.close(stream)
        # Those that are over.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _attend(caller: socket.socket, size: int, streams: list[int]) -> None:
    """Run what is asked for in a process of its own, and tell its exit code."""
    code = 70
    with contextlib.suppress(OSError):
        asked = b""
        while len(asked) < size:
            asked += caller.recv(size - len(asked))
        program = os.fork()
        if program == 0:
            caller.close()
            _run(*json.loads(asked), streams)
        for stream in streams:
            os.close(stream)
        code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) & 0xFF
        caller.sendall(bytes([code]))
    os._exit(0)


def _run(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """Be the program; never returns."""
    os.setsid()
    for ours, theirs in zip(STREAMS, streams, strict=True):
        os.dup2(theirs, ours)
        os.close(theirs)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    code: Any = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(words)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # What the engine makes before its forks predict.
    importlib.import_module("memwb.engine.trainer.warm").warm()
    gc.collect()
    gc.freeze()
    listen(socket.socket(fileno=int(sys.argv[1])))
