"""The engine's process on its own wire: bursts, their deaths, nonsense, and its own end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from memwb.engine.protocol import (
    AllPredicted,
    Beat,
    Ended,
    Event,
    Hello,
    Predict,
    Predicted,
    Problem,
    Ready,
    Samples,
    Start,
    Started,
    Step,
    Stop,
    Timeline,
    decode_event,
    encode,
)
from memwb.engine.trainer.child import Child

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-P", "-m", "memwb.engine"]
LONG = 100_000


def start(burst: str, steps: int = 2, **plan: object) -> Start:
    work = {"steps": steps, "sequence_length": 16}
    return Start({"model": "tiny", "workload": work, **plan}, device="cpu", burst=burst)


class Wire:
    """A running engine and its two pipes, read with a time limit."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "engine.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        self._rest = b""

    def send(self, command: Start | Stop | Predict | bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command if isinstance(command, bytes) else encode(command))

    def event(self, within: float = 60.0) -> Event:
        assert self.process.stdout is not None
        until = time.monotonic() + within
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, left))
            assert ready, f"silence for {within} s; the log: {self.log.read_text()[-3000:]}"
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            assert chunk, f"the engine is gone; the log: {self.log.read_text()[-3000:]}"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return decode_event(line)

    def until(self, kind: type[Event], within: float = 60.0) -> list[Event]:
        events = [self.event(within)]
        while not isinstance(events[-1], kind):
            events.append(self.event(within))
        return events

    def ended(self) -> Ended:
        last = self.until(Ended)[-1]
        assert isinstance(last, Ended)
        return last

    def child(self) -> psutil.Process:
        (found,) = psutil.Process(self.process.pid).children()
        return found


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One warm engine for all tests of this file: importing torch takes seconds."""
    made = Wire(tmp_path_factory.mktemp("engine"))
    hello = made.event(5.0)
    assert isinstance(hello, Hello) and hello.pid == made.process.pid
    ready = made.event(120.0)
    assert isinstance(ready, Ready)
    assert ready.device.capacity > 0 and "torch" in ready.versions
    yield made
    assert made.process.stdin is not None and made.process.stdout is not None
    made.process.stdin.close()
    try:
        # With nothing running, the end of its input is the engine's end.
        made.process.wait(5.0)
    finally:
        made.process.kill()
        made.process.wait()
        made.process.stdout.close()


def gone(pid: int, within: float) -> bool:
    return eventually(lambda: not alive(pid), within)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(check: Callable[[], bool], within: float) -> bool:
    until = time.monotonic() + within
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_the_parent_is_fit_to_fork(wire: Wire) -> None:
    """One thread, no open GPU, and the protocol to itself."""
    parent = psutil.Process(wire.process.pid)
    assert parent.num_threads() == 1
    if sys.platform == "linux":
        opened = [os.readlink(path) for path in Path(f"/proc/{parent.pid}/fd").iterdir()]
        assert not [path for path in opened if path.startswith("/dev/nvidia")]


def test_the_preloading_starts_no_cuda() -> None:
    program = (
        "from memwb.engine.trainer.server import _preload; names = list(_preload());"
        "import torch, sys; assert 'transformers' in sys.modules and 'peft' in sys.modules;"
        "assert not torch.cuda.is_initialized(); assert not torch.cuda._initialized;"
        "import os; assert os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] == '1'"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=120)


def test_bursts_follow_one_another_in_fresh_processes(wire: Wire) -> None:
    seen = []
    for burst in ("first", "second"):
        wire.send(start(burst))
        events = wire.until(Started)
        seen.append(wire.child().pid)
        events += wire.until(Ended)
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert (ended.burst, ended.outcome, len(ended.losses)) == (burst, "done", 2)
        assert {Started, Samples, Timeline, Step} <= {type(event) for event in events}
        assert not psutil.Process(wire.process.pid).children()
    assert seen[0] != seen[1]


def test_nonsense_is_a_problem_and_nothing_is_lost(wire: Wire) -> None:
    for line in (b"nonsense\n", b'{"type":"start"}\n', b'{"type":"fly"}\n', b"\xff\xfe\n", b"[]\n"):
        wire.send(line)
        assert isinstance(wire.event(), Problem)
    wire.send(b"\n  \n")
    whole = encode(start("after"))
    wire.send(whole[:20])
    time.sleep(0.2)
    wire.send(whole[20:])
    assert wire.ended().outcome == "done"


def test_a_wrong_plan_is_refused(wire: Wire) -> None:
    wire.send(start("wrong", model="no-such-model"))
    ended = wire.ended()
    assert (ended.outcome, ended.burst) == ("refused", "wrong")
    assert "no-such-model" in f"{ended.title}{ended.what}"


def test_a_second_burst_has_to_wait_and_stop_stops_the_first(wire: Wire) -> None:
    wire.send(start("long", LONG))
    wire.until(Step)
    wire.send(start("other"))
    problem = wire.until(Problem)[-1]
    assert isinstance(problem, Problem) and "long" in problem.what
    began = time.monotonic()
    wire.send(Stop())
    ended = wire.ended()
    assert (ended.burst, ended.outcome) == ("long", "stopped")
    assert ended.losses and ended.peak is not None
    assert time.monotonic() - began < 8
    wire.send(Stop())
    assert isinstance(wire.event(), Problem)


def test_a_stop_right_after_the_start_is_heard(wire: Wire) -> None:
    began = time.monotonic()
    wire.send(encode(start("short", LONG)) + encode(Stop()))
    ended = wire.ended()
    assert (ended.burst, ended.outcome, ended.losses) == ("short", "stopped", [])
    # It was asked, not terminated, which takes three seconds.
    assert time.monotonic() - began < 2.9


def test_something_is_heard_every_second(wire: Wire) -> None:
    wire.send(start("slow", 1, workload={"steps": 100_000, "sequence_length": 16}))
    wire.until(Started)
    pid = wire.child().pid
    os.kill(pid, signal.SIGSTOP)
    began, beats = time.monotonic(), 0
    while beats < 2:
        beats += isinstance(wire.event(2.0), Beat)
    assert time.monotonic() - began < 6
    os.kill(pid, signal.SIGCONT)
    wire.send(Stop())
    assert wire.ended().outcome == "stopped"


def test_a_plan_is_predicted_beside_a_burst_of_it(wire: Wire) -> None:
    """By the real predictor, in the warm engine: neither disturbs the other's figures."""
    command = start("beside", 3)
    wire.send(encode(command) + encode(Predict(command.plan, target="cpu", prediction="beside")))
    seen = []
    while not {Ended, AllPredicted} <= {type(event) for event in seen}:
        seen.append(wire.event())
    (ended,) = [event for event in seen if isinstance(event, Ended)]
    (predicted,) = [event for event in seen if isinstance(event, Predicted)]
    assert ended.outcome == "done" and ended.peak is not None
    assert predicted.prediction == "beside" and predicted.result.target == "cpu"
    assert predicted.result.peak.allocated == pytest.approx(ended.peak.allocated, rel=0.005)
    assert not psutil.Process(wire.process.pid).children()


def test_a_killed_burst_harms_nobody(wire: Wire) -> None:
    wire.send(start("victim", LONG))
    events = wire.until(Started)
    while sum(isinstance(event, Step) for event in events) < 3:
        events.append(wire.event())
    os.kill(wire.child().pid, signal.SIGKILL)
    ended = wire.ended()
    assert (ended.burst, ended.outcome) == ("victim", "failed")
    assert ended.title == "The burst was killed (signal 9)"
    assert "out-of-memory" in ended.fix
    assert len(ended.losses) >= 3
    assert ended.peak is not None and ended.peak.categories.total == ended.peak.allocated
    wire.send(start("next"))
    assert wire.ended().outcome == "done"


def test_only_events_are_on_standard_output_and_it_ends_with_the_burst(tmp_path: Path) -> None:
    """The documented pipe: one command in, events out, the burst's exit code."""
    done = subprocess.run(
        COMMAND, input=encode(start("piped")), capture_output=True, timeout=120, check=False
    )
    events = [decode_event(line) for line in done.stdout.splitlines()]
    assert isinstance(events[0], Hello) and isinstance(events[-1], Ended)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"step 1  loss" in done.stderr


def test_a_refusal_is_exit_code_2_and_files_work_as_input(warm: Any, tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    path.write_bytes(encode(start("wrong", model="no-such-model")))
    with path.open("rb") as commands:
        done = subprocess.run(
            warm.python("-m", "memwb.engine"),
            stdin=commands,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["outcome"] == "refused"


CLIENT = """
import subprocess, sys, time
engine = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
engine.stdin.write(sys.argv[1].encode() + b"\\n")
engine.stdin.flush()
for line in engine.stdout:
    print(engine.pid, line[:40], flush=True)
"""


def test_when_the_client_dies_engine_and_burst_go_too(tmp_path: Path) -> None:
    command = encode(start("orphan", LONG)).decode().strip()
    with (tmp_path / "log").open("wb") as log:
        client = subprocess.Popen(
            [sys.executable, "-P", "-c", CLIENT, command, *COMMAND],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert client.stdout is not None
    line = b""
    while b'"step"' not in line:
        line = client.stdout.readline()
        assert line, (tmp_path / "log").read_text()[-2000:]
    engine = int(line.split()[0])
    (burst,) = psutil.Process(engine).children()
    client.kill()
    client.wait()
    client.stdout.close()
    assert gone(engine, 4.0)
    assert gone(burst.pid, 1.0)


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def test_a_deaf_burst_is_killed_in_the_end_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline()
    reading, writing = os.pipe()
    os.close(writing)
    folder = tmp_path / "its own"
    folder.mkdir()
    child = Child(process.pid, reading, "deaf", str(folder))
    child.stop(0.3)

    def over() -> bool:
        child.press()
        return child.is_over()

    began = time.monotonic()
    assert eventually(over, 5.0)
    assert time.monotonic() - began >= 0.6
    assert child.finish().outcome == "stopped" and not folder.exists()
    process.returncode = -9
    process.stdout.close()
