"""The command line's lists: models, techniques, GPUs, presets; and each of them in full."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.technique import techniques
from memwb.workbench.cli import main

Out = pytest.CaptureFixture[str]


def document(out: Out) -> Any:
    return json.loads(out.readouterr().out)


def test_the_lists_and_their_json(capsys: Out) -> None:
    for words in (["techniques"], ["models"], ["presets"], ["locate"], ["doctor"], ["runs"]):
        assert main(words) == 0, words
        assert capsys.readouterr().out.strip()
        assert main([*words, "--json"]) == 0
        assert isinstance(document(capsys), list | dict)


def test_a_home_that_cannot_be_looked_into_is_no_fault(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As where one may not look: asking for it raises, and it does so for whoever runs the tests.
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path / ("x" * 300)))
    assert [main([word]) for word in ("locate", "presets", "doctor", "runs")] == [0, 0, 1, 2]
    assert "The runs cannot be listed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("home", "reason"),
    [
        ("x" * 300, "File name too long"),
        ("not/there/yet/" + "x" * 300, "File name too long"),
        ("file/home", "Not a directory"),
        ("fine", ""),
        ("shut", "Read-only file system"),
    ],
)
def test_the_doctor_says_which_folder_takes_no_files_and_why(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path / home))
    if home == "shut":  # whatever the tests' user may do

        def refuse(**_: object) -> None:
            raise OSError(errno.EROFS, reason)

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code = main(["doctor"])
    text = capsys.readouterr().out
    assert code == (1 if reason else 0)
    assert (f"✗ {tmp_path / home} (home) cannot be written to: {reason}" in text) == bool(reason)
    assert ("MEMWB_HOME=FOLDER" in text) == bool(reason)
    assert main(["doctor", "--json"]) == code
    assert bool(document(capsys)["problems"]) == bool(reason)


@pytest.mark.parametrize("name", techniques())
def test_a_technique_in_full(name: str, capsys: Out) -> None:
    assert main(["techniques", name]) == 0
    text = capsys.readouterr().out
    assert main(["techniques", name, "--json"]) == 0
    found = document(capsys)
    assert found["name"] == name
    for part in (found["saves"], found["costs"], found["not_when"], found["source"]):
        assert part in text
    for parameter in found["parameters"]:
        assert parameter["name"] in text


def test_a_technique_is_reckoned_for_a_plan(capsys: Out) -> None:
    words = ["techniques", "bf16", "tiny-lora", "-o", "model=gpt2", "-o", "lora.rank=4"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "gpt2" in text and "477 MiB → " in text
    assert main([*words, "--json"]) == 0
    found = document(capsys)["arithmetic"]
    assert found["setting"].startswith("gpt2, ") and "bf16, lora (" in found["setting"]
    weights = found["effects"][0]
    assert weights["before"] - weights["after"] == 2 * 124_439_808
    assert main(["techniques", "-o", "lora=on"]) == 2
    assert main(["techniques", "bf16", "no-such-plan"]) == 2


def test_presets_are_shown_as_they_stand(capsys: Out) -> None:
    assert main(["presets", "show", "tiny-demo"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#")
    assert 'model = "tiny"' in text
    assert main(["presets", "show", "tiny-demo", "--json"]) == 0
    assert document(capsys)["plan"]["model"] == "tiny"


def test_a_preset_that_is_no_text_is_told(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path))
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.toml").write_bytes(b"\xfa\xfb")
    assert main(["presets", "show", "mine"]) == 2
    assert "it is not UTF-8 text" in capsys.readouterr().err


def test_techniques_are_told_for_a_device(capsys: Out) -> None:
    for device in ("cpu", "cuda"):
        assert main(["techniques", "tf32", "--device", device, "--json"]) == 0
        told = document(capsys)
        assert told["device"] == device
        assert told["available"] == (device == "cuda") == (not told["unavailable"])
    assert main(["techniques", "attention", "--device", "cpu"]) == 0
    assert "flex_attention not on cpu" in capsys.readouterr().out
