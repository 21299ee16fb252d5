"""The client against engines that behave, misbehave and die. Most are a few lines of Python."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from memwb.engine.client import Engine
from memwb.engine.errors import MemwbError
from memwb.engine.protocol import Beat, Ended, Event, Hello, Problem, Start, Started, Step, Stop

PREAMBLE = """
import json, sys, time, os, signal
def say(**event): print(json.dumps(event), flush=True)
def started(burst="1"):
    device = {"kind": "cpu", "name": "x", "capacity": 1}
    say(type="started", burst=burst, device=device, model="m", weights="random", parameters=1,
        steps=2, traced=[1], script="")
def step(n, loss):
    say(type="step", burst="1", step=n, loss=loss, seconds=0.1, tokens=1, traced=False)
say(type="hello", version="0", pid=os.getpid())
"""


def fake(body: str, log: Path | None = None) -> Engine:
    program = PREAMBLE + textwrap.dedent(body)
    return Engine([sys.executable, "-P", "-c", program], log=log)


async def everything(engine: Engine, within: float = 20.0) -> list[Event]:
    async with asyncio.timeout(within):
        return [event async for event in engine.events()]


async def first(events: AsyncIterator[Event], kind: type[Event]) -> Event:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


def left_over(pid: int | None) -> bool:
    """Whether the process is still there, be it as a zombie."""
    assert pid is not None
    return psutil.pid_exists(pid)


async def test_commands_go_and_events_come() -> None:
    engine = fake("say(type='beat', burst=json.loads(input())['burst'])")
    assert not engine.alive
    await engine.start()
    assert engine.alive
    engine.send(Start({}, burst="seven"))
    events = await everything(engine)
    assert isinstance(events[0], Hello)
    assert events[1] == Beat("seven")
    assert not engine.alive
    await engine.close()
    assert not left_over(engine.pid)


async def test_a_death_in_mid_burst_is_told_with_the_losses() -> None:
    engine = fake("started(); step(1, 2.5); step(2, 1.5); os.kill(os.getpid(), signal.SIGKILL)")
    await engine.start()
    ended = (await everything(engine))[-1]
    assert isinstance(ended, Ended)
    assert (ended.burst, ended.outcome, ended.losses) == ("1", "failed", [2.5, 1.5])
    assert "SIGKILL" in ended.what and ended.fix


async def test_a_death_before_the_burst_started_is_told_too() -> None:
    engine = fake("input(); sys.exit(3)")
    await engine.start()
    engine.send(Start({}, burst="early"))
    ended = (await everything(engine))[-1]
    assert isinstance(ended, Ended) and ended.burst == "early"
    assert "exit code 3" in ended.what


async def test_no_burst_no_made_up_end() -> None:
    engine = fake("started(); say(type='ended', burst='1', outcome='done')")
    await engine.start()
    events = await everything(engine)
    assert sum(isinstance(event, Ended) for event in events) == 1
    quiet = fake("")
    await quiet.start()
    assert [type(event) for event in await everything(quiet)] == [Hello]


async def test_garbage_is_a_problem_and_the_stream_goes_on() -> None:
    engine = fake(
        """
        print("not json")
        print('{"type": "unheard of"}')
        sys.stdout.buffer.write(b"\\xff\\xfe\\n\\n")
        sys.stdout.flush()
        say(type="beat")
        """
    )
    await engine.start()
    events = await everything(engine)
    assert [type(event) for event in events] == [Hello, Problem, Problem, Problem, Beat]
    assert isinstance(events[1], Problem) and "not json" in events[1].what


async def test_lines_of_many_megabytes_come_whole() -> None:
    size = 20_000_000
    engine = fake(f"say(type='problem', title='x' * {size})")
    await engine.start()
    problem = (await everything(engine))[-1]
    assert isinstance(problem, Problem) and len(problem.title) == size


async def test_a_line_beyond_all_bounds_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memwb.engine.client.LONGEST_LINE", 100_000)
    engine = fake("print('x' * 1_000_000); say(type='beat')")
    await engine.start()
    events = await everything(engine)
    assert any(isinstance(event, Problem) and "too long" in event.title for event in events)
    assert events[-1] == Beat()


async def test_close_ends_a_deaf_engine_in_time() -> None:
    engine = fake(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        started()
        while True: time.sleep(1)
        """
    )
    await engine.start()
    stream = engine.events()
    await first(stream, Started)
    began = time.monotonic()
    await engine.close()
    assert time.monotonic() - began < 8
    assert not left_over(engine.pid)
    await engine.close()


async def test_close_ends_an_engine_that_floods_its_output() -> None:
    engine = fake("while True: say(type='beat', burst='x' * 10000)")
    await engine.start()
    async with asyncio.timeout(10):
        await engine.close()
    assert not left_over(engine.pid)


async def test_what_cannot_start_or_is_gone_says_so() -> None:
    with pytest.raises(MemwbError, match="no-such-engine"):
        await Engine(["/no-such-engine"]).start()
    engine = fake("")
    with pytest.raises(MemwbError):
        engine.send(Stop())
    await engine.start()
    await everything(engine)
    with pytest.raises(MemwbError):
        engine.send(Stop())


async def test_an_engine_starts_without_a_log_that_cannot_be_written() -> None:
    engine = fake("", Path("/dev/null/deep/engine.log"))
    await engine.start()
    assert await everything(engine)
    assert engine.log is None


async def test_the_log_has_what_the_engine_prints(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "engine.log"
    for _ in range(2):
        engine = fake("print('narration', file=sys.stderr)", log)
        await engine.start()
        await everything(engine)
    assert log.read_text() == "narration\n" * 2


async def test_a_real_engine_killed_in_mid_run_takes_its_burst_along(tmp_path: Path) -> None:
    engine = Engine(log=tmp_path / "engine.log")
    await engine.start()
    stream = engine.events()
    work = {"steps": 100_000, "sequence_length": 16}
    engine.send(Start({"model": "tiny", "workload": work}, device="cpu", burst="mid"))
    async with asyncio.timeout(120):
        await first(stream, Step)
        assert engine.pid is not None
        (burst,) = psutil.Process(engine.pid).children()
        os.kill(engine.pid, signal.SIGKILL)
        ended = await first(stream, Ended)
    assert isinstance(ended, Ended)
    assert (ended.burst, ended.outcome) == ("mid", "failed")
    assert ended.title == "The engine died" and ended.losses
    until = time.monotonic() + 5
    while burst.is_running() and burst.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the burst outlived its engine"
        await asyncio.sleep(0.05)
    await engine.close()
    assert "step 1  loss" in (tmp_path / "engine.log").read_text()


def test_the_client_imports_nothing_heavy() -> None:
    program = "import memwb.engine.client, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=60)
