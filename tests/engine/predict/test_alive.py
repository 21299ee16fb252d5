"""What is predicted to be alive at the peak is what a burst has alive there, tensor by tensor."""

from __future__ import annotations

import pytest

from memwb.engine.plan import plan_data, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.protocol import Ended, Event, Samples, Start, Timeline, encode
from memwb.engine.trainer.burst import run_plan

PLANS: list[dict[str, object]] = [
    {},
    {"lora": {}, "bf16": {}},
    {"activation_checkpointing": {}, "sgd": {}, "chunked_cross_entropy": {}},
]


@pytest.mark.parametrize("techniques", PLANS, ids=lambda each: "+".join(each) or "full")
def test_measured_is_as_predicted(techniques: dict[str, object]) -> None:
    """Of all six layers, which the prediction folds out of a few."""
    work = {"sequence_length": 64, "batch_size": 2, "steps": 2}
    plan = plan_from({"model": "tiny", "techniques": techniques, "workload": work})
    events: list[Event] = []
    ended = run_plan(Start(plan_data(plan), device="cpu"), events.append)
    foretold, alive = predict(plan, "cpu"), ended.alive
    assert alive is not None and ended.peak is not None
    # Bytes, category, module, operator, shape, dtype and count, and the words on them.
    assert alive.largest == foretold.largest
    assert alive.words == foretold.words[:2]
    assert (alive.step, alive.phase) == (foretold.step, foretold.peak.phase)
    sums = sum(large.bytes for large in alive.largest) + alive.others
    assert sums == alive.allocated == ended.peak.allocated and alive.unexplained == 0
    # It is told once, at the end, in less than a timeline.
    sizes = [len(encode(event)) for event in events if isinstance(event, Timeline)]
    assert len(encode(ended)) < min(16_384, max(sizes))
    assert not any(hasattr(event, "alive") for event in events if isinstance(event, Samples))
    assert [event for event in events if isinstance(event, Ended)] == [ended]
