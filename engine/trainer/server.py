"""The fork server: heavy imports once, then a fresh process for each burst and each prediction.

The parent has one thread and never touches CUDA: a fork with either would be broken. It reads
commands from standard input, hands on to the protocol's output what the others say, and outlives
whatever happens to them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import os
import select
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from types import FrameType

import msgspec

from memwb.engine.errors import MemwbError
from memwb.engine.protocol import (
    Beat,
    Device,
    Event,
    Hello,
    Predict,
    Problem,
    Quit,
    Ready,
    Start,
    Stop,
    decode_command,
    encode,
)
from memwb.engine.technique import techniques
from memwb.engine.trainer.child import Child, fork
from memwb.engine.trainer.outcome import EXIT_CODES
from memwb.engine.trainer.predictions import Predictions
from memwb.engine.version import VERSION

PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch._subclasses.schema_check_mode",
    "torch.utils.checkpoint",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_utils",
    "transformers.optimization",
    "transformers.quantizers.auto",
    "transformers.integrations.bitsandbytes",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "peft",
    "peft.tuners.lora",
    "peft.tuners.lora.bnb",
    "platformdirs",
    "encodings.utf_8_sig",
    "peft.utils.transformers_weight_conversion",
    "bitsandbytes",
    "psutil",
    "tomlkit",
    "pydoc_data.topics",
    "memwb.engine.script",
    "memwb.engine.plan",
    "memwb.engine.catalog",
    "memwb.engine.recipe",
    "memwb.engine.trainer.burst",
    "memwb.engine.trainer.cpu",
    "memwb.engine.trainer.cuda",
    "memwb.engine.predict.predictor",
    "memwb.engine.predict.cpu",
    "memwb.engine.predict.cuda",
    "memwb.engine.question",
)
"""Imported by the parent; one that is missing is left out. Not pyarrow: it starts a thread."""

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
BEAT = 1.0
PATIENCE = 3.0
"""Seconds from asking a burst to stop to terminating it, and from that to killing it."""


def serve(protocol: int) -> int:
    """Speak the protocol on standard input and the descriptor ``protocol`` until the end.

    Returns the exit code: that of the last burst; 2 if it is done but another could not start, if
    there was none and a command was wrong, or if a plan could not be predicted.
    """
    return _Server(protocol).serve()


class _Gone(Exception):
    """Nobody reads the protocol any more."""


class _Server:
    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._selector = selectors.DefaultSelector()
        self._child: Child | None = None
        self._predictions = Predictions(self._send, self._selector, self._own)
        self._device: Device | None = None
        self._input = b""
        self._input_open = True
        self._ending = False
        self._code = 0
        self._refused = False
        self._last = 0.0
        self._signals, self._wake = os.pipe()

    def serve(self) -> int:
        try:
            self._send(Hello(version=VERSION, pid=os.getpid()))
            for _ in _preload():
                if _hung_up(self._protocol):
                    raise _Gone
            ready = _ready()
            self._device = ready.device
            self._send(ready)
            # What the parent holds now never changes: keep the collector from touching (and so
            # copying) its pages in every fork.
            gc.collect()
            gc.freeze()
            self._listen()
            while not self._over():
                self._turn()
        except _Gone:
            self._code = self._code or 1
        finally:
            self._predictions.cancel()
            if self._child is not None:
                self._child.kill()
        return self._code or 2 * (self._refused or self._predictions.failed)

    def _listen(self) -> None:
        for end in (self._signals, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _nothing)
        self._selector.register(self._signals, selectors.EVENT_READ, self._signalled)
        # select cannot watch a file (`memwb-engine < commands.jsonl`): it is always readable.
        try:
            self._selector.register(0, selectors.EVENT_READ, self._commands)
        except PermissionError:
            while self._input_open:
                self._commands()

    def _over(self) -> bool:
        idle = self._child is None and not self._predictions.busy
        return idle and (self._ending or not self._input_open)

    def _turn(self) -> None:
        now = time.monotonic()
        beat = BEAT - (now - self._last) if self._child is not None else None
        waits = [wait for wait in (beat, self._predictions.patience()) if wait is not None]
        for key, _ in self._selector.select(max(0.0, min(waits)) if waits else None):
            key.data()
        self._predictions.turn()
        child = self._child
        if child is not None:
            child.press()
            if child.is_over():
                self._finish(child)
            elif time.monotonic() - self._last >= BEAT:
                self._send(Beat(child.burst))

    def _commands(self) -> None:
        chunk = os.read(0, 1 << 16)
        if not chunk:
            self._input_open = False
            with contextlib.suppress(KeyError):
                self._selector.unregister(0)
            lines, self._input = [self._input], b""
        else:
            *lines, self._input = (self._input + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            command = decode_command(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._code = self._code or 2
            title = "A line that is no command"
            shown = line[:200].decode("utf-8", "replace")
            kind = "Predict" if b'"predict"' in line else "Start"
            self._send(Problem(title, f"{error}: {shown}", f"One JSON object a line; see {kind}."))
            return
        if isinstance(command, Start):
            self._start(command)
        elif isinstance(command, Stop):
            if self._child is None:
                self._send(Problem("Nothing runs", "there is no burst to stop"))
            else:
                self._child.stop(PATIENCE)
        elif isinstance(command, Predict):
            self._predict(command)
        elif isinstance(command, Quit):
            self._quit()

    def _start(self, command: Start) -> None:
        if self._ending:
            self._send(Problem("The engine is ending", "no burst can start any more"))
            return
        if self._child is not None:
            self._refused = True
            what = f"burst {self._child.burst} runs, and there is one burst at a time"
            self._send(Problem("The engine is busy", what, "Wait for it, or stop it first."))
            return
        self._child = fork(command, close=self._own())
        self._selector.register(self._child.pipe, selectors.EVENT_READ, self._child_wrote)

    def _predict(self, command: Predict) -> None:
        if self._ending:
            self._send(Problem("The engine is ending", "nothing can be predicted any more"))
            return
        assert self._device is not None
        self._predictions.begin(command, self._device)

    def _own(self) -> list[int]:
        """What no forked process may hold on to."""
        pipes = [self._child.pipe] if self._child is not None and not self._child.closed else []
        pipes += self._predictions.pipes
        return [self._protocol, self._signals, self._wake, self._selector.fileno(), *pipes]

    def _quit(self) -> None:
        self._ending = True
        self._predictions.cancel()
        if self._child is not None:
            self._child.stop(1.0)

    def _child_wrote(self) -> None:
        child = self._child
        if child is None:
            return
        for line in child.read():
            self._write(line)
        if child.closed:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.pipe)

    def _finish(self, child: Child) -> None:
        # What it wrote before it ended is still in the pipe.
        while not child.closed and child.pending():
            self._child_wrote()
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.pipe)
        ended = child.finish()
        self._child = None
        self._send(ended)
        self._code = EXIT_CODES.get(ended.outcome, 1)

    def _signalled(self) -> None:
        for number in os.read(self._signals, 64):
            if number == signal.SIGTERM:
                self._predictions.cancel()
                if self._child is not None:
                    self._child.kill()
                    self._child = None
                self._code, self._ending = 143, True
            elif number == signal.SIGINT:
                self._code = 130
                self._quit()

    def _send(self, event: Event) -> None:
        self._write(encode(event))

    def _write(self, line: bytes) -> None:
        self._last = time.monotonic()
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._protocol, rest) :]
            except BrokenPipeError:
                raise _Gone from None


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler has to be there for the wake-up descriptor to hear of the signal."""


def _preload() -> Iterator[str]:
    """Import the heavy libraries one after another."""
    # Some libraries ask whether CUDA is there when they are imported; NVML can answer without
    # starting it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    _import_numpy_without_threads()
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception:
            # The burst that needs it says so in its own words.
            print(f"memwb-engine: {name} could not be imported", file=sys.stderr)
            traceback.print_exc(file=sys.stderr)
        yield name
    _warm()


def _warm() -> None:
    """Write one script, so that what this reads and parses is at hand in every fork.

    With it what predictions ask of the machine and of what is installed.
    """
    from memwb.engine import catalog, script
    from memwb.engine.gpus import local_gpus
    from memwb.engine.plan import plan_from
    from memwb.engine.prediction_cache import fingerprint

    techniques()
    fingerprint()
    local_gpus()
    with contextlib.suppress(MemwbError):
        script.script(plan_from({"model": "tiny"}), catalog.resolve("tiny"))


def _import_numpy_without_threads() -> None:
    """numpy's OpenBLAS starts its threads when it is loaded, and a fork must not have any.

    The setting is put back before torch is loaded, which may bring an OpenBLAS of its own.
    """
    name = "OPENBLAS_NUM_THREADS"
    kept = os.environ.get(name)
    os.environ[name] = "1"
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy")
    if kept is None:
        del os.environ[name]
    else:
        os.environ[name] = kept


def _ready() -> Ready:
    from memwb.engine.devices import device_for

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return Ready(device=device_for("auto"), versions=versions)


def _hung_up(descriptor: int) -> bool:
    """Whether the other end of a pipe is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
