"""``memwb predict``, and what is predicted around ``memwb run``: on the fake engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.devices import device_for
from memwb.engine.plan import plan_data
from memwb.engine.prediction import Large, Parameters, Prediction
from memwb.engine.prediction_cache import Kept, keep
from memwb.engine.presets import load_plan
from memwb.engine.protocol import Categories, Peak, Predict
from memwb.engine.question import Question
from memwb.engine.runs import list_runs
from memwb.workbench.cli import main
from memwb.workbench.headless.tensors import largest_table

Out = pytest.CaptureFixture[str]
KEYS = ("target", "peak", "timeline", "largest", "fits", "parameters", "seconds")


def document(out: Out) -> Any:
    return json.loads(out.readouterr().out)


def test_the_text_tells_everything(bursts: Any, capsys: Out, home: Path) -> None:
    assert main(["predict", "tiny-demo", "--target", "rtx-4090", "--changes"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("fits rtx-4090: 16.0 GiB free\n")
    for words in (
        "predicted for rtx-4090 in 0.5 s",
        "> rtx-4090  fits",
        "128 GiB free  ~\n~ another architecture",
        "at its peak, in loss, step 2",
        "The peak is in the loss.",
        "step 2, steady",
        "aten.mm",
        "4 × 4",
        "rtx-4070  exceeds",
        "10 B too little",
        "lora on  +10 B",
        "no such luck",
        "note: Made up.",
    ):
        assert words in out, words
    assert "engine ready" in err
    assert not (home / "runs").exists(), "nothing has run"


def test_the_document_has_the_documented_shape(bursts: Any, capsys: Out) -> None:
    assert main(["predict", "tiny-demo", "--json"]) == 0
    found = document(capsys)
    assert set(KEYS) <= found.keys() and "changes" not in found
    assert found["target"] == "cpu"
    assert set(found["peak"]) == {"allocated", "reserved", "device", "phase", "categories"}
    assert set(found["timeline"][0]) == {"phase", "step", "allocated", "categories"}
    largest = {"bytes", "category", "module", "op", "shape", "dtype"}
    assert largest <= found["largest"][0].keys()
    assert set(found["fits"][0]) == {"gpu", "capacity", "verdict", "free", "same_kernels"}
    assert found["parameters"] == {"total": 1000, "trainable": 1000}
    assert main(["predict", "tiny-demo", "--json", "--changes"]) == 0
    told = [change["technique"] for change in document(capsys)["changes"]]
    assert told == ["lora", "sgd", "adamw", "bf16"]


def test_changes_stand_by_what_they_save(bursts: Any, capsys: Out) -> None:
    assert main(["predict", "tiny-demo", "--changes"]) == 0
    told = capsys.readouterr().out.partition("each toggle")[2].splitlines()[1:]
    assert [line.split()[0] for line in told] == ["bf16", "lora", "sgd"], "adamw acts already"
    assert told[0].endswith("with fp32=off") and "with" not in told[1]


def test_what_is_kept_is_told_without_an_engine(capsys: Out, monkeypatch: Any) -> None:
    peak = Peak(7, 7, 7, "loss", Categories(7))
    result = Prediction(
        target="cpu",
        peak=peak,
        step=2,
        timeline=(),
        largest=(),
        fits=(),
        parameters=Parameters(1000, 1000),
        words=("Seven bytes.",),
    )
    question = Predict(plan=plan_data(load_plan("tiny-demo")), changes=True)
    monkeypatch.delenv("MEMWB_ENGINE", raising=False)
    monkeypatch.setattr("memwb.workbench.headless.predict.engine", lambda: pytest.fail("started"))
    own, *toggles = Question(question, device_for("auto")).waiting
    keep(own.key, Kept(result=result))
    assert main(["predict", "tiny-demo"]) == 0
    out = capsys.readouterr().out
    assert "Seven bytes." in out and "predicted for cpu before, and kept" in out
    assert out.startswith("fits this machine: ") and "held by the allocator" not in out
    for job in toggles:
        keep(job.key, Kept(result=result))
    assert main(["predict", "tiny-demo", "--changes", "--json"]) == 0
    told = document(capsys)["changes"]
    assert {change["peak"]["allocated"] for change in told if change["peak"]} == {7}


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        ("h100", "", "did you mean 'h100-80gb', 'h100-nvl' or 'h100-pcie'?"),
        ("rtx-4090", "max_split_size_mb:x", "PYTORCH_CUDA_ALLOC_CONF: 'x': expected an integer"),
    ],
)
def test_what_is_wrong_is_told_before_an_engine_starts(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, target: str, settings: str, words: str
) -> None:
    monkeypatch.setattr("memwb.workbench.headless.predict.engine", lambda: pytest.fail("started"))
    if settings:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", settings)
    assert main(["predict", "tiny-demo", "--target", target]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("how", ["unpredicted", "dies predicting"])
def test_what_cannot_be_predicted_is_told(bursts: Any, capsys: Out, how: str) -> None:
    bursts(how)
    code = main(["predict", "tiny-demo", "--json"])
    err = capsys.readouterr().err
    assert code == (2 if how == "unpredicted" else 1)
    assert ("lora: why" if code == 2 else "The engine died") in err
    assert "Traceback" not in err


def test_the_exit_code_can_tell_that_it_exceeds(bursts: Any, capsys: Out) -> None:
    bursts("exceeds")
    assert main(["predict", "tiny-demo"]) == 0
    capsys.readouterr()
    assert main(["predict", "tiny-demo", "--fail-if-exceeds"]) == 3
    out, err = capsys.readouterr()
    assert out.startswith("exceeds this machine: 16.0 GiB too little\n")
    assert "memwb: exceeds this machine: 16.0 GiB too little; the exit code is 3" in err
    bursts("done")
    assert main(["predict", "tiny-demo", "--fail-if-exceeds"]) == 0


def test_a_run_keeps_what_was_predicted_and_tells_both(bursts: Any, capsys: Out) -> None:
    assert main(["run", "tiny-demo"]) == 0
    out, err = capsys.readouterr()
    assert "predicted: 100 B allocated in loss" in err
    assert out.split("allocated", 1)[1].split()[:5] == ["110", "B", "100", "B", "1.100"]
    assert [run.predicted.allocated for run in list_runs() if run.predicted] == [100]
    assert main(["runs", "show", "1"]) == 0
    assert "1.100" in capsys.readouterr().out
    assert main(["run", "tiny-demo", "-o", "lora=on"]) == 0
    capsys.readouterr()
    assert main(["runs", "compare", "1", "2"]) == 0
    assert "measured / predicted" in capsys.readouterr().out
    assert main(["runs", "compare", "1", "2", "--json"]) == 0
    assert document(capsys)["predicted"] == [100, 100]


@pytest.mark.parametrize("how", ["unpredicted", "no answer"])
def test_a_run_does_not_need_a_prediction(
    bursts: Any, capsys: Out, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memwb.workbench.headless.run.PATIENCE", 0.1)
    bursts(how)
    assert main(["run", "tiny-demo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["predicted"] is None
    assert ("not predicted within 0.1 s" in err) == (how == "no answer")


class Terminal:
    """A standard input on which somebody answers."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked = 0

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self.asked += 1
        return self.answer + "\n"


@pytest.mark.parametrize(
    ("answer", "words", "runs"), [("n", [], 0), ("", [], 0), ("y", [], 1), ("n", ["--yes"], 1)]
)
def test_a_plan_that_will_not_fit_is_asked_about_on_a_terminal(
    bursts: Any,
    capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    words: list[str],
    runs: int,
) -> None:
    bursts("exceeds")
    terminal = Terminal(answer)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["run", "tiny-demo", *words]) == (0 if runs else 130)
    err = capsys.readouterr().err
    assert "predicted 32.0 GiB, this machine has 16.0 GiB" in err
    assert len(list_runs()) == runs
    assert terminal.asked == (0 if words else 1)


def test_on_a_terminal_a_slow_prediction_is_waited_for(
    bursts: Any, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memwb.workbench.headless.run.PATIENCE", 0.05)
    bursts("exceeds late")
    assert main(["run", "tiny-demo"]) == 0
    assert "not predicted within 0.05 s" in capsys.readouterr().err
    terminal = Terminal("n")
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["run", "tiny-demo"]) == 130
    err = capsys.readouterr().err
    assert "predicting … (for at most 30 s)" in err and terminal.asked == 1
    assert len(list_runs()) == 1


def test_without_a_terminal_it_is_warned_of_and_runs(bursts: Any, capsys: Out) -> None:
    bursts("exceeds")
    assert main(["run", "tiny-demo"]) == 0
    assert "warning: predicted 32.0 GiB" in capsys.readouterr().err
    assert len(list_runs()) == 1


def test_an_exported_script_says_what_was_predicted_of_a_run_that_failed(
    bursts: Any, capsys: Out, tmp_path: Path
) -> None:
    bursts("oom")
    assert main(["run", "tiny-demo"]) == 3
    assert main(["export", "tiny-demo", str(tmp_path / "out")]) == 0
    script = (tmp_path / "out" / "train.py").read_text()
    assert "Not measured yet. Predicted for a test's CPU: peak 100 B allocated" in script


def test_an_exported_script_tells_a_prediction_that_is_kept(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMWB_ENGINE", raising=False)
    plan = load_plan("tiny-demo")
    assert main(["export", "tiny-demo", str(tmp_path / "before")]) == 0
    assert "# Not measured.\n" in (tmp_path / "before" / "train.py").read_text()
    peak = Peak(2**20, 2**21, 2**22, "loss", Categories(2**20))
    result = Prediction(
        target="t4",
        peak=peak,
        step=2,
        timeline=(),
        largest=(),
        fits=(),
        parameters=Parameters(1, 1),
        words=(),
    )
    job = Question(Predict(plan=plan_data(plan), target="t4"), device_for("auto")).own
    keep(job.key, Kept(result=result))
    assert main(["export", "tiny-demo", str(tmp_path / "after")]) == 0
    script = (tmp_path / "after" / "train.py").read_text()
    assert "Predicted for t4: peak 1.00 MiB allocated in loss, 2.00 MiB reserved" in script


def test_runs_of_before_still_load(bursts: Any, capsys: Out, home: Path) -> None:
    assert main(["run", "tiny-demo"]) == 0
    file = home / "runs" / "0001" / "summary.json"
    data = json.loads(file.read_text())
    for before in ({"predicted": None}, {}):
        data.pop("predicted", None)
        file.write_text(json.dumps(data | before))
        assert [run.outcome for run in list_runs()] == ["done"]


def test_a_narrow_terminal_has_two_lines_for_each_tensor() -> None:
    """Rather than lines that it breaks in the middle of a word; what is piped stays a line each."""
    module = "base_model.model.model.layers.*.self_attn.q_proj.base_layer.weight"
    large = Large(2**20, "weights", module, "aten.empty_like", (1536, 1536), "bfloat16", 28)
    assert largest_table([large], 0).count("\n") == largest_table([large], 200).count("\n") == 0
    narrow = largest_table([large], 80).splitlines()
    assert len(narrow) == 2 and all(len(line) <= 80 for line in narrow)
    assert "q_proj.base_layer.weight" in narrow[0] and "28 of 1536 × 1536" in narrow[1]
