"""How long rows are in a prediction: as in a burst, by the model's tokenizer where it is here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwb.engine import catalog
from memwb.engine.plan import Plan, override, plan_data, plan_from
from memwb.engine.predict import documents
from memwb.engine.predict.predictor import predict
from memwb.engine.prediction import Prediction
from memwb.engine.prediction_cache import key_of
from memwb.engine.protocol import Event, Start, Timeline
from memwb.engine.trainer.burst import run_plan

TEXT = "\n\n".join("memory is what training runs out of " * times for times in (1, 4, 2, 3, 1, 2))


@pytest.fixture
def base(checkpoint: Path, tmp_path: Path) -> Plan:
    """A plan over a model with a tokenizer, and a few documents that are not of a length."""
    data = tmp_path / "text.txt"
    data.write_text(TEXT)
    work = {"sequence_length": 64, "batch_size": 2, "steps": 3, "data": str(data)}
    return plan_from({"model": str(checkpoint), "weights": "random", "workload": work})


def measured(plan: Plan) -> dict[str, int]:
    """The most of each phase of a burst on the CPU."""
    found: dict[str, int] = {}

    def hear(event: Event) -> None:
        if isinstance(event, Timeline):
            for one in event.samples:
                key = f"{one.step}/{one.phase}"
                found[key] = max(found.get(key, 0), one.allocated)

    ended = run_plan(Start(plan_data(plan), device="cpu"), hear)
    assert ended.outcome == "done", ended
    return found


def told(found: Prediction) -> dict[str, int]:
    most: dict[str, int] = {}
    for point in found.timeline:
        key = f"{point.step}/{point.phase}"
        most[key] = max(most.get(key, 0), point.allocated)
    return most


@pytest.mark.parametrize("technique", ["concatenation", "padding", "length_grouping", "packing"])
def test_rows_are_as_long_as_in_a_burst(base: Plan, technique: str) -> None:
    plan = override(base, f"{technique}=on")
    found = predict(plan, "cpu")
    assert told(found) == measured(plan)
    assert not any("bytes" in note for note in found.notes)


def test_a_tokenizer_that_is_not_here_is_said(
    base: Plan, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model of the hub whose weights and tokenizer would be downloaded."""
    padded = override(base, "padding=on")
    hub = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    model = catalog.resolve(padded.model, "random")
    far = catalog.Model(**{**_fields(model), "tokenizer": "someone/something"})
    monkeypatch.setattr(catalog, "resolve", lambda *_, **__: far)
    before = key_of(padded, far, "h200")
    notes = predict(padded, "h200").notes
    assert any("bytes" in note and "someone/something" in note for note in notes)
    # Where rows are full in any case nothing is missing.
    full = override(base, "concatenation=on")
    assert not any("bytes" in note for note in predict(full, "h200").notes)
    # The tokenizer arrives in the cache, before anything else does.
    snapshot = hub / "models--someone--something" / "snapshots" / "a1"
    snapshot.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, snapshot / name)
    here = predict(padded, "h200")
    assert not any("bytes" in note for note in here.notes)
    assert key_of(padded, far, "h200") != before


def _fields(model: catalog.Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__struct_fields__}


def test_a_gpu_needs_no_more_than_two_steps_of_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "text.txt"
    # Of 100 characters each, with the end of a line.
    data.write_text("\n\n".join(["x" * 99] * 1000))
    work = {"sequence_length": 50, "batch_size": 2, "steps": 200, "data": str(data)}
    plan = plan_from({"model": "tiny", "workload": work})
    read: list[int] = []
    original = documents._read

    def counted(*args: Any) -> Iterator[Any]:
        read.append(0)
        for document in original(*args):
            read[-1] += 1
            yield document

    monkeypatch.setattr(documents, "_read", counted)
    predict(plan, "h200")
    assert read == [2]
    # A CPU holds the table of all tokens, four bytes each; and so much is in the prediction.
    few, more = (predict(override(plan, f"workload.steps={n}"), "cpu") for n in (100, 200))
    assert read[1:] == [100, 200]
    assert more.peak.allocated - few.peak.allocated == 4 * 100 * 2 * 50


def test_documents_are_read_again_where_the_file_has_changed(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("a" * 200)
    work = {"sequence_length": 64, "batch_size": 2, "steps": 2, "data": str(data)}
    plan = plan_from({"model": "tiny", "workload": work, "techniques": {"padding": {}}})
    before = predict(plan, "cpu")
    assert predict(plan, "cpu").peak == before.peak
    data.write_text("b" * 20 + "\n\n" + "c" * 10)
    assert predict(plan, "cpu").peak.allocated < before.peak.allocated


def test_a_tokenizer_of_another_model_is_refused_as_in_a_burst(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    work = {"sequence_length": 16, "batch_size": 1, "steps": 2}
    plan = plan_from({"model": str(folder), "weights": "random", "workload": work})
    with pytest.raises(Exception, match="do not belong together"):
        predict(override(plan, "padding=on"), "h200")
