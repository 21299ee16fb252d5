"""Predictions on disk: found again when they would be the same, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memwb.engine import catalog, paths
from memwb.engine import prediction_cache as cache
from memwb.engine.errors import CannotPredict
from memwb.engine.memory import Categories, Peak
from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.prediction import Parameters, Prediction
from memwb.engine.prediction_cache import Kept, find, keep, key_of, prune

PEAK = Peak(15, 15, 15, "backward", Categories(1, 2, 3, 4, 5))
RESULT = Prediction(
    target="cpu",
    peak=PEAK,
    step=2,
    timeline=(),
    largest=(),
    fits=(),
    parameters=Parameters(7, 7),
    words=("The peak is in the backward pass.",),
)


def plan(**changes: Any) -> Plan:
    return plan_from({"model": "tiny", **changes})


def key(made: Plan, target: str = "cpu") -> str:
    return key_of(made, catalog.resolve(made.model, made.weights), target)


def entry(name: str) -> Path:
    return paths.predictions_folder() / f"{name}.json.z"


def test_what_is_kept_is_found_again_whole() -> None:
    assert find("a") is None
    keep("a", Kept(result=RESULT))
    assert find("a") == Kept(result=RESULT)
    keep("a", Kept(result=msgspec.structs.replace(RESULT, step=1)))
    found = find("a")
    assert found is not None and found.told().step == 1
    assert os.listdir(paths.predictions_folder()) == ["a.json.z"]


def test_a_refusal_is_kept_too() -> None:
    keep("a", Kept(refusal=("No", "it compiles", "Turn it off.", "torch_compile")))
    found = find("a")
    assert found is not None
    with pytest.raises(CannotPredict, match="it compiles") as caught:
        found.told()
    assert caught.value.technique == "torch_compile"


@pytest.mark.parametrize(
    "edit",
    [
        "workload.learning_rate=0.01",
        "workload.schedule=cosine",
        "workload.warmup_steps=3",
        "workload.seed=7",
        "adamw=on",
        "concatenation=on",
    ],
)
def test_what_changes_no_memory_changes_no_key(edit: str) -> None:
    assert key(override(plan(), edit)) == key(plan())


@pytest.mark.parametrize(
    "edit",
    [
        "workload.batch_size=2",
        "workload.sequence_length=77",
        "workload.gradient_accumulation=2",
        "workload.steps=1",
        "model=gpt2",
        "lora=on",
        "lora.rank=3",
        "padding=on",
    ],
)
def test_what_may_change_memory_changes_the_key(edit: str) -> None:
    assert key(override(plan(), edit)) != key(plan())


def test_the_order_of_techniques_is_no_matter() -> None:
    there, back = (
        plan(techniques={"lora": {}, "bf16": {}}),
        plan(techniques={"bf16": {}, "lora": {}}),
    )
    assert key(there) == key(back)


def test_from_the_second_on_steps_matter_only_where_the_data_lie() -> None:
    """On a CPU the table of all tokens is in the memory that is predicted."""
    few, more = (override(plan(), f"workload.steps={steps}") for steps in (2, 100))
    assert key(few, "h200") == key(more, "h200")
    assert key(few, "cpu") != key(more, "cpu")


@pytest.mark.parametrize("edit", ["workload.seed=7", "workload.steps=100"])
def test_where_the_data_decide_the_rows_their_order_matters(edit: str) -> None:
    padded = plan(techniques={"padding": {}})
    assert key(override(padded, edit)) != key(padded)


def test_the_target_and_what_it_depends_on_are_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [key(plan()), key(plan(), "h200"), key(plan(), "a100-80gb")]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    keys.append(key(plan(), "h200"))
    assert key(plan()) == keys[0], "a CPU has no such allocator"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    keys.append(key(plan(), "h200"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keys.append(key(plan(), "h200"))
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    keys.append(key(plan(), "h200"))
    assert key(plan()) == keys[0]
    monkeypatch.setattr(cache, "cpu_name", lambda: "another CPU")
    keys.append(key(plan()))
    assert len(set(keys)) == len(keys)


def test_the_content_of_the_config_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    keys = []
    for name, text in (
        ("one", '{"model_type": "llama", "hidden_size": 64}'),
        ("two", '{"hidden_size": 64, "model_type": "llama"}'),
        ("three", '{"model_type": "llama", "hidden_size": 65}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        keys.append(key(plan(model=str(tmp_path / name))))
    assert keys[0] == keys[1] != keys[2]


def test_a_tokenizer_counts_where_rows_depend_on_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    full, padded = plan(model=str(tmp_path)), plan(model=str(tmp_path), techniques={"padding": {}})
    before = [key(full, "h200"), key(full, "cpu"), key(padded, "h200")]
    (tmp_path / "tokenizer.json").write_text("{}")
    after = [key(full, "h200"), key(full, "cpu"), key(padded, "h200")]
    assert before[0] == after[0]
    assert before[1] != after[1] and before[2] != after[2]
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert key(padded, "h200") not in (before[2], after[2])


def test_a_data_file_that_was_written_anew_is_another(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("words")
    made = plan(workload={"data": str(path)})
    before = key(made)
    assert key(made) == before
    path.write_text("more words")
    assert key(made) != before


def test_other_libraries_and_other_sources_are_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(plan())
    cache.fingerprint.cache_clear()
    assert key(plan()) == before
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    cache.fingerprint.cache_clear()
    assert key(plan()) != before
    monkeypatch.undo()
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "lora.py")
    )
    cache.fingerprint.cache_clear()
    assert key(plan()) != before
    monkeypatch.undo()
    cache.fingerprint.cache_clear()
    assert key(plan()) == before


def test_what_is_not_known_here_has_no_key() -> None:
    model = catalog.resolve("tiny")
    far = msgspec.structs.replace(model, config=None)
    foreign = msgspec.structs.replace(model, config={**(model.config or {}), "auto_map": {"a": 1}})
    assert key_of(plan(), far, "cpu") == key_of(plan(), foreign, "cpu") == ""
    keep("", Kept(result=RESULT))
    assert find("") is None and not paths.predictions_folder().exists()


def test_a_damaged_entry_is_none_and_is_overwritten() -> None:
    keep("a", Kept(result=RESULT))
    whole = entry("a").read_bytes()
    flipped = whole[:40] + bytes([whole[40] ^ 255]) + whole[41:]
    for wrong in (b"", b"nonsense", whole[:-5], flipped):
        entry("a").write_bytes(wrong)
        assert find("a") is None
    keep("a", Kept(result=RESULT))
    assert find("a") == Kept(result=RESULT)


def test_a_folder_that_cannot_be_used_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMWB_HOME", str(tmp_path / "file"))
    keep("a", Kept(result=RESULT))
    assert find("a") is None
    prune()


def test_the_least_recently_used_go() -> None:
    for number, name in enumerate("abcd"):
        keep(name, Kept(result=RESULT))
        os.utime(entry(name), (number, number))
    assert find("a") is not None
    prune(2)
    assert sorted(os.listdir(paths.predictions_folder())) == ["a.json.z", "d.json.z"]


def test_the_cache_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert paths.predictions_folder() == home / "cache" / "predictions"
    monkeypatch.delenv("MEMWB_HOME")
    assert paths.predictions_folder() not in home.parents
    assert paths.predictions_folder().parts[-2:] == ("memwb", "predictions")
