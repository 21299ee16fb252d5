"""What is said of a run is kept in its folder, by whoever says it, and loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from memwb.engine import keeping, remarks, runs
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, Workload, override
from memwb.engine.protocol import Categories, Device, Ended, Peak, Started, Step

PLAN = Plan(model="tiny", workload=Workload(steps=1))
STARTED = Started("1", Device("cpu", "a CPU", 8), "tiny", "random", 10, 1, (1,), "print('hi')\n")
PEAK = Peak(100, 100, 200, "backward", Categories(40, 30, 20, 10, 0))


def a_run(*changes: str, name: str = "") -> runs.Summary:
    plan = PLAN
    for change in changes:
        plan = override(plan, change)
    recorder = runs.record(plan, STARTED, name)
    recorder.event(Step("1", 1, 5.0, 0.1, 32, True))
    recorder.event(Ended("1", "done", PEAK, [5.0], None, 1.5))
    return recorder.summary


def test_a_name_and_a_note_come_back_with_the_run(home: Path) -> None:
    run = a_run("lora=on")
    remarks.rename(run.folder, " rank sixteen ")
    remarks.annotate(run.folder, "one\n\ttwo\n\n")
    found = runs.find_run("1")
    assert (found.name, found.note) == ("rank sixteen", "one\n\ttwo")
    assert keeping.given_name(found) == "rank sixteen"
    summary = json.loads((home / "runs/0001/summary.json").read_text())
    assert summary["name"] == "lora" and "note" not in summary, "the summary is the burst's alone"
    remarks.rename(run.folder, "")
    remarks.annotate(run.folder, "")
    assert runs.find_run("1") == run and not keeping.given_name(run)
    assert not (home / "runs/0001/remarks.json").exists(), "nothing said leaves no file"


def test_a_name_given_while_the_burst_goes_on_outlives_its_end() -> None:
    recorder = runs.record(PLAN, STARTED, "first")
    remarks.rename(recorder.folder, "second")
    recorder.event(Ended("1", "done", PEAK, [5.0], None, 1.5))
    found = runs.find_run("1")
    assert (found.name, found.outcome) == ("second", "done")


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2J", "\x07", "a\x00", "\udc80", "x" * 101])
def test_what_is_no_name_is_refused(text: str) -> None:
    run = a_run()
    with pytest.raises(MemwbError):
        remarks.rename(run.folder, text)
    assert runs.find_run("1") == run


@pytest.mark.parametrize("name", ["日本語 ✓", "é" * 100, "👩‍🔬 run", "a  b", "[b]no markup[/b]"])
def test_any_printable_name_is_kept(name: str) -> None:
    run = a_run()
    remarks.rename(run.folder, name)
    assert runs.find_run("1").name == name


def test_a_note_may_have_lines_and_nothing_else_that_moves_a_cursor() -> None:
    run = a_run()
    remarks.annotate(run.folder, "a\r\nb")
    assert runs.find_run("1").note == "a\nb"
    with pytest.raises(MemwbError, match="control character"):
        remarks.annotate(run.folder, "a\x1b]0;title\x07")


def test_what_another_version_has_said_stays(home: Path) -> None:
    run = a_run()
    file = home / "runs/0001/remarks.json"
    file.write_text('{"name": "old", "colour": "red"}')
    remarks.annotate(run.folder, "new")
    assert json.loads(file.read_text()) == {"name": "old", "colour": "red", "note": "new"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"name": 3}', b"[]"])
def test_a_file_that_cannot_be_read_hides_no_run_and_is_not_overwritten(
    home: Path, content: bytes
) -> None:
    run = a_run()
    file = home / "runs/0001/remarks.json"
    file.write_bytes(content)
    assert runs.list_runs() == [run]
    with pytest.raises(MemwbError, match="cannot be read"):
        remarks.rename(run.folder, "x")
    assert file.read_bytes() == content


def test_what_cannot_be_written_is_said_to_be_so(home: Path) -> None:
    run = a_run()
    (home / "runs/0001/remarks.json").mkdir()
    with pytest.raises(MemwbError, match="cannot be kept"):
        remarks.rename(run.folder, "x")
    assert runs.list_runs() == [run]


def test_a_run_that_is_gone_is_said_to_be_so(home: Path) -> None:
    with pytest.raises(MemwbError, match="not there any more"):
        remarks.rename(home / "runs/0007", "x")


def say_much(barrier: multiprocessing.synchronize.Barrier, folder: str, what: str) -> None:
    barrier.wait()
    for count in range(60):
        getattr(remarks, what)(folder, f"{what} {count}")


def test_two_who_speak_at_once_lose_nothing_of_each_other(home: Path) -> None:
    run = a_run()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    speakers = [
        context.Process(target=say_much, args=(barrier, run.folder, what))
        for what in ("rename", "annotate")
    ]
    for speaker in speakers:
        speaker.start()
    for speaker in speakers:
        speaker.join(30)
    assert [speaker.exitcode for speaker in speakers] == [0, 0]
    found = runs.find_run("1")
    assert (found.name, found.note) == ("rename 59", "annotate 59")
    assert not [name for name in os.listdir(run.folder) if name.endswith(".part")]


def test_one_run_is_the_baseline_at_a_time() -> None:
    first, second = a_run(), a_run()
    assert runs.pinned(runs.list_runs()) is None
    keeping.pin_run(first)
    keeping.pin_run(second)
    assert [bool(run.pinned) for run in runs.list_runs()] == [True, False]
    assert runs.find_run("pinned").run == 2
    keeping.unpin_runs(runs.list_runs())
    with pytest.raises(MemwbError, match="No run is pinned"):
        runs.find_run("pinned")


def test_a_pin_that_came_later_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another workbench pins between our pin and our taking away the others."""
    first, second = a_run(), a_run()
    found = keeping.list_runs

    def between() -> list[runs.Summary]:
        remarks.pin(second.folder)
        return found()

    monkeypatch.setattr(keeping, "list_runs", between)
    keeping.pin_run(first)
    baseline = runs.pinned(runs.list_runs())
    assert baseline is not None and baseline.run == 2


def test_a_damaged_run_or_one_elsewhere_is_no_baseline(home: Path, tmp_path: Path) -> None:
    a_run()
    os.rename(home / "runs/0001", tmp_path / "0001")
    with pytest.raises(MemwbError, match="Only a run of the history"):
        keeping.pin_run(runs.find_run(str(tmp_path / "0001")))
    (home / "runs/0002").mkdir()
    with pytest.raises(MemwbError, match="cannot be the baseline"):
        keeping.pin_run(runs.find_run("2"))


def test_a_deleted_run_is_gone_and_the_others_stay(home: Path) -> None:
    a_run()
    kept = a_run()
    keeping.delete_run(runs.find_run("1"))
    assert runs.list_runs() == [kept] and os.listdir(home / "runs") == ["0002"]


def test_what_is_still_written_or_lies_elsewhere_is_not_deleted(home: Path, tmp_path: Path) -> None:
    recorder = runs.record(PLAN, STARTED)
    with pytest.raises(MemwbError, match="still running"):
        keeping.delete_run(runs.find_run("1"))
    recorder.close()
    elsewhere = tmp_path / "0003"
    os.rename(home / "runs/0001", elsewhere)
    with pytest.raises(MemwbError, match="Only a run of the history"):
        keeping.delete_run(runs.find_run(str(elsewhere)))
    assert elsewhere.is_dir()


def test_a_link_among_the_runs_is_taken_away_and_what_it_points_to_stays(
    home: Path, tmp_path: Path
) -> None:
    a_run()
    elsewhere = tmp_path / "kept"
    os.rename(home / "runs/0001", elsewhere)
    (home / "runs/0001").symlink_to(elsewhere)
    keeping.delete_run(runs.find_run("1"))
    assert runs.list_runs() == [] and (elsewhere / "summary.json").exists()


def test_a_run_that_another_has_deleted_is_no_error() -> None:
    run = a_run()
    keeping.delete_run(run)
    keeping.delete_run(run)
