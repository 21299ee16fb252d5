"""A run's folder: numbered once, complete, and readable whatever befell its writer."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from memwb.engine import remarks, runs
from memwb.engine.errors import MemwbError
from memwb.engine.memory import Alive, Large
from memwb.engine.plan import Plan, Workload, override
from memwb.engine.protocol import (
    Beat,
    Categories,
    Device,
    Ended,
    Hello,
    Loaded,
    Peak,
    Sample,
    Samples,
    Started,
    Step,
)

PLAN = Plan(model="tiny", workload=Workload(steps=2, sequence_length=32))
STARTED = Started("1", Device("cpu", "a CPU", 8), "tiny", "random", 10, 2, (1, 2), "print('hi')\n")
PEAK = Peak(100, 100, 200, "backward", Categories(40, 30, 20, 10, 0))
EVENTS = [
    STARTED,
    Loaded("1", 10, 10, 40, 0.5),
    Samples("1", [Sample(0.1, 0, "load", 40, 40, 100), Sample(0.2, 1, "forward", 60, 60, 100)]),
    Step("1", 1, 5.25, 0.1, 32, True),
    Step("1", 2, 5.125, 0.1, 32, True),
    Ended("1", "done", PEAK, [5.25, 5.125], None, 1.5),
]


def a_run(events: list[runs.Event] = EVENTS, name: str = "") -> runs.Summary:
    recorder = runs.record(PLAN, STARTED, name)
    for event in events[1:]:
        recorder.event(event)
    recorder.close()
    return recorder.summary


def test_a_run_comes_back_as_it_was(home: Path) -> None:
    summary = a_run()
    assert summary.folder == str(home / "runs" / "0001")
    assert (summary.run, summary.outcome, summary.peak) == (1, "done", PEAK)
    assert summary.losses == [5.25, 5.125]
    assert runs.list_runs() == [summary]
    assert list(runs.read_events(summary.folder)) == EVENTS
    assert runs.read_plan(summary.folder) == PLAN
    assert (home / "runs/0001/train.py").read_text() == STARTED.script
    assert sorted(os.listdir(summary.folder)) == [
        "events.jsonl",
        "plan.toml",
        "summary.json",
        "train.py",
    ]


def test_what_was_alive_is_read_from_its_end() -> None:
    large = Large(64, "weights", "lm_head.weight", "aten.empty", (4, 4), "float32")
    alive = Alive(step=2, phase="loss", allocated=100, largest=(large,), others=36, more=2)
    end = msgspec.structs.replace(EVENTS[-1], alive=alive)
    assert runs.read_alive(a_run([*EVENTS[:-1], end]).folder) == alive


def test_a_run_of_an_earlier_version_has_not_recorded_what_was_alive(home: Path) -> None:
    """Its end says nothing of it: not that nothing was."""
    folder = Path(a_run().folder)
    events = folder / runs.EVENTS
    lines = events.read_text().replace(',"alive":null', "")
    assert "alive" not in lines
    events.write_text(lines)
    assert runs.read_alive(folder) is None
    assert list(runs.read_events(folder)) == EVENTS and runs.read_summary(folder).peak == PEAK
    # Nor has one that was cut short, or lost its events.
    assert runs.read_alive(a_run(EVENTS[:-1]).folder) is None
    events.unlink()
    assert runs.read_alive(folder) is None


def test_a_plan_is_called_alike_however_it_came_to_be() -> None:
    plans = [
        override(override(PLAN, f"{first}=on"), f"{second}=on")
        for first, second in (("lora", "adamw_8bit"), ("adamw_8bit", "lora"))
    ]
    one, other = (runs.record(plan, STARTED).summary for plan in plans)
    assert one.name == other.name == "lora + adamw_8bit"
    assert one.techniques == other.techniques


def test_only_the_burst_itself_is_kept() -> None:
    recorder = runs.record(PLAN, STARTED)
    for event in (Hello("1", 2), Beat("1"), EVENTS[1]):
        recorder.event(event)
    recorder.close()
    assert list(runs.read_events(recorder.folder)) == EVENTS[:2]


def test_the_newest_run_comes_first_and_is_the_latest() -> None:
    first, second = a_run(), a_run(name="mine")
    assert [run.run for run in runs.list_runs()] == [2, 1]
    assert runs.find_run("latest") == second
    assert second.name == "mine"
    for text in ("1", "#1", "0001", first.folder, " 1 "):
        assert runs.find_run(text) == first


def test_of_runs_that_are_over_only_those_that_changed_are_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = a_run(), a_run(), a_run(EVENTS[:-1])
    assert [run.outcome for run in runs.list_runs()] == ["interrupted", "done", "done"]
    read: list[str] = []
    real = runs.read_summary

    def reading(folder: Path) -> runs.Summary:
        read.append(folder.name)
        return real(folder)

    monkeypatch.setattr(runs, "read_summary", reading)
    remarks.rename(second.folder, "mine")
    assert [run.name for run in runs.list_runs()] == ["plain", "mine", "plain"]
    assert read == ["0003", "0002"], "whose writer may be back, and who has a name now"
    shutil.rmtree(second.folder)
    (Path(third.folder) / runs.SUMMARY).unlink()
    found = runs.list_runs()
    assert [run.outcome for run in found] == ["damaged", "done"]
    assert found[1] == real(Path(first.folder))


@pytest.mark.parametrize("text", ["3", "", "0", "x", "/nowhere", "../..", "²", "a\0b", "9" * 300])
def test_an_unknown_run_is_said_to_be_unknown(text: str) -> None:
    a_run()
    with pytest.raises(MemwbError, match="no run"):
        runs.find_run(text)


def test_no_runs_yet() -> None:
    assert runs.list_runs() == []
    with pytest.raises(MemwbError, match="no runs yet"):
        runs.find_run("latest")


def record_many(barrier: multiprocessing.synchronize.Barrier, count: int) -> None:
    barrier.wait()
    for _ in range(count):
        a_run(name=str(os.getpid()))


def test_writers_at_once_never_share_a_folder() -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [context.Process(target=record_many, args=(barrier, 15)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    found = runs.list_runs()
    assert sorted(run.run for run in found) == list(range(1, 61))
    assert {run.outcome for run in found} == {"done"}
    for writer in writers:
        assert sum(run.name == str(writer.pid) for run in found) == 15


def die_within_a_run(ready: multiprocessing.synchronize.Event) -> None:
    recorder = runs.record(PLAN, STARTED)
    for event in EVENTS[1:4]:
        recorder.event(event)
    ready.set()
    signal.pause()


def test_a_run_is_running_until_its_writer_dies() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=die_within_a_run, args=(ready,))
    writer.start()
    assert ready.wait(20)
    assert runs.find_run("1").outcome == "running"
    writer.kill()
    writer.join()
    found = runs.find_run("1")
    assert found.outcome == "interrupted"
    assert found.losses == [5.25]
    assert "before the burst was over" in found.what


def damage(folder: Path, how: str) -> None:
    summary = folder / "summary.json"
    if how == "empty folder":
        for file in folder.iterdir():
            file.unlink()
    elif how == "no JSON":
        summary.write_bytes(b"\xff\xfe{")
    elif how == "half":
        summary.write_bytes(summary.read_bytes()[:40])
    elif how == "another shape":
        summary.write_text('{"run": "seven"}')
    elif how == "a folder in its place":
        summary.unlink()
        summary.mkdir()
    else:
        raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["empty folder", "no JSON", "half", "another shape", "a folder in its place"]
)
def test_a_damaged_folder_is_listed_with_its_reason(how: str) -> None:
    damage(Path(a_run().folder), how)
    good = a_run()
    newest, damaged = runs.list_runs()
    assert newest == good
    assert (damaged.run, damaged.outcome) == (1, "damaged")
    assert "summary.json" in damaged.what
    assert runs.find_run("1") == damaged


def test_what_is_no_run_is_not_listed(home: Path) -> None:
    a_run()
    (home / "runs/notes").mkdir()
    (home / "runs/.DS_Store").touch()
    assert [run.run for run in runs.list_runs()] == [1]


def test_a_file_in_the_way_takes_no_number(home: Path) -> None:
    (home / "runs").mkdir(parents=True)
    (home / "runs/0001").touch()
    assert a_run().run == 2
    assert [run.run for run in runs.list_runs()] == [2]


def test_half_a_line_is_passed_over() -> None:
    summary = a_run()
    file = Path(summary.folder) / "events.jsonl"
    file.write_bytes(file.read_bytes()[:-20] + b"\n\xff\n{}\n")
    assert list(runs.read_events(summary.folder)) == EVENTS[:-1]


def test_no_events_is_an_error_with_the_file() -> None:
    with pytest.raises(MemwbError, match=r"events\.jsonl"):
        list(runs.read_events("/nowhere"))


def test_a_copied_run_is_read_where_it_lies(tmp_path: Path) -> None:
    summary = a_run()
    moved = Path(summary.folder).rename(tmp_path / "kept")
    found = runs.find_run(str(moved))
    assert found == msgspec.structs.replace(summary, folder=str(moved))


def test_nowhere_to_write_is_said(home: Path) -> None:
    home.mkdir()
    (home / "runs").write_text("in the way")
    with pytest.raises(MemwbError, match="cannot be recorded") as caught:
        runs.record(PLAN, STARTED)
    assert "MEMWB_HOME" in caught.value.fix
    assert runs.list_runs() == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_read_as_nan(value: float) -> None:
    """JSON has no word for it, and a run that diverges must still be told and kept."""
    recorder = runs.record(PLAN, STARTED)
    recorder.event(Step("1", 1, value, 0.1, 32, True))
    recorder.event(Ended("1", "done", PEAK, [5.25, value], None, 1.5))
    _, step, ended = runs.read_events(recorder.folder)
    assert isinstance(step, Step)
    assert isinstance(ended, Ended)
    first, last = runs.find_run("1").losses
    assert first == ended.losses[0] == 5.25
    assert all(math.isnan(loss) for loss in (step.loss, ended.losses[1], last))
