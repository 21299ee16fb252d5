"""Presets: each packaged one is a plan that can run; the user's own are kept apart."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from memwb.engine import catalog, paths, plan, presets
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan

GOALS = (
    "full-finetune", "lora", "qlora", "tiny-demo", "longest-context", "smallest-memory",
    "whole-documents",
)  # fmt: skip
TABLE = [
    f"qwen2.5-{size}-{what}"
    for size in ("1.5b", "7b")
    for what in (
        "full", "lora-r4", "lora-r8", "lora-r16", "lora-r32", "full-checkpointing",
        "lora-checkpointing",
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home" / "presets"


def packaged() -> list[str]:
    return sorted(path.stem for path in presets._packaged_folder().glob("*.toml"))


def refusal(name: str, *overrides: str) -> MemwbError:
    with pytest.raises(MemwbError) as caught:
        presets.load_plan(name, overrides)
    assert caught.value.title and caught.value.fix
    return caught.value


def test_there_is_a_preset_for_each_goal_and_each_cell_of_the_table() -> None:
    assert set(presets.presets()) >= {*GOALS, *TABLE}


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_preset_can_run(name: str) -> None:
    found = presets.load_plan(name)
    assert plan.problems(found) == []
    model = catalog.resolve(found.model, found.weights)
    assert model.source == "catalogue"
    assert found.workload.sequence_length <= (model.context or 0)
    text = presets.presets()[name].read_text(encoding="utf-8")
    assert text.startswith("# Goal: ") and "# Change first: " in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("name", TABLE)
def test_the_table_s_presets_hold_its_conditions(name: str) -> None:
    found = presets.load_plan(name)
    assert (found.workload.batch_size, found.workload.sequence_length) == (1, 1024)
    assert found.workload.gradient_accumulation == 1
    assert "bf16" in found.techniques
    assert ("lora" in found.techniques) == ("lora" in name)
    assert ("activation_checkpointing" in found.techniques) == ("checkpointing" in name)
    lora = found.techniques.get("lora")
    if lora:
        rank = re.search(r"-r(\d+)$", name)
        assert lora.alpha == 2 * lora.rank
        assert rank is None or lora.rank == int(rank[1])


def test_overrides_are_applied_in_turn_and_the_outcome_is_checked() -> None:
    found = presets.load_plan("tiny-demo", ["workload.steps=3", "steps=4", "lora=on"])
    assert found.workload.steps == 4
    assert list(found.techniques) == ["lora"]
    assert "needs LoRA" in refusal("tiny-demo", "quantize_4bit=on").what


def test_an_unknown_preset_is_told_the_nearest() -> None:
    error = refusal("tiny-dmo")
    assert "did you mean 'tiny-demo'?" in error.what


def test_a_file_is_read_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('model = "gpt2"\n')
    (tmp_path / "bare").write_text('model = "gpt2"\n')
    (tmp_path / "lora").write_text('model = "gpt2"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine.toml", "./mine.toml", "~/mine.toml", "bare", "./lora"):
        assert presets.load_plan(name).model == "gpt2"
    assert presets.load_plan("lora").model == "qwen2.5-1.5b"


def test_a_missing_or_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    for name in ("gone.toml", str(tmp_path / "gone"), "~/gone.toml", "~nobody/x.toml"):
        assert "There is no file" in refusal(name).title
    (tmp_path / "folder.toml").mkdir()
    for folder in (tmp_path, tmp_path / "folder.toml"):
        told = refusal(str(folder))
        assert "cannot be read" in told.title and told.what == "Is a directory"
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    told = refusal(str(tmp_path / "bytes.toml"))
    assert "cannot be read" in told.title and told.what == "it is not UTF-8 text"
    refusal("x" * 10_000)
    refusal("a\0b")
    refusal("a\0b.toml")


def test_saving_and_loading_gives_the_same_plan(user: Path) -> None:
    for name in packaged():
        found = presets.load_plan(name)
        file = presets.save_preset("mine", found)
        assert file == user / "mine.toml"
        assert presets.load_plan("mine") == found


def test_saving_over_a_packaged_name_keeps_the_packaged_file_and_its_comments(user: Path) -> None:
    origin = presets.presets()["lora"]
    before = origin.read_bytes()
    changed = presets.load_plan("lora", ["lora.rank=4", "lora.alpha=8", "attention=on"])
    assert presets.save_preset("lora", changed) == user / "lora.toml"
    assert origin.read_bytes() == before
    assert presets.presets()["lora"] == user / "lora.toml"
    assert presets.load_plan("lora") == changed
    text = (user / "lora.toml").read_text()
    assert "# Goal: adapt a model of 1.5 billion" in text
    assert "# The usual alpha: twice the rank." in text


def test_a_user_s_own_comments_survive_every_later_save(user: Path) -> None:
    presets.save_preset("mine", presets.load_plan("tiny-lora"))
    file = user / "mine.toml"
    file.write_text("# why I chose this\n" + file.read_text())
    presets.save_preset("mine", presets.load_plan("mine", ["lora=off", "sgd=on"]))
    presets.save_preset("mine", presets.load_plan("mine", ["steps=2"]))
    assert file.read_text().startswith("# why I chose this\n")
    found = presets.load_plan("mine")
    assert (found.workload.steps, "sgd" in found.techniques) == (2, True)
    assert "lora" not in found.techniques


def test_a_preset_that_is_no_longer_toml_can_be_saved_over(user: Path) -> None:
    user.mkdir(parents=True)
    (user / "mine.toml").write_bytes(b"\xff = = [")
    presets.save_preset("mine", Plan(model="gpt2"))
    assert presets.load_plan("mine") == Plan(model="gpt2")


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../a", "a\\b", ".", "..", ".a", "a.toml", "a.TOML", "-a", "a\n", "a b", "x" * 101,
     "a\0", "ü"],
)  # fmt: skip
def test_a_name_that_cannot_be_a_file_s_is_refused(name: str, user: Path) -> None:
    with pytest.raises(MemwbError) as caught:
        presets.save_preset(name, Plan(model="gpt2"))
    assert "cannot be a preset's name" in caught.value.title
    assert not user.exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(user: Path) -> None:
    user.parent.mkdir()
    user.write_text("a file where the folder should be")
    with pytest.raises(MemwbError) as caught:
        presets.save_preset("mine", Plan(model="gpt2"))
    assert "was not saved" in caught.value.title and str(user) in caught.value.what


def test_a_save_that_fails_leaves_the_old_file_and_no_other(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets.save_preset("mine", Plan(model="gpt2"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MemwbError):
        presets.save_preset("mine", Plan(model="tiny"))
    assert [file.name for file in user.iterdir()] == ["mine.toml"]
    assert presets.load_plan("mine").model == "gpt2"


def test_where_the_user_s_files_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.home() == tmp_path / "home"
    assert paths.runs_folder() == tmp_path / "home" / "runs"
    assert paths.settings_file() == tmp_path / "home" / "settings.toml"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEMWB_HOME", "~/elsewhere")
    assert paths.home() == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMWB_HOME", "here")
    assert paths.home() == tmp_path / "here"
    monkeypatch.delenv("MEMWB_HOME")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert tmp_path in paths.home().parents and paths.home().name == "memwb"
    assert tmp_path in paths.settings_file().parents
    assert paths.settings_file().name == "settings.toml"


def test_an_override_does_not_undo_another_in_silence() -> None:
    with pytest.raises(MemwbError, match=r"-o lora=on and -o ia3=on: only one of Adapters"):
        presets.load_plan("tiny-demo", ["lora=on", "ia3=on"])
    # What the plan itself had on makes room, and an off is meant.
    assert "sgd" in presets.load_plan("tiny-demo", ["adamw=on", "adamw=off", "sgd=on"]).techniques
