"""Asks for a plan and its toggles as the engine is asked, and for each of those plans alone.

Prints a JSON object: by technique (the plan's own under "") the peaks of both, in bytes.
"""

from __future__ import annotations

import json
import os
import sys
from selectors import DefaultSelector
from typing import Any

TOGGLED = (
    "activation_checkpointing",
    "adamw_8bit",
    "lora",
    "packing",
    "quantize_4bit",
)


def main() -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from memwb.engine import question
    from memwb.engine.toggles import changes

    data = json.loads(sys.argv[1])
    question.changes = lambda *asked: (  # type: ignore[assignment]
        each for each in changes(*asked) if each.technique in TOGGLED
    )
    found = {name: [peak, alone(plan)] for name, (peak, plan) in together(data).items()}
    print(json.dumps(found), file=told, flush=True)


def together(data: Any) -> dict[str, Any]:
    """By technique the peak as the engine tells it, and the plan."""
    from memwb.engine.devices import device_for
    from memwb.engine.plan import override, plan_from
    from memwb.engine.protocol import AllPredicted, Event, Predict, Predicted, Toggled
    from memwb.engine.trainer.predictions import Predictions

    events: list[Event] = []
    with DefaultSelector() as selector:
        asked = Predictions(events.append, selector, lambda: ())
        asked.begin(Predict(data, target="rtx-4090", changes=True), device_for("cpu"))
        while not any(isinstance(event, AllPredicted) for event in events):
            selector.select(1.0)
            asked.turn()
    found: dict[str, Any] = {}
    for event in events:
        plan = plan_from(data)
        if isinstance(event, Predicted):
            found[""] = (event.result.peak.allocated, plan)
        elif isinstance(event, Toggled) and event.change.peak is not None:
            for edit in event.change.overrides:
                plan = override(plan, edit)
            found[event.change.technique] = (event.change.peak.allocated, plan)
    return found


def alone(plan: Any) -> int:
    """The peak of a plan that is predicted for itself, one depth after the other, in a fork."""
    from memwb.engine.predict.beside import beside
    from memwb.engine.predict.predictor import predict

    with beside(lambda: predict(plan, "rtx-4090").peak.allocated) as begun:
        return begun.result()


if __name__ == "__main__":
    main()
