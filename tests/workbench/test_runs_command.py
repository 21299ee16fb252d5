"""``memwb runs``: the history without the workbench."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from memwb.engine import runs
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Ended, Event, Started
from memwb.workbench.cli import main
from memwb.workbench.headless import history

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def recorded(home: Path, play: Callable[[str], list[Event]]) -> None:
    """Plain, LoRA, bf16 with other losses, and one out of memory."""
    plain = Plan(model="tiny")
    for name, change, factor in (
        ("full", "steps=8", 1.0),
        ("lora", "lora.rank=4", 1.0),
        ("full", "bf16=on", 1.5),
        ("oom", "batch_size=64", 1.0),
    ):
        events = play(name)
        started = next(event for event in events if isinstance(event, Started))
        recorder = runs.record(override(plain, change), started)
        for event in events:
            if isinstance(event, Ended):
                event = replace(event, losses=[loss * factor for loss in event.losses])
            if event is not started:
                recorder.event(event)


def numbers(text: str) -> list[str]:
    lines = text.split("\n\n")[0].splitlines()[1:]
    return [line.split()[0] for line in lines]


def document(capsys: Out) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_list_in_every_order_and_narrowed(capsys: Out) -> None:
    for words, wanted in (
        ([], ["4", "3", "2", "1"]),
        (["--reverse"], ["1", "2", "3", "4"]),
        (["--sort", "peak"], ["2", "3", "1", "4"]),
        (["--sort", "loss", "--reverse"], ["3", "2", "1", "4"]),
        (["--filter", "LoRA done"], ["2"]),
        (["--filter", "cuda", "--sort", "name"], ["4"]),
    ):
        assert main(["runs", "list", *words]) == 0
        assert numbers(capsys.readouterr().out) == wanted
    assert main(["runs", "list", "--filter", "nowhere"]) == 0
    assert capsys.readouterr().out == "No run contains that\n"
    assert main(["runs", "list", "--sort", "peak", "--filter", "tiny", "--json"]) == 0
    assert [run["run"] for run in document(capsys)] == [2, 3, 1, 4]


def test_what_was_alive_at_the_peak_is_shown(capsys: Out) -> None:
    main(["runs", "show", "1"])
    text = capsys.readouterr().out
    assert "The peak of 76.0 MiB is in the backward of a steady step" in text
    assert "  6.00 MiB  activations  model.layers.*.mlp.up_proj" in text
    assert "  7.34 MiB  others, 188 tensors\n  76.0 MiB  allocated\n" in text
    main(["runs", "show", "1", "--json"])
    alive = document(capsys)["alive"]
    listed = sum(large["bytes"] for large in alive["largest"])
    assert listed + alive["others"] + alive["unexplained"] == alive["allocated"] == 79_654_504
    # Recorded before tensors were.
    main(["runs", "show", "2"])
    assert "what was alive then was not recorded" in capsys.readouterr().out
    main(["runs", "show", "2", "--json"])
    assert document(capsys)["alive"] is None
    # Out of memory: what was there then, and what for.
    main(["runs", "show", "4"])
    text = capsys.readouterr().out
    assert "asked for: 640 MiB  float32 160 × 1024 × 1024, aten.bmm in model.layers.31" in text
    assert "largest as memory ran out, measured" in text
    assert "8.22 MiB  no tensor's: what the allocator rounds up" in text


def test_a_name_and_a_note_are_set_read_and_taken_away(capsys: Out) -> None:
    assert main(["runs", "rename", "2", "rank four"]) == 0
    assert capsys.readouterr().out == "run 2 is called rank four\n"
    assert main(["runs", "note", "#2", "spilled\nat 4096", "--json"]) == 0
    told = document(capsys)
    assert (told["run"], told["name"], told["note"]) == (2, "rank four", "spilled\nat 4096")
    assert main(["runs", "note", "2"]) == 0
    assert capsys.readouterr().out == "spilled\nat 4096\n"
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "rank four" in out and out.splitlines()[3].endswith("spilled"), "its first line"
    assert main(["runs", "show", "2"]) == 0
    assert "note     spilled\n         at 4096\n" in capsys.readouterr().out
    for words in (["rename", "2", ""], ["note", "2", ""]):
        assert main(["runs", *words]) == 0
    found = runs.find_run("2")
    assert (found.name, found.note) == ("lora", "")


def test_a_note_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from\na pipe\n"))
    assert main(["runs", "note", "1", "-"]) == 0
    assert runs.find_run("1").note == "from\na pipe"


def test_the_pinned_run_is_what_others_are_held_against(capsys: Out) -> None:
    assert main(["runs", "pin", "3"]) == 0
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "to #3" in out and " 3*" in out and "run 3 is pinned" in out
    assert "±0 B" in out and "−" in out
    assert main(["runs", "show", "1", "--json"]) == 0
    assert document(capsys)["baseline"]["run"] == 3, "where the two can be compared"
    assert main(["runs", "show", "4", "--json"]) == 0
    assert document(capsys)["baseline"] is None
    assert main(["runs", "show", "pinned"]) == 0
    assert "3  bf16  (pinned)" in capsys.readouterr().out
    assert main(["runs", "unpin", "--json"]) == 0
    assert document(capsys) == {"pinned": None}
    assert main(["runs", "show", "1", "--json"]) == 0
    assert document(capsys)["baseline"] is None, "nothing stands before it"


def test_up_to_four_are_compared(capsys: Out) -> None:
    assert main(["runs", "compare", "1", "2", "3", "4"]) == 0
    out = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    # Run 2 is of an earlier version.
    assert lines["largest at the peak"].split()[4:8] == ["6.00", "MiB", "mlp", "–"]
    head = "run 1 run 2 difference run 3 difference run 4 difference"
    assert out.splitlines()[0].split() == head.split()
    assert lines["techniques.lora"].split() == ["techniques.lora", "–", "rank", "4", "–", "–"]
    assert lines["workload.batch_size"].split()[1:] == ["1", "1", "1", "64"]
    assert lines["largest loss gap"].endswith("–"), "no step was finished"
    assert "time" in lines and "peak activations" in lines
    assert "run 3: 50 % from #1" in out
    assert main(["runs", "compare", "1", "2", "3", "--json"]) == 0
    told = document(capsys)
    assert [run["run"] for run in told["runs"]] == [1, 2, 3]
    assert told["plan"]["techniques.lora.rank"] == [None, 4, None]
    assert told["plan"]["techniques.bf16"] == [None, None, "on"]
    assert "workload.batch_size" not in told["plan"], "the same in all"
    assert [large and large["op"] for large in told["largest"]] == ["aten.mul", None, "aten.mul"]
    one, two, _ = told["peak"]["activations"]
    assert told["difference"]["activations"] == [two - one, 0]
    assert told["loss"][1] == {"largest": 0.5, "step": told["loss"][1]["step"]}
    assert [verdict["run"] for verdict in told["baseline"]] == [1, 1]


def test_deleting_is_asked_first(capsys: Out, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert main(["runs", "delete", "1"]) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr(history, "on_terminal", lambda: True)
    for answer, code in (("\n", 2), ("n\n", 2), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert main(["runs", "delete", "1"]) == code
        assert (home / "runs/0001").exists() == (code == 2)
        assert "delete run 1 (plain) for good?" in capsys.readouterr().err
    assert main(["runs", "delete", "2", "#2", "latest", "--yes", "--json"]) == 0
    assert document(capsys) == {"deleted": [2, 4]}
    assert [run.run for run in runs.list_runs()] == [3]
    assert main(["runs", "delete", "3", "9", "--yes"]) == 2
    assert (home / "runs/0003").exists(), "a wrong one among them deletes none"


def test_what_was_named_by_an_earlier_version_moves_no_cursor(capsys: Out, home: Path) -> None:
    summary = home / "runs/0002/summary.json"
    told = json.loads(summary.read_text()) | {"name": "a\x1b[2J\rb\n", "model": "m\x07"}
    summary.write_text(json.dumps(told))
    for words in (["list"], ["show", "2"], ["compare", "1", "2"], ["pin", "2"]):
        assert main(["runs", *words]) == 0
        out = capsys.readouterr().out
        assert not {"\x1b", "\r", "\x07"} & set(out)
    assert main(["runs", "list", "--json"]) == 0
    assert document(capsys)[2]["name"] == "a\x1b[2J\rb\n", "JSON escapes it, and tells the truth"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["renam", "1", "x"], "did you mean 'rename'"),
        (["rename", "1"], "takes a run and a name"),
        (["rename", "1", "two", "words"], "in quotes"),
        (["rename", "9", "x"], "There is no run '9'"),
        (["rename", "1", "a\x1bb"], "control character"),
        (["note", "1", "a\x07"], "control character"),
        (["note"], "takes a run and a note"),
        (["compare", "1"], "takes two to four runs"),
        (["compare", "1", "2", "3", "4", "1"], "takes two to four runs"),
        (["pin"], "takes one run"),
        (["unpin", "1"], "takes no run"),
        (["show", "pinned"], "No run is pinned"),
        (["list", "--sort", "sped"], "did you mean 'speed'"),
        (["show", "1", "--sort", "peak"], "sorts and filters nothing"),
        (["delete"], "takes one run or more"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], said: str, capsys: Out) -> None:
    assert main(["runs", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_name_of_run_is_checked_before_anything_starts(capsys: Out) -> None:
    assert main(["run", "tiny-demo", "--name", "a\x1bb"]) == 2
    assert "control character" in capsys.readouterr().err
    assert len(runs.list_runs()) == 4


def test_a_run_with_a_broken_file_is_shown_as_far_as_it_can_be(capsys: Out) -> None:
    folder = Path(runs.find_run("1").folder)
    (folder / "plan.toml").write_bytes(b"\xfa\xfb")
    assert main(["runs", "show", "1"]) == 0
    told = capsys.readouterr()
    assert "allocated" in told.out and f"{folder / 'plan.toml'} cannot be read" in told.err
    (folder / "events.jsonl").write_bytes(b"\xfa\xfb\n" * 9)
    assert main(["replay", "1"]) == 2
    assert "The run has no events to read" in capsys.readouterr().err
