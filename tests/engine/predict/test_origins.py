"""Where a tensor was made: told also of those that no module's forward made."""

from __future__ import annotations

import pytest

from memwb.engine.plan import plan_from
from memwb.engine.predict.predictor import whole
from memwb.engine.predict.targets import target_named


@pytest.mark.parametrize(
    "loss", [{}, {"chunked_cross_entropy": {}}, {"linear_cross_entropy": {}}], ids=str
)
def test_whatever_loss_and_backward_make_has_a_place(loss: dict[str, object]) -> None:
    work = {"sequence_length": 64, "batch_size": 2}
    plan = plan_from({"model": "tiny", "techniques": {"bf16": {}, **loss}, "workload": work})
    stream = whole(plan, target_named("rtx-4090")).stream
    made = [
        (moment.phase, stream.births[moment.storage])
        for moment in stream.moments
        if moment.change > 0 and moment.phase in ("loss", "backward")
    ]
    # But for the 1 that backward begins with.
    assert [one for _, one in made if not one.module and one.shape] == []
    assert {phase for phase, one in made if one.module == "loss"} == {"loss", "backward"}
    assert any(one.module == "lm_head" for phase, one in made if phase == "loss")
