"""The command line: what goes to which stream, which exit code, and nothing where nothing ran."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.protocol import Device
from memwb.engine.version import VERSION
from memwb.workbench.cli import commands, main

MEMWB = [sys.executable, "-P", "-m", "memwb.workbench.cli"]
Out = pytest.CaptureFixture[str]


def document(out: Out) -> Any:
    return json.loads(out.readouterr().out)


def test_version(capsys: Out) -> None:
    for words in (["--version"], ["-V"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"memwb {VERSION}\n"


def test_help_tells_every_command_with_an_example(capsys: Out) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in commands():
        assert f"\n    {command.name} " in overview
        assert main([command.name, "--help"]) == 0
        text = capsys.readouterr().out
        assert re.search(rf"memwb (--)?{command.name}\b", text.partition("examples:")[2])
        assert "130 stopped" in text


def test_run_prints_the_result_and_narrates_on_standard_error(
    bursts: Callable[[str], None], capsys: Out, home: Path
) -> None:
    assert main(["run", "tiny-demo", "-o", "workload.steps=2"]) == 0
    out, err = capsys.readouterr()
    assert "run 1 · done · tiny" in out
    for words in ("weights", "50 B", "45%", "at its peak, in backward", "5.5000 → 5.2500"):
        assert words in out
    assert "step 1/2  loss 5.500000" in err
    assert str(home / "runs/0001") in out
    assert "chatter" in (home / "memwb.log").read_text()


def test_run_json_is_the_documented_document(
    bursts: Callable[[str], None], capsys: Out, home: Path
) -> None:
    assert main(["run", "tiny-demo", "--json"]) == 0
    assert document(capsys) == {
        "run": 1,
        "folder": str(home / "runs/0001"),
        "device": "cpu",
        "outcome": "done",
        "peak": {
            "allocated": 110,
            "reserved": 120,
            "device": 130,
            "phase": "backward",
            "categories": {
                "weights": 50,
                "gradients": 30,
                "optimizer": 20,
                "activations": 8,
                "temporary": 2,
            },
        },
        "losses": [5.5, 5.25],
        "baseline": None,
        "tokens_per_second": 1234.5,
        "padding": None,
        "predicted": {
            "allocated": 100,
            "reserved": 100,
            "device": 100,
            "phase": "loss",
            "categories": {
                "weights": 50,
                "gradients": 0,
                "optimizer": 20,
                "activations": 8,
                "temporary": 22,
            },
        },
        "alive": None,
    }


def test_run_jsonl_streams_the_events(bursts: Callable[[str], None], capsys: Out) -> None:
    assert main(["run", "tiny-demo", "--jsonl"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds == [
        *("hello", "ready", "predicted", "all_predicted"),
        *("started", "loaded", "samples", "step", "step", "ended"),
    ]


@pytest.mark.parametrize(("how", "code"), [("oom", 3), ("failed", 1), ("dies", 1)])
def test_a_burst_that_ends_badly(
    bursts: Callable[[str], None], capsys: Out, how: str, code: int
) -> None:
    bursts(how)
    assert main(["run", "tiny-demo", "--json"]) == code
    found = document(capsys)
    assert found["outcome"] == ("oom" if how == "oom" else "failed")
    assert found["run"] == 1
    assert found["error"]["title"]
    assert main(["runs", "--json"]) == 0
    (listed,) = document(capsys)
    assert listed["outcome"] == found["outcome"]


@pytest.mark.parametrize(("how", "code"), [("refused", 2), ("untaken", 2), ("dies early", 1)])
def test_what_never_started_leaves_nothing(
    bursts: Callable[[str], None], capsys: Out, home: Path, how: str, code: int
) -> None:
    bursts(how)
    assert main(["run", "tiny-demo", "--json"]) == code
    assert document(capsys)["error"]["title"]
    assert not (home / "runs").exists()


BAD = {
    "unknown preset": ["run", "tiny-dmo"],
    "missing plan": ["run", "./nowhere.toml"],
    "unknown model": ["run", "tiny-demo", "-o", "model=tinny"],
    "folder without config": ["run", "tiny-demo", "-o", "model=."],
    "wrong value": ["run", "tiny-demo", "-o", "workload.steps=0"],
    "wrong key": ["run", "tiny-demo", "-o", "workload.step=1"],
    "unknown technique": ["run", "tiny-demo", "-o", "techniques.lorra.rank=1"],
    "no override": ["run", "tiny-demo", "-o", "lora"],
    "conflict": ["run", "tiny-demo", "-o", "techniques.bf16={}", "-o", "techniques.fp32={}"],
    "missing data": ["run", "tiny-demo", "-o", "workload.data=nowhere.txt"],
    "three words": ["run", "tiny-demo", "-o", "workload.data=three.txt"],
    "wrong device": ["run", "tiny-demo", "--device", "tpu"],
    "no plan": ["run"],
    "unknown command": ["rnu", "tiny-demo"],
    "unknown option": ["run", "tiny-demo", "--jsn"],
    "export of nothing": ["export", "nowhere", "out"],
    "export of missing data": ["export", "tiny-demo", "out", "-o", "workload.data=nowhere.txt"],
    "technique's name": ["techniques", "lorra"],
    "preset's name": ["presets", "show", "nowhere"],
    "preset's action": ["presets", "shw"],
    "preset without name": ["presets", "show"],
    "run's number": ["runs", "show", "7"],
    "run's action": ["runs", "lst"],
    "one run to compare": ["runs", "compare", "1"],
    "replay of nothing": ["replay", "latest"],
    "negative speed": ["replay", "latest", "--speed", "-1"],
    "workbench without terminal": ["open"],
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_usage_is_exit_code_2_and_writes_nothing(
    name: str, capsys: Out, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMWB_ENGINE", "/no/engine/is/started")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "three.txt").write_text("just three words")
    monkeypatch.chdir(folder)
    assert main(BAD[name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "memwb" in err
    assert "Traceback" not in err
    assert os.listdir(folder) == ["three.txt"]
    assert not home.exists()


def test_a_terminal_that_can_place_nothing_is_told_so(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    code = main(["open"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and "TERM is dumb" in err and "memwb run" in err


def test_a_mistyped_command_gets_the_nearest(capsys: Out) -> None:
    assert main(["rnu"]) == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


def test_an_error_in_json_is_json(capsys: Out) -> None:
    assert main(["run", "tiny-dmo", "--json"]) == 2
    error = document(capsys)["error"]
    assert list(error) == ["title", "what", "fix"]
    assert "tiny-demo" in error["what"]


def test_our_own_fault_is_told_without_a_traceback(
    capsys: Out, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(arguments: object) -> int:
        raise KeyError("oops")

    monkeypatch.setattr("memwb.workbench.headless.models.models", broken)
    assert main(["models"]) == 1
    err = capsys.readouterr().err
    assert "KeyError: 'oops'" in err
    assert "Traceback" not in err
    assert "Traceback" in (home / "memwb.log").read_text()
    with pytest.raises(KeyError):
        main(["models", "--debug"])


def test_export_writes_the_script_and_refuses_to_overwrite(tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "a folder" / "out"
    assert main(["export", "tiny-demo", str(folder), "-o", "lora=on"]) == 0
    assert capsys.readouterr().out == f"python '{folder}/train.py' --output '{folder}/model'\n"
    assert sorted(os.listdir(folder)) == ["plan.toml", "train.py"]
    script = (folder / "train.py").read_text()
    compile(script, "train.py", "exec")
    assert "memwb" not in script.replace("Written by memwb", "")
    assert main(["export", "tiny-demo", str(folder)]) == 2
    assert "already holds train.py and plan.toml" in capsys.readouterr().err
    assert (folder / "train.py").read_text() == script
    assert main(["export", str(folder / "plan.toml"), str(folder), "--force", "--json"]) == 0
    assert document(capsys)["folder"] == str(folder)
    assert (folder / "train.py").read_text() == script


def test_export_for_another_machine_says_that_it_is_one(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memwb.workbench.headless import export

    for kind, lacks in (("cpu", True), ("cuda", False)):
        device = Device(kind, "the device", 2**33)
        monkeypatch.setattr(export, "assumed", lambda wanted, device=device: device)
        assert main(["export", "tiny-demo", str(tmp_path), "-o", "tf32=on", "--force"]) == 0
        said = capsys.readouterr()
        assert said.out == f"python {tmp_path}/train.py --output {tmp_path}/model\n"
        told = "train.py cannot run here, on the device (tf32: only CUDA devices" in said.err
        assert told == lacks


def test_export_can_have_the_script_merge(tmp_path: Path, capsys: Out) -> None:
    assert main(["export", "tiny-demo", str(tmp_path), "-o", "lora=on", "--merge"]) == 0
    assert '"merge": True' in (tmp_path / "train.py").read_text()
    assert main(["export", "tiny-demo", str(tmp_path), "-o", "lora=on", "--force"]) == 0
    assert '"merge": False' in (tmp_path / "train.py").read_text()
    capsys.readouterr()
    assert main(["export", "tiny-demo", str(tmp_path / "other"), "-m"]) == 2
    assert "There is nothing to merge" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_exported_script_tells_what_its_plan_measured(
    bursts: Callable[[str], None], tmp_path: Path, capsys: Out
) -> None:
    assert main(["run", "tiny-demo"]) == 0
    assert main(["export", "tiny-demo", str(tmp_path / "same")]) == 0
    assert main(["export", "tiny-demo", str(tmp_path / "other"), "-o", "workload.seed=1"]) == 0
    assert "Measured on" in (tmp_path / "same/train.py").read_text()
    assert "Measured on" not in (tmp_path / "other/train.py").read_text()


def test_a_relative_data_path_holds_from_any_folder(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Many a word. " * 99)
    assert main(["export", "tiny-demo", "out", "-o", "workload.data=a.txt"]) == 0
    assert f'"data": "{tmp_path}/a.txt"' in Path("out/train.py").read_text()


def test_the_history(bursts: Callable[[str], None], capsys: Out) -> None:
    assert main(["run", "tiny-demo", "--name", "first"]) == 0
    assert main(["run", "tiny-demo", "-o", "lora.rank=4"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    header, newest, oldest = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["run", "when"]
    assert newest.split()[0] == "2"
    assert "first" in oldest
    assert main(["runs", "show", "latest"]) == 0
    assert "techniques.lora.rank =" in capsys.readouterr().out
    assert main(["runs", "compare", "1", "latest"]) == 0
    assert "techniques.lora " in (out := capsys.readouterr().out) and "rank 4" in out
    assert main(["runs", "compare", "1", "2", "--json"]) == 0
    found = document(capsys)
    assert found["plan"]["techniques.lora.rank"] == [None, 4]
    assert found["peak"]["weights"] == [50, 50] and found["difference"]["weights"] == [0]
    assert [run["run"] for run in found["runs"]] == [1, 2]


def test_a_damaged_run_is_shown_and_not_compared(
    bursts: Callable[[str], None], capsys: Out, home: Path
) -> None:
    assert main(["run", "tiny-demo"]) == 0
    (home / "runs/0001/summary.json").write_text("{")
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["runs", "show", "1"]) == 0
    assert "summary.json" in capsys.readouterr().out
    assert main(["runs", "compare", "1", "1"]) == 2


def test_replay_at_once_and_at_its_pace(bursts: Callable[[str], None], capsys: Out) -> None:
    assert main(["run", "tiny-demo"]) == 0
    capsys.readouterr()
    assert main(["replay", "1", "--speed", "0", "--jsonl"]) == 0
    kinds = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["started", "loaded", "samples", "step", "step", "ended"]
    began = time.monotonic()
    assert main(["replay", "1", "--speed", "2"]) == 0
    assert time.monotonic() - began > 0.3
    assert "done, peak 110 B in backward" in capsys.readouterr().out
    assert main(["replay", "1", "--json"]) == 0
    assert len(document(capsys)["events"]) == 6


def test_ctrl_c_stops_the_burst_and_keeps_the_run(
    bursts: Callable[[str], None], home: Path
) -> None:
    bursts("waits")
    process = subprocess.Popen(
        [*MEMWB, "run", "tiny-demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["outcome"] == "stopped"
    assert "Traceback" not in err
    assert json.loads((home / "runs/0001/summary.json").read_text())["outcome"] == "stopped"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = f"'{sys.executable}' -P -m memwb.workbench.cli techniques --json | head -c 10"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is stood in for by it")
@pytest.mark.parametrize(
    ("words", "code", "title"),
    [
        ("gpus --json", 1, "Standard output cannot be written"),
        ("--version", 1, "Standard output cannot be written"),
        ("runs nope --json", 2, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_error(words: str, code: int, title: str) -> None:
    line = [sys.executable, "-P", "-m", "memwb.workbench.cli", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == code
    assert done.stderr.count("memwb: ") == 1 and f"memwb: {title}" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("words", ["doctor", "techniques lora", "gpus --json"])
@pytest.mark.parametrize("shut", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_fault(words: str, shut: str) -> None:
    line = f"'{sys.executable}' -P -m memwb.workbench.cli {words} {shut}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in shut.split())


def test_an_encoding_that_lacks_a_sign_is_no_fault() -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for words in ("doctor", "techniques lora", "techniques lora --json"):
        line = [sys.executable, "-P", "-m", "memwb.workbench.cli", *words.split()]
        done = subprocess.run(line, capture_output=True, timeout=30, env=ascii_only)
        assert (done.returncode, done.stderr) == (0, b"")
        if "--json" in words:  # is in UTF-8 wherever it goes
            assert "–" in done.stdout.decode() or "×" in done.stdout.decode()
            assert json.loads(done.stdout)["name"] == "lora"
        else:
            assert b"?" in done.stdout and done.stdout.isascii()


def test_a_script_is_written_where_no_runs_can_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path / ("x" * 300)))
    assert main(["export", "tiny-demo", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "train.py").exists()


def test_without_arguments_and_terminal_the_ladder_runs(
    bursts: Callable[[str], None], capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    assert main([]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if "110 B" in line]
    assert len(rows) == 4
    assert "weights  gradients  optimizer  activations  temporary" in out
