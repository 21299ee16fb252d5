"""Predictions on the engine's wire: their order, their deaths, their neighbours, their end.

What is predicted does not matter here: a stand-in answers at once, or misbehaves as the plan's
batch size says.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from memwb.engine.protocol import (
    AllPredicted,
    Event,
    Hello,
    Predict,
    Predicted,
    Problem,
    Ready,
    Stop,
    Toggled,
    Unpredicted,
    decode_event,
    encode,
)
from memwb.engine.technique import techniques

KILLED, HANGS, REFUSED, BROKEN, STARVED, SLOW, CUT_OFF = range(101, 108)

STAND_IN = """
import os, signal, time
import memwb.engine.predict.predictor as package
from memwb.engine.errors import CannotPredict
from memwb.engine.memory import Categories, Peak
from memwb.engine.plan import active
from memwb.engine.prediction import Parameters, Prediction
from memwb.engine.trainer import server, worker

def predict(plan, target, *, trust_remote_code=False, at_once=False):
    what = plan.workload.batch_size
    if what == 101: os.kill(os.getpid(), signal.SIGKILL)
    if what == 102 or "galore" in plan.techniques and what == 3: time.sleep(60)
    if what == 103: raise CannotPredict("No", "it reads data", "Turn it off.", "lora")
    if what == 104: raise LookupError("a slip")
    if what == 105: raise MemoryError
    if what == 106: time.sleep(0.1)
    if what == 107: raise OSError("no way to the hub")
    if "ia3" in plan.techniques: raise CannotPredict("No", "ia3 is odd", "Turn it off.", "ia3")
    if "sgd" in plan.techniques: os.kill(os.getpid(), signal.SIGKILL)
    size = 1000 * what + len(plan.techniques)
    peak = Peak(size, size, os.nice(0), "backward", Categories(size, 0, 0, 0, 0))
    where = (os.environ["CUDA_VISIBLE_DEVICES"], str(os.getpid()), os.getcwd())
    return Prediction(target=target, peak=peak, step=2, timeline=(), largest=(), fits=(),
                      parameters=Parameters(1, 1), words=where)

package.predict = predict
worker.LONGEST = 1.5
server.PRELOADED = ()
from memwb.engine.__main__ import main
main()
"""
COMMAND = [sys.executable, "-P", "-c", STAND_IN]


def ask(name: str, changes: bool = False, batch: int = 1, **more: Any) -> Predict:
    plan = {"model": "tiny", "workload": {"batch_size": batch}, **more}
    return Predict(plan, target="cpu", prediction=name, changes=changes)


class Wire:
    """An engine with the stand-in; its events are read with a time limit."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        environment = os.environ | {"TMPDIR": str(self.temporary), "MEMWB_HOME": str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._rest = b""

    def send(self, *commands: Predict | Stop) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(map(encode, commands)))
        self.process.stdin.flush()

    def event(self, within: float = 30.0) -> Event:
        assert self.process.stdout is not None
        until = time.monotonic() + within
        while b"\n" not in self._rest:
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self.process.stdout], [], [], left)
            assert ready, f"silence for {within} s; the log: {self.log.read_text()[-3000:]}"
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            assert chunk, f"the engine is gone; the log: {self.log.read_text()[-3000:]}"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return decode_event(line)

    def until(self, kind: type[Event]) -> list[Event]:
        events = [self.event()]
        while not isinstance(events[-1], kind):
            events.append(self.event())
        return events

    def asked(self, command: Predict) -> list[Event]:
        self.send(command)
        return self.until(AllPredicted)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def tidy(self) -> bool:
        return not self.children() and not list(self.temporary.iterdir())


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    made = Wire(tmp_path_factory.mktemp("engine"))
    assert isinstance(made.event(), Hello) and isinstance(made.event(), Ready)
    yield made
    assert made.process.stdin is not None and made.process.stdout is not None
    made.process.stdin.close()
    try:
        # Some of what was asked for could not be predicted.
        assert made.process.wait(5.0) == 2
    finally:
        made.process.kill()
        made.process.wait()
        made.process.stdout.close()


def refusal(events: list[Event]) -> Unpredicted:
    first = events[0]
    assert isinstance(first, Unpredicted)
    return first


def test_a_plan_is_predicted_in_a_process_without_a_gpu(wire: Wire) -> None:
    first, last = wire.asked(ask("one"))
    assert isinstance(first, Predicted) and isinstance(last, AllPredicted)
    assert (first.prediction, first.result.peak.allocated) == ("one", 1000)
    assert (first.result.target, first.result.words[0]) == ("cpu", "")
    assert first.result.words[1] != str(wire.process.pid)
    assert last.prediction == "one" and 0 < last.seconds < 10
    assert wire.tidy()


def test_a_model_that_cannot_be_fetched_is_told_as_one(wire: Wire) -> None:
    told = refusal(wire.asked(ask("far", batch=CUT_OFF, model="nobody/nothing")))
    assert told.title == "The config of nobody/nothing is not here and could not be fetched"
    assert told.what == "no way to the hub" and "config.json" in told.fix
    assert "OSError" in refusal(wire.asked(ask("near", batch=CUT_OFF))).title


def test_a_wrong_question_is_referred_to_how_one_looks(wire: Wire) -> None:
    assert wire.process.stdin is not None
    for kind in ("Predict", "Start"):
        wire.process.stdin.write(b'{"type": "%s", "odd": 1}\n' % kind.lower().encode())
        wire.process.stdin.flush()
        told = wire.event()
        assert isinstance(told, Problem) and told.fix.endswith(f"see {kind}.")


def test_the_second_time_it_is_remembered(wire: Wire) -> None:
    wire.asked(ask("first", batch=7))
    forks = psutil.Process(wire.process.pid).cpu_times().children_user
    first, last = wire.asked(ask("again", batch=7))
    assert isinstance(first, Predicted) and isinstance(last, AllPredicted)
    assert first.prediction == "again" and last.seconds < 0.5
    assert psutil.Process(wire.process.pid).cpu_times().children_user == forks


def test_the_empty_target_is_this_machine(wire: Wire) -> None:
    here = Predict({"model": "tiny"}, prediction="here")
    first = wire.asked(here)[0]
    assert isinstance(first, Predicted) and first.result.target


def test_each_toggle_is_told_after_the_plan_itself(wire: Wire) -> None:
    first, *rest, last = wire.asked(ask("all", True, 2, techniques={"lora": {}}))
    assert isinstance(first, Predicted) and isinstance(last, AllPredicted)
    found = {each.change.technique: each.change for each in rest if isinstance(each, Toggled)}
    assert len(found) == len(rest) == len(techniques()) and set(found) == set(techniques())
    assert {each.prediction for each in rest if isinstance(each, Toggled)} == {"all"}
    off, on, same = found["lora"], found["quantize_4bit"], found["adamw"]
    assert off.peak is not None and on.peak is not None and same.peak is not None
    assert (off.on, off.overrides, off.peak.allocated) == (False, ("lora=off",), 2000)
    assert (on.on, on.peak.allocated) == (True, 2002)
    # What is the plan itself is not predicted twice; toggles stand further back.
    assert same.peak == first.result.peak
    assert first.result.peak.device < off.peak.device
    assert wire.tidy()
    # One that cannot be predicted, one that dies, one that cannot be: each has its reason.
    assert found["ia3"].peak is None and found["ia3"].reason == "ia3 is odd"
    assert found["sgd"].peak is None and "killed" in found["sgd"].reason
    assert found["tf32"].peak is None and "CUDA" in found["tf32"].reason
    # All but the one that died are remembered, and the toggle's plan is the toggled plan's.
    again = wire.asked(ask("again", True, 2, techniques={"lora": {}}))
    told = {each.change.technique: each.change for each in again if isinstance(each, Toggled)}
    assert told == found and isinstance(again[-1], AllPredicted)
    bare = wire.asked(ask("bare", batch=2))[0]
    assert isinstance(bare, Predicted) and bare.result.peak == off.peak


def test_a_new_one_ends_the_one_before(wire: Wire) -> None:
    wire.send(ask("old", True, HANGS))
    until = time.monotonic() + 5
    while not wire.children():
        assert time.monotonic() < until
    old = {child.pid for child in wire.children()}
    began = time.monotonic()
    events = wire.asked(ask("new", batch=4))
    assert time.monotonic() - began < 1.4
    assert isinstance(events[0], Predicted) and events[0].prediction == "new"
    assert len(events) == 2
    assert not old & {child.pid for child in psutil.process_iter()} and wire.tidy()


def test_of_many_at_once_the_last_is_told_whole(wire: Wire) -> None:
    wire.send(*(ask(str(number), True, SLOW) for number in range(5)))
    events = wire.until(AllPredicted)
    # Those before may have told something, but not all.
    assert getattr(events[-1], "prediction", "") == "4"
    told = [each for each in events if getattr(each, "prediction", "") == "4"]
    assert isinstance(told[0], Predicted) and len(told) == len(techniques()) + 2
    assert wire.tidy()


def test_one_that_dies_is_said_to_have_died(wire: Wire) -> None:
    events = wire.asked(ask("dead", True, KILLED))
    told = refusal(events)
    assert (told.prediction, told.title) == ("dead", "The prediction was killed (signal 9)")
    assert "out-of-memory" in told.fix
    assert len(events) == 2 and wire.tidy()


def test_one_that_hangs_is_ended_and_said_so(wire: Wire) -> None:
    told = refusal(wire.asked(ask("deaf", batch=HANGS)))
    assert told.title == "The prediction took too long" and "1.5 s" in told.what
    assert wire.tidy()


def test_a_toggle_that_hangs_keeps_nobody_else(wire: Wire) -> None:
    events = wire.asked(ask("one deaf", True, 3))
    assert len(events) == len(techniques()) + 2
    (deaf,) = [
        each.change
        for each in events
        if isinstance(each, Toggled) and each.change.technique == "galore"
    ]
    assert deaf.peak is None and "too long" in deaf.reason


def test_a_technique_that_cannot_be_predicted_is_named_and_toggles_are_told(wire: Wire) -> None:
    events = wire.asked(ask("no", True, REFUSED))
    told = refusal(events)
    assert (told.title, told.what, told.technique) == ("No", "it reads data", "lora")
    assert len(events) == len(techniques()) + 2
    # That too is remembered.
    again = wire.asked(ask("again", batch=REFUSED))
    assert refusal(again).what == told.what
    assert isinstance(again[-1], AllPredicted) and again[-1].seconds < 0.5


@pytest.mark.parametrize(
    ("batch", "title"),
    [(BROKEN, "The prediction failed: LookupError: a slip"), (STARVED, "too little memory")],
)
def test_a_slip_is_a_sentence_and_the_log_has_it(wire: Wire, batch: int, title: str) -> None:
    events = wire.asked(ask("slip", True, batch))
    assert title in refusal(events).title and len(events) == 2
    assert "Traceback" in wire.log.read_text()


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "tiny", "techniques": {"quantize_4bit": {}}}, "needs LoRA or IA3"),
        ({"model": "tiny", "workload": {"steps": "many"}}, "$.workload.steps"),
        ({"model": "tiny", "techniques": {"tf32": {}}}, "CUDA"),
    ],
)
def test_a_wrong_plan_needs_no_process(wire: Wire, plan: dict[str, Any], what: str) -> None:
    told = refusal(wire.asked(Predict(plan, target="cpu", changes=True)))
    assert what in f"{told.title} {told.what}"


def test_a_target_that_is_none_has_the_nearest_beside_it(wire: Wire) -> None:
    told = refusal(wire.asked(Predict({"model": "tiny"}, target="h2000", changes=True)))
    assert "h200" in told.what


def test_stop_is_for_bursts(wire: Wire) -> None:
    wire.send(ask("on", batch=SLOW, techniques={"lora": {"rank": 3}}), Stop())
    problem, first, last = wire.until(AllPredicted)
    assert isinstance(problem, Problem) and "no burst" in problem.what
    assert isinstance(first, Predicted) and isinstance(last, AllPredicted)


def piped(tmp_path: Path, *commands: Predict | bytes) -> tuple[int, list[Event]]:
    """The documented pipe: commands in, events out, the exit code."""
    done = subprocess.run(
        COMMAND,
        input=b"".join(each if isinstance(each, bytes) else encode(each) for each in commands),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, [decode_event(line) for line in done.stdout.splitlines()]


def test_a_pipe_is_answered_to_the_end(tmp_path: Path) -> None:
    code, events = piped(tmp_path, ask("piped", True))
    assert code == 0 and isinstance(events[-1], AllPredicted)
    assert sum(isinstance(each, Toggled) for each in events) == len(techniques())


def test_quit_does_not_wait(tmp_path: Path) -> None:
    began = time.monotonic()
    code, events = piped(tmp_path, ask("long", batch=HANGS), b'{"type":"quit"}\n')
    assert code == 0 and time.monotonic() - began < 20
    assert not any(isinstance(each, Predicted | Unpredicted) for each in events)
