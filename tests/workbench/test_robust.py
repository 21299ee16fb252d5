"""What a workbench lives through: hours of events, resizes, a silent or garbled engine, a twin."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.events import Resize
from textual.geometry import Size

from memwb.engine.client import Engine
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Beat,
    Categories,
    Device,
    Ended,
    Event,
    Sample,
    Samples,
    Started,
    Step,
    Timeline,
)
from memwb.engine.runs import list_runs
from memwb.workbench import watch
from memwb.workbench.charts import thinning, timeline
from memwb.workbench.settings import read_session
from memwb.workbench.start import open_workbench
from memwb.workbench.trace import CURVE, Trace

SIZE = (120, 40)
KEYS = ("left_parenthesis", "right_parenthesis", "left_curly_bracket", "right_curly_bracket")


def header(app: Any) -> str:
    return str(app.main.query_one("#header").render())


def notice(app: Any) -> str:
    found = app.main.notice
    return str(found.render()) if found.display else ""


def sample(noise: random.Random, time: float, step: int) -> Sample:
    parts = Categories(1000, 200, 300, noise.randrange(4000), noise.randrange(900))
    return Sample(time, step, "forward", parts.total, parts.total, parts.total, parts)


def hours(count: int, each: int) -> Iterator[Event]:
    """So many events of a burst: two traced steps of which one never seems to end, then others."""
    noise = random.Random(5)
    now = 0.0
    for index in range(count):
        step = 1 if index < count // 4 else 2
        if index >= count // 2:
            yield Step("1", index, noise.uniform(1.0, 9.0), 0.5, 512, False)
        elif index % 50 == 0:
            yield Beat("1")
        else:
            found = []
            for _ in range(each):
                now += 0.001
                found.append(sample(noise, now, step))
            yield Samples("1", found)


def test_a_hundred_thousand_events_take_no_more_room_than_a_few() -> None:
    trace, chart = Trace(), timeline.Timeline(steps=(1, 2))
    highest, losses, held = 0, [], []
    for index, event in enumerate(hours(100_000, 4)):
        trace.apply(event)
        if isinstance(event, Samples):
            chart.append(event.samples)
            highest = max(highest, *(each.allocated for each in event.samples))
        if isinstance(event, Step):
            losses.append(event.loss)
        if index % 10_000 == 9_999:
            held.append((len(trace.samples), sum(map(len, chart.by_step.values()))))
    assert max(map(max, held)) <= 2 * thinning.EACH, held
    assert trace.highest is not None and chart.peak is not None
    assert trace.highest.allocated == chart.peak.allocated == highest
    assert any(each is chart.peak for part in chart.by_step.values() for each in part)
    assert list(trace.losses) == losses and len(trace.curve) <= CURVE
    points = dict(trace.curve)
    assert min(points.values()) == min(losses) and max(points.values()) == max(losses)
    assert trace.curve[0] == (1, losses[0]) and trace.curve[-1] == (len(losses), losses[-1])


def test_ever_more_steps_keep_their_peaks() -> None:
    noise, trace = random.Random(6), Trace()
    most: dict[int, int] = {}
    for step in range(1, 2001):
        found = [sample(noise, step + at / 100, step) for at in range(100)]
        most[step] = max(each.allocated for each in found)
        trace.apply(Timeline("1", step, found))
    kept: dict[int, int] = {}
    for each in trace.samples:
        kept[each.step] = max(kept.get(each.step, 0), each.allocated)
    assert kept == most and len(trace.samples) <= max(thinning.ALL, thinning.FEWEST * 2000)


async def test_a_burst_that_goes_on_takes_no_more_memory(bench: Any, waiting: Any) -> None:
    noise, held = random.Random(8), []
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        device = Device("cpu", "a made-up CPU", 2**34)
        traced = tuple(range(1, 201))
        app.bursts.hear(Started("1", device, "tiny", "random", 1000, 200, traced, ""))
        for step in traced:
            found = [sample(noise, step + at / 300, step) for at in range(300)]
            for at in range(0, 300, 100):
                app.bursts.hear(Samples("1", found[at : at + 100]))
            exact = [sample(noise, each.time, step) for each in found]
            app.bursts.hear(Timeline("1", step, exact))
            app.bursts.hear(Step("1", step, noise.random(), 1.0, 64, True))
            del found, exact
            if step % 10 == 0:
                await pilot.pause()
            # Looked at in the whole process: what a screen keeps counts as what the trace keeps.
            if step in (100, 200):
                gc.collect()
                held.append(sys.getallocatedblocks())
        assert app.main.memory.chart.shown.peak.allocated == app.live.highest.allocated
    grown = held[1] - held[0]
    assert grown < 100 * 100, f"{grown:,} objects more after a hundred more steps of 600 samples"


async def test_five_hundred_resizes_while_a_burst_streams(bench: Any, waiting: Any) -> None:
    noise = random.Random(7)
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        now, before = 100.0, app.live.steps
        for turn in range(500):
            now += 0.1
            app.scripted.emit(Samples("1", [sample(noise, now + at / 100, 2) for at in range(10)]))
            app.scripted.emit(Step("1", 3 + turn, noise.random(), 0.1, 64, False))
            # As from a window whose corner is dragged: they come faster than screens are drawn.
            size = Size(noise.randrange(1, 220), noise.randrange(1, 70))
            app._driver._size = size
            app.post_message(Resize(size, size))
            if turn % 5 == 4:
                await pilot.pause()
            if turn % 50 == 49:
                await pilot.press(noise.choice("12345m"), noise.choice(KEYS))
        await pilot.resize_terminal(*SIZE)
        await pilot.press("2")
        await pilot.pause()
        assert app.live.steps == before + 500 and app.main.memory.chart.region.area
        assert len(app.main.memory.chart.columns) > 40
        app.scripted.emit(Ended("1", "done", losses=[1.0]))
        await waiting(pilot, lambda: app.engine_state == "ready")


async def test_a_silent_engine_is_told_and_can_be_restarted(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE", {"running": 1.0})
    monkeypatch.setattr(watch, "EVERY", 0.05)
    app = bench("full", "full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: "not responding" in notice(app))
        assert "not responding" in header(app) and "E restarts" in header(app)
        # It waits, and a word of it is enough.
        monkeypatch.setitem(watch.SILENCE, "running", 60.0)
        app.scripted.emit(Beat("1"))
        await waiting(pilot, lambda: not notice(app) and "running · step" in header(app))
        assert app.engine_state == "running"
        monkeypatch.setitem(watch.SILENCE, "running", 0.4)
        await waiting(pilot, lambda: "not responding" in notice(app))
        app.scripted.hold = False
        await pilot.press("E")
        await waiting(pilot, lambda: app.scripted.started == 2 and app.engine_state == "ready")
        assert not notice(app), "whoever restarts it needs no telling that it is gone"
        assert [run.outcome for run in list_runs()] == ["interrupted"]
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")


async def test_a_running_burst_is_asked_about_before_a_restart(bench: Any, waiting: Any) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        await pilot.press("E", "n")
        await pilot.pause()
        assert app.engine_state == "running" and app.scripted.started == 1
        await pilot.press("E", "y")
        await waiting(pilot, lambda: app.scripted.started == 2 and app.engine_state == "ready")


async def test_garbage_on_the_pipe_is_told_and_what_can_be_read_goes_on(
    home: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memwb.engine.client.LONGEST_LINE", 100_000)
    ways = iter(("garbage", "done"))
    fake = [sys.executable, "-P", str(Path(__file__).with_name("fake_engine.py"))]
    app = open_workbench(Plan(model="tiny"), lambda: Engine([*fake, next(ways)]))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "failed")
        await waiting(pilot, lambda: app.engine_state == "dead")
        assert list(app.live.losses) == [5.5, 5.25], "every event between the garbage was heard"
        assert "exit code 7" in notice(app)
        await pilot.press("r")
        await waiting(pilot, lambda: app.engine_state == "ready")


async def test_garbage_is_told_with_a_way_on(bench: Any, waiting: Any) -> None:
    from memwb.engine.client import GARBLED
    from memwb.engine.protocol import Problem

    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        for _ in range(100):
            app.scripted.emit(Problem(GARBLED, "malformed: \x1b[2J\x07\x9b"))
        await waiting(pilot, lambda: "64 lines" in notice(app))
        assert "E restarts" in notice(app) and app.engine_state == "running"
        assert "\x1b" not in notice(app) and "\x9b" not in notice(app)


async def test_two_workbenches_share_a_folder(home: Any, bench: Any, waiting: Any) -> None:
    one, two = bench("full", "full", "full"), bench("lora", "lora", "lora")
    async with one.run_test(size=SIZE) as first, two.run_test(size=SIZE) as second:
        await waiting(first, lambda: one.engine_state == two.engine_state == "ready")
        for turn in range(1, 4):
            await asyncio.gather(first.press("r"), second.press("r"))
            await waiting(
                first,
                lambda turn=turn: (
                    [len(app.scripted.bursts) for app in (one, two)] == [3 - turn] * 2
                ),
            )
            await waiting(first, lambda: not (one.busy or two.busy))
        await waiting(first, lambda: all(run.outcome == "done" for run in list_runs()))
        assert [run.run for run in list_runs()] == [6, 5, 4, 3, 2, 1]
        assert {one.bursts.folder, two.bursts.folder} <= {run.folder for run in list_runs()}
        await asyncio.gather(first.press("5"), second.press("5"))
        await waiting(first, lambda: len(one.recorded) == len(two.recorded) == 6)
        # One deletes what the other shows and holds against another.
        two.show_run(one.bursts.folder)
        await second.pause(0.2)
        one.main.runs.rows.select(one.bursts.folder)
        await first.press("d", "y")
        await waiting(first, lambda: len(one.recorded) == 5)
        await second.press("1", "5", "c", "up", "c")
        await waiting(second, lambda: len(two.recorded) == 5)
        session = read_session()
        assert session is not None and session.plan == one.session.plan


async def test_a_start_moves_and_says_what_it_waits_for(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(watch, "now", lambda: now[0])
    app = bench("full", ready=False)
    async with app.run_test(size=(80, 24)) as pilot:

        def head() -> str:
            return str(app.main.query_one("#header").render())

        await waiting(pilot, lambda: app.bursts._doing == "loading")
        seen = set()
        for _ in range(8):
            now[0] += watch.FRAME
            app.bursts.show_doing()
            seen.add(head().partition(" engine starting…")[0][-1])
        assert seen <= set(watch.FRAMES) and len(seen) == 8 and "loads" not in head()
        now[0] += watch.PATIENCE
        app.bursts.look()
        assert "engine starting… · loads torch" in head()
        app.animation_level = "none"
        app.action_run()
        assert "ready · loads torch" in head() and not set(head()) & set(watch.FRAMES)
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        assert "loads torch" not in head() and app.bursts._doing == "ready"


async def test_what_moves_in_the_header_stops_with_the_screen(bench: Any) -> None:
    app = bench(None)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        # One by one, as the screen is taken down: the clock that turns it may fire meanwhile.
        await app.main.query_one("#header").remove()
        app.bursts.show_doing()
        await app.main.remove_children()
        app.bursts.show_doing()
        app.bursts.show()
        await pilot.pause(2 * watch.FRAME)
        assert app._exception is None
