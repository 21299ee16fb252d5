"""What goes to the host is not on the GPU; on a CPU the host is the target, and nothing goes."""

from __future__ import annotations

import pytest

from memwb.engine.memory import Categories
from memwb.engine.plan import override, plan_from
from memwb.engine.predict.predictor import predict

PLAN = plan_from(
    {
        "model": "tiny",
        "techniques": {"bf16": {}},
        "workload": {"batch_size": 4, "sequence_length": 256, "steps": 2},
    }
)
LEAST = "activation_offload.min_size=0"


def categories(target: str, *overrides: str) -> Categories:
    plan = PLAN
    for each in overrides:
        plan = override(plan, each)
    return predict(plan, target).peak.categories


@pytest.mark.parametrize(
    "overrides", [("activation_offload=on", LEAST), ("checkpoint_offload=on",)], ids=str
)
def test_activations_leave_a_gpu(overrides: tuple[str, ...]) -> None:
    plain, away = categories("h200"), categories("h200", *overrides)
    # The logits are made after the decoder, whose activations are the most there is.
    assert away.activations < 0.6 * plain.activations
    assert away.weights == plain.weights


def test_activations_stay_where_the_host_is_the_target() -> None:
    assert categories("cpu", "activation_offload=on", LEAST) == categories("cpu")


def test_states_leave_a_gpu() -> None:
    assert categories("h200").optimizer > 0
    assert categories("h200", "optimizer_offload=on").optimizer == 0
