"""One burst: a train.py is loaded from its file and run, with meters attached from outside.

Nothing in the script knows of it. Its functions are module globals that ``main`` looks up, so
wrapping the globals is enough to know when the data is read, when the model stands, and when a
step is over.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from memwb.engine.advice import Setting
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.memory import Alive
from memwb.engine.plan import check, plan_from
from memwb.engine.protocol import (
    Device,
    Ended,
    Event,
    Loaded,
    Sample,
    Samples,
    Start,
    Started,
    Step,
    Timeline,
)
from memwb.engine.trainer import hub, inventory
from memwb.engine.trainer.causes import Model, told
from memwb.engine.trainer.labels import Labels
from memwb.engine.trainer.meter import Meter, meter_for
from memwb.engine.trainer.outcome import done, ended_by, is_oom, refused
from memwb.engine.trainer.phases import Phases
from memwb.engine.trainer.trace import GRADIENTS, OPTIMIZER, WEIGHTS

TRACED = 2
"""How many steps are traced: the first makes the optimizer's state, the second uses it."""

Emit = Callable[[Event], None]
Instead = Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]]
_NOTHING_ELSE: Instead = types.MappingProxyType({})


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a burst before its script runs."""

    burst: str = "1"
    device: Device
    model: str = ""
    weights: str = ""
    parameters: int = 0
    steps: int = 0
    setting: Setting | None = None
    """None of a script whose plan is not known."""


def run_plan(start: Start, emit: Emit, within: str | None = None) -> Ended:
    """Write the plan's script to a temporary folder and run it. Emits every event of the burst.

    ``within`` is where that folder is made; the system's place for such without.

    Nothing is raised: whatever goes wrong is in the Ended that is emitted last and returned.
    """
    from memwb.engine import catalog, script

    try:
        device = device_for(start.device)
        plan = check(plan_from(start.plan), device=device)
        allowed = {
            "allow_pickle": start.allow_pickle,
            "trust_remote_code": start.trust_remote_code,
        }
        model = catalog.resolve(plan.model, plan.weights, **allowed)
        if catalog.to_be_fetched(model):
            hub.reach(model.name)
        text = script.script(plan, model)
    except MemwbError as error:
        ended = refused(start.burst, error)
        emit(ended)
        return ended
    about = About(
        burst=start.burst,
        device=device,
        model=model.name,
        weights=model.weights,
        parameters=model.parameters or 0,
        steps=plan.workload.steps,
        setting=Setting(plan, model.config, device),
    )
    argv = ["--device", device.kind]
    argv += [f"--{name.replace('_', '-')}" for name, value in allowed.items() if value]
    with tempfile.TemporaryDirectory(prefix="memwb-", dir=within) as folder:
        path = Path(folder) / "train.py"
        path.write_text(text, encoding="utf-8")
        return run_file(path, argv, emit, about)


def run_file(path: Path, argv: Sequence[str], emit: Emit, about: About | None = None) -> Ended:
    """Run any train.py that memwb wrote, measured. Emits every event of the burst.

    Without ``about`` the device is the script's own choice and the rest of Started is empty.
    """
    about = about or About(device=_device_of(argv))
    run = Watched(path, emit, about)
    started = time.perf_counter()
    try:
        ended = run.run(argv)
        alive = run.alive(failed=False)
    except BaseException as error:
        # The log has the traceback; the user gets a sentence.
        traceback.print_exc(file=sys.stderr)
        run.abandon()
        alive = run.alive(is_oom(error))
        peak = run.meter.peak()
        ended = ended_by(about.burst, error, run.started, peak, about.setting, alive)
    finally:
        run.meter.close()
        gc.enable()
    seconds = round(time.perf_counter() - started, 3)
    ended = msgspec.structs.replace(ended, losses=run.losses, seconds=seconds, alive=alive)
    emit(ended)
    return ended


class Watched:
    """The state of one burst, or of one prediction, and the wrappers around its script's functions.

    ``meter`` takes the place of the one for the device.
    """

    def __init__(
        self, path: Path, emit: Emit, about: About, meter: Callable[[], Meter] | None = None
    ) -> None:
        self.started = False
        self.losses: list[float] = []
        self._path = path
        self._emit = emit
        self._about = about
        self._origin = time.perf_counter()
        self._over = False
        self._timed = 0.0
        self._timed_tokens = 0
        self._labels = Labels()
        self._model: torch.nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        kind = about.device.kind
        self.meter: Meter = meter() if meter else meter_for(kind, self._clock, self._live)
        self._phases = Phases(self.meter)

    def run(self, argv: Sequence[str], instead: Instead = _NOTHING_ELSE) -> Ended:
        """Load the file, run its main, and say how it went.

        ``instead`` makes other functions of some of the script's own, by name.
        """
        module = _load(self._path)
        for name, change in instead.items():
            setattr(module, name, change(getattr(module, name)))
        for name in ("batches", "build_optimizer", "loss", "train"):
            setattr(module, name, getattr(self, f"_{name}")(getattr(module, name)))
        # Garbage in cycles would be collected at moments that depend on the process's past:
        # it is collected at fixed ones instead, so that a burst measures the same anywhere.
        gc.collect()
        gc.disable()
        self.meter.start()
        module.main(list(argv))
        known = self._timed and self._timed_tokens
        speed = self._timed_tokens / self._timed if known else None
        ended = done(self._about.burst, self.losses, self.meter.peak())
        return msgspec.structs.replace(ended, tokens_per_second=speed, padding=self._labels.padding)

    def alive(self, failed: bool) -> Alive | None:
        """What was alive at the peak, or when an allocation ``failed``; None where nothing was."""
        snapshot = (self.meter.failure() if failed else None) or self.meter.snapshot()
        config: Any = getattr(self._model, "config", None)
        # A model of another kind has none, or several: its words then say less.
        with contextlib.suppress(Exception):
            config = config.get_text_config()
        vocabulary = getattr(config, "vocab_size", 0)
        layers = getattr(config, "num_hidden_layers", 0)
        model = Model(vocabulary, self._labels.length, layers)
        return told(snapshot, model) if snapshot is not None else None

    def abandon(self) -> None:
        """After an exception: what is known of the unfinished span still counts."""
        self._over = True
        self.detach()
        try:
            self._settle()
        except Exception:
            traceback.print_exc(file=sys.stderr)

    def _live(self, samples: list[Sample]) -> None:
        if not self._over:
            self._emit(Samples(self._about.burst, samples))

    def _clock(self) -> float:
        return time.perf_counter() - self._origin

    def _batches(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(*args: Any, **kwargs: Any) -> Any:
            stream = original(*args, **kwargs)
            self.started = True
            about = self._about
            steps = about.steps or TRACED
            self._emit(
                Started(
                    burst=about.burst,
                    device=about.device,
                    model=about.model,
                    weights=about.weights,
                    parameters=about.parameters,
                    steps=about.steps,
                    traced=tuple(range(1, min(steps, TRACED) + 1)),
                    script=self._path.read_text(encoding="utf-8"),
                )
            )
            return self._labels.watch(stream)

        return batches

    def _build_optimizer(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def build_optimizer(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._model = model
            weights = list(inventory.weights_of(model))
            self.meter.sight(WEIGHTS, weights)
            trainable = [p for p in model.parameters() if p.requires_grad]
            self._emit(
                Loaded(
                    self._about.burst,
                    parameters=inventory.count(model.parameters()),
                    trainable=inventory.count(trainable),
                    weights=inventory.size(weights),
                    seconds=round(self._clock(), 6),
                )
            )
            self._phases.attach(model)
            for parameter, name in self.meter.origins.meet(model):
                self.meter.title(parameter, name)
            self._optimizer = original(model, *args, **kwargs)
            return self._optimizer

        return build_optimizer

    def _loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            self._phases.enter("forward")
            return original(*args, **kwargs)

        return loss

    def _train(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train(*args: Any, **kwargs: Any) -> Iterator[tuple[int, float]]:
            steps = original(*args, **kwargs)
            self._settle()
            number = 1
            while True:
                traced = number <= TRACED
                begin = time.perf_counter()
                if traced:
                    self._phases.enter("forward", step=number)
                else:
                    self.meter.mark(number, "")
                try:
                    step, value = next(steps)
                except StopIteration:
                    break
                self.meter.finish_step()
                seconds = time.perf_counter() - begin
                self._step_done(step, value, seconds, traced)
                yield step, value
                number += 1
            self._end_tracing()

        return train

    def _step_done(self, step: int, value: float, seconds: float, traced: bool) -> None:
        self.losses.append(value)
        tokens = self._labels.taken()
        if traced:
            self._settle()
            if step == TRACED:
                self._end_tracing()
        else:
            self._timed += seconds
            self._timed_tokens += tokens
        self._emit(Step(self._about.burst, step, value, round(seconds, 6), tokens, traced))

    def _settle(self) -> None:
        """A span is over: say what its tensors turned out to be and send its timeline."""
        gc.collect()
        if self._model is not None:
            self.meter.sight(WEIGHTS, inventory.weights_of(self._model))
            self.meter.sight(GRADIENTS, inventory.gradients_of(self._model))
        if self._optimizer is not None:
            self.meter.sight(OPTIMIZER, inventory.state_of(self._optimizer))
            for tensor, name in self.meter.origins.states(self._optimizer):
                self.meter.title(tensor, name)
        samples = self.meter.settle()
        if samples:
            self._emit(Timeline(self._about.burst, self._phases.step, samples))

    def detach(self) -> None:
        """Take every hook off."""
        self._phases.detach()
        self.meter.origins.detach()

    def _end_tracing(self) -> None:
        self.detach()
        self.meter.stop()
        gc.enable()


def _load(path: Path) -> types.ModuleType:
    """The file as a module of its own."""
    spec = importlib.util.spec_from_file_location("memwb_train", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _device_of(argv: Sequence[str]) -> Device:
    words = [part for word in argv for part in word.split("=", 1)]
    wanted = words[words.index("--device") + 1] if "--device" in words[:-1] else "auto"
    return device_for(wanted.partition(":")[0])
