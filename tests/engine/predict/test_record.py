"""A run on the meta device is noted as a trace would have it: the same moments and categories."""

from __future__ import annotations

import random

import pytest

from memwb.engine.predict.record import Record
from memwb.engine.trainer.alive import Origin
from memwb.engine.trainer.trace import (
    ACTIVATIONS,
    CATEGORIES,
    GRADIENTS,
    MARK,
    OPTIMIZER,
    TEMPORARY,
    WEIGHTS,
    Trace,
)

PHASES = ("forward", "loss", "backward", "optimizer")


@pytest.mark.parametrize("seed", range(20))
def test_a_record_tells_what_a_trace_tells(seed: int) -> None:
    draw = random.Random(seed)
    record, trace = Record(), Trace()
    sizes: dict[int, int] = {}
    names, expected, marks = 0, [], [(0, "load")]
    births: dict[int, Origin] = {}
    seen: dict[int, int] = {}
    record.mark(0, "load")
    trace.mark(0.0, 0, "load")
    for step in range(3):
        for _ in range(120):
            action = draw.random()
            if action < 0.1 and step:
                marks.append((step, draw.choice(PHASES)))
                record.mark(*marks[-1])
                trace.mark(0.0, *marks[-1])
            elif action < 0.5 or not sizes:
                names += 1
                sizes[names] = size = draw.randint(1, 9)
                births[names] = Origin("", "aten.mm", (size,), "uint8")
                record.storages.append(names)
                record.changes.append(size)
                trace.change(0.0, names, size)
            elif action < 0.8:
                name = draw.choice(list(sizes))
                record.storages.append(name)
                record.changes.append(-sizes.pop(name))
                trace.free(0.0, name)
            else:
                name = draw.choice(list(sizes))
                category = draw.choice((WEIGHTS, GRADIENTS, OPTIMIZER))
                record.label(name, category)
                trace.label(name, category)
        record.settle()
        moments, categories = trace.resolve()
        expected += [moment[1:] for moment in moments]
        for name, category in categories.items():
            if name != MARK and seen.get(name, TEMPORARY) == TEMPORARY:
                seen[name] = category
    stream = record.stream(births, {1: "a better name"})
    assert [moment[1:] for moment in stream.moments] == expected
    assert {name: birth.category for name, birth in stream.births.items()} == seen
    assert stream.births[1].module == "a better name"
    assert set(seen.values()) >= {WEIGHTS, ACTIVATIONS, TEMPORARY} and len(CATEGORIES) == 5


def test_what_never_had_a_byte_is_nothing_in_particular() -> None:
    record = Record()
    record.mark(0, "load")
    record.label(1, WEIGHTS)
    record.settle()
    stream = record.stream({1: Origin("", "aten.empty", (0,), "uint8")}, {})
    assert stream.births[1].category == TEMPORARY
