"""Predictions are kept by a key: what has the same one must be the same prediction."""

from __future__ import annotations

import msgspec
import pytest

from memwb.engine import catalog
from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.prediction import Prediction
from memwb.engine.prediction_cache import key_of

PLAN = plan_from({"model": "tiny", "workload": {"sequence_length": 64}})


def key(plan: Plan, target: str) -> str:
    return key_of(plan, catalog.resolve(plan.model, plan.weights), target)


def told(plan: Plan, target: str) -> Prediction:
    return msgspec.structs.replace(predict(plan, target), seconds=0.0)


@pytest.mark.parametrize(
    ("target", "edits"),
    [
        ("cpu", ("workload.seed=7",)),
        ("cpu", ("workload.learning_rate=0.01", "workload.schedule=cosine")),
        ("h200", ("workload.steps=300", "workload.warmup_steps=3")),
        ("h200", ("adamw=on", "concatenation=on")),
    ],
)
def test_plans_of_one_key_have_one_prediction(target: str, edits: tuple[str, ...]) -> None:
    other = PLAN
    for edit in edits:
        other = override(other, edit)
    assert other != PLAN and key(other, target) == key(PLAN, target)
    assert told(other, target) == told(PLAN, target)


def test_the_data_of_a_cpu_are_of_its_memory() -> None:
    more = override(PLAN, "workload.steps=300")
    assert key(more, "cpu") != key(PLAN, "cpu")
    assert told(more, "cpu").peak.allocated > told(PLAN, "cpu").peak.allocated


@pytest.mark.parametrize(
    ("variable", "value", "target"),
    [
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8", "rtx-4090"),
        ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1", "h200"),
    ],
)
def test_a_variable_that_changes_a_prediction_changes_its_key(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, target: str
) -> None:
    plan = override(PLAN, "bf16=on")
    before = key(plan, target), told(plan, target)
    monkeypatch.setenv(variable, value)
    after = key(plan, target), told(plan, target)
    assert before[0] != after[0] and before[1] != after[1]
