"""The pure core of the meters, worked by hand."""

from __future__ import annotations

import random

from memwb.engine.protocol import CATEGORIES
from memwb.engine.trainer.alive import Birth, Origin
from memwb.engine.trainer.history import History, Note
from memwb.engine.trainer.trace import (
    ACTIVATIONS,
    GRADIENTS,
    OPTIMIZER,
    TEMPORARY,
    WEIGHTS,
    Pulse,
    Reading,
    Row,
    Trace,
    downsample,
    higher,
    samples,
)


def by_name(row: Row) -> dict[str, int]:
    return {name: size for name, size in zip(CATEGORIES, row.totals, strict=True) if size}


def test_categories_hold_from_birth() -> None:
    trace = Trace()
    trace.mark(0.0, 0, "load")
    trace.change(0.1, 1, 100)  # will be a weight
    trace.change(0.2, 2, 30)  # a buffer of the loading
    trace.free(0.3, 2)
    trace.label(1, WEIGHTS)
    assert [by_name(row) for row in trace.settle()] == [
        {},
        {"weights": 100},
        {"weights": 100, "temporary": 30},
        {"weights": 100},
    ]
    trace.mark(1.0, 1, "forward")
    trace.change(1.1, 3, 50)  # kept for backward
    trace.change(1.2, 4, 7)  # freed within forward
    trace.free(1.3, 4)
    trace.mark(1.4, 1, "loss")
    trace.change(1.5, 5, 4)  # the loss
    trace.mark(1.6, 1, "backward")
    trace.change(1.7, 6, 100)  # will be a gradient
    trace.change(1.8, 7, 9)  # computed again in backward
    trace.free(1.9, 3)
    trace.label(6, GRADIENTS)
    trace.free(2.0, 7)
    trace.mark(2.1, 1, "optimizer")
    trace.change(2.2, 8, 200)  # will be the optimizer's state
    trace.free(2.3, 6)
    trace.label(8, OPTIMIZER)
    rows = trace.settle()
    assert [by_name(row) for row in rows] == [
        {"weights": 100},
        {"weights": 100, "activations": 50},
        {"weights": 100, "activations": 50, "temporary": 7},
        {"weights": 100, "activations": 50},
        {"weights": 100, "activations": 50},
        {"weights": 100, "activations": 54},
        {"weights": 100, "activations": 54},
        {"weights": 100, "gradients": 100, "activations": 54},
        {"weights": 100, "gradients": 100, "activations": 54, "temporary": 9},
        {"weights": 100, "gradients": 100, "activations": 4, "temporary": 9},
        {"weights": 100, "gradients": 100, "activations": 4},
        {"weights": 100, "gradients": 100, "activations": 4},
        {"weights": 100, "gradients": 100, "optimizer": 200, "activations": 4},
        {"weights": 100, "optimizer": 200, "activations": 4},
    ]
    at = higher(rows, None)
    assert at is not None
    top = rows[at]
    assert top is not None and (top.total, top.phase) == (404, "optimizer")


def test_a_forward_pass_cut_short_holds_activations() -> None:
    """Out of memory in forward: what it still holds was kept for backward."""
    trace = Trace()
    trace.mark(0.0, 1, "forward")
    trace.change(0.1, 1, 50)
    trace.change(0.2, 2, 7)
    trace.free(0.3, 2)
    trace.mark(0.4, 1, "loss")
    trace.change(0.5, 3, 4)
    rows = [by_name(row) for row in trace.settle()]
    assert rows[2] == {"activations": 50, "temporary": 7}
    assert rows[-1] == {"activations": 54}


def test_each_micro_batch_has_its_own_activations() -> None:
    trace = Trace()
    for micro in (0, 10):
        trace.mark(micro + 0.0, 1, "forward")
        trace.change(micro + 0.1, micro + 1, 8)
        trace.mark(micro + 0.2, 1, "backward")
        trace.change(micro + 0.3, micro + 2, 5)  # a gradient, or its summand
        trace.free(micro + 0.4, micro + 1)
        if micro:
            trace.free(micro + 0.5, micro + 2)
        else:
            trace.label(micro + 2, GRADIENTS)
    rows = trace.settle()
    assert max(row.totals[ACTIVATIONS] for row in rows) == 8
    assert by_name(rows[-2]) == {"gradients": 5, "temporary": 5}
    assert by_name(rows[-1]) == {"gradients": 5}


def test_a_storage_may_grow_and_shrink() -> None:
    trace = Trace()
    trace.mark(0.0, 1, "forward")
    trace.change(0.1, 1, 10)
    trace.change(0.2, 1, 30)
    trace.change(0.3, 1, -40)
    trace.mark(0.4, 1, "backward")
    trace.change(0.5, 1, 6)
    trace.free(0.6, 1)
    assert [row.total for row in trace.settle()] == [0, 10, 40, 0, 0, 6, 0]


def test_sum_of_categories_is_the_total_for_any_course_of_events() -> None:
    chance = random.Random(0)
    for _ in range(50):
        trace, sizes, expected = Trace(), {}, []
        for step in range(3):
            for moment in range(100):
                roll = chance.random()
                if roll < 0.1:
                    trace.mark(moment, step, chance.choice(["forward", "loss", "backward"]))
                elif roll < 0.6 or not sizes:
                    name = len(expected) + 1000 * step + 1
                    sizes[name] = chance.randrange(1, 1000)
                    trace.change(moment, name, sizes[name])
                elif roll < 0.7:
                    trace.label(chance.choice(list(sizes)), chance.randrange(3))
                    continue
                else:
                    name = chance.choice(list(sizes))
                    trace.free(moment, name)
                    del sizes[name]
                assert sum(trace.live) == sum(sizes.values())
                expected.append(sum(sizes.values()))
            rows = trace.settle()
            assert [row.total for row in rows] == expected[-len(rows) :]
            assert all(size >= 0 for row in rows for size in row.totals)
            assert sum(trace.live) == sum(sizes.values())


def test_downsampling_keeps_every_phase_and_every_spike() -> None:
    phases = [(name, 2000) for name in ("forward", "loss", "backward", "optimizer")]
    rows, spikes = [], {500, 3333, 7999, 6001}
    for name, count in phases:
        for _ in range(count):
            at = len(rows)
            total = 10_000 + at if at in spikes else at % 7
            rows.append(Row(at / 100, 1, name, (0, 0, 0, 0, total)))
    kept = downsample(rows, 400)
    assert 300 < len(kept) <= 400
    assert kept == sorted(kept, key=lambda row: row.time)
    assert {row.total for row in kept} >= {10_000 + at for at in spikes}
    for name, _ in phases:
        of_phase = [row for row in rows if row.phase == name]
        ours = [row for row in kept if row.phase == name]
        assert ours[0] == of_phase[0] and ours[-1] == of_phase[-1]
    many = [Row(at, 1, ("forward", "backward")[at % 2], (0, 0, 0, 0, at)) for at in range(5000)]
    assert len(downsample(many, 400)) <= 400
    assert many[-1] in downsample(many, 400) and many[-2] in downsample(many, 400)
    assert downsample(rows[:3]) == rows[:3]


def test_live_rows_keep_the_highest_of_each_interval() -> None:
    sent: list[list[Row]] = []
    trace = Trace()
    pulse = Pulse(sent.append, interval=1.0)
    sizes = [5, 90, 5, 7, 3, 50, 2]
    trace.mark(10.0, 1, "backward")
    for index, size in enumerate(sizes):
        now = 10.1 + index * 0.3
        trace.change(now, index + 1, size)
        pulse.beat(now, trace)
        trace.free(now, index + 1)
        pulse.beat(now, trace)
    pulse.flush(12.0, trace)
    assert [[row.total for row in rows] for rows in sent] == [[5], [90, 3], [50, 0]]


def test_samples_carry_the_last_reading() -> None:
    rows = [Row(time, 1, "forward", (1, 2, 3, 4, 5)) for time in (0.5, 1.5, 2.5)]
    made = samples(rows, [Reading(0.0, 100, 200), Reading(1.0, 110, 210), Reading(2.0, 90, 220)])
    assert [(s.allocated, s.reserved, s.device) for s in made] == [
        (15, 100, 200),
        (15, 110, 210),
        (15, 90, 220),
    ]
    assert samples(rows, [Reading(0.0, -1, 7)])[0].reserved == 15


def entry(action: str, time_us: int, addr: int = 0, size: int = 0) -> dict[str, object]:
    """As torch.cuda.memory._snapshot() gives it, with the keys that are of no use to us."""
    return {
        "action": action,
        "addr": addr,
        "size": size,
        "stream": 0,
        "time_us": time_us,
        "compile_context": "N/A",
        "user_metadata": "",
    }


def test_cuda_history_by_hand() -> None:
    trace = Trace()
    history = History(trace, origin_us=1_000_000)
    history.feed(
        [
            entry("free_requested", 1_000_010, 0xDEAD, 64),  # older than the history
            entry("segment_alloc", 1_000_100, 0x1000, 2 << 20),
            entry("alloc", 1_000_101, 0x1000, 1000),
            entry("alloc", 1_000_102, 0x2000, 1),
            entry("free_requested", 1_000_200, 0x2000, 1),
            entry("free_completed", 1_000_200, 0x2000, 1),
        ],
        [Note(1_000_001, step=0, phase="load"), Note(1_000_300, address=0x1000, category=WEIGHTS)],
    )
    rows = trace.settle()
    # 1000 bytes take two blocks of 512, one byte takes one.
    assert [by_name(row) for row in rows] == [
        {},
        {"weights": 1024},
        {"weights": 1024, "temporary": 512},
        {"weights": 1024},
    ]
    assert rows[1].time == 0.000101 and rows[1].phase == "load"
    assert history.reserved == 2 << 20
    history.feed(
        [
            entry("alloc", 2_000_000, 0x2000, 600),  # at the mark's very time: of the phase
            entry("alloc", 2_000_050, 0x3000, 512),
            entry("free_requested", 2_000_060, 0x3000, 512),
            entry("alloc", 2_000_110, 0x3000, 512),  # the address again: a gradient now
            entry("free_requested", 2_000_130, 0x2000, 600),
            entry("segment_free", 2_000_140, 0x1000, 2 << 20),
            entry("oom", 2_000_150, 0, 1 << 40),
        ],
        [
            Note(2_000_000, step=1, phase="forward"),
            Note(2_000_100, step=1, phase="backward"),
            Note(2_000_110, address=0x3000, category=GRADIENTS),
            Note(2_000_120, address=0x9999, category=GRADIENTS),  # not the allocator's
            Note(2_000_135, step=1, phase="optimizer"),
        ],
    )
    rows = trace.settle()
    assert [(row.phase, by_name(row)) for row in rows] == [
        ("forward", {"weights": 1024}),
        ("forward", {"weights": 1024, "activations": 1024}),
        ("forward", {"weights": 1024, "activations": 1024, "temporary": 512}),
        ("forward", {"weights": 1024, "activations": 1024}),
        ("backward", {"weights": 1024, "activations": 1024}),
        ("backward", {"weights": 1024, "gradients": 512, "activations": 1024}),
        ("backward", {"weights": 1024, "gradients": 512}),
        ("optimizer", {"weights": 1024, "gradients": 512}),
    ]
    assert history.reserved == 0


def test_cuda_history_tells_whose_blocks_they_are() -> None:
    """Tensors by the address at which an operator put them; the first maker counts."""
    trace = Trace()
    history = History(trace, origin_us=0)
    mm = Origin("layers.0", "aten.mm", (2, 125), "float32")
    view, other = mm._replace(op="aten.view"), mm._replace(op="aten.add", shape=(1,))
    history.feed(
        [
            entry("alloc", 10, 0x1000, 1000),
            entry("alloc", 20, 0x2000, 8_519_680),  # a library's workspace: of no operator
            entry("alloc", 30, 0x3000, 4),
            entry("free_requested", 40, 0x3000, 4),
            entry("alloc", 50, 0x3000, 12),
        ],
        [
            Note(1, step=1, phase="backward"),
            Note(12, address=0x1000, origin=mm, size=1000),
            Note(14, address=0x1000, origin=view, size=1000),
            Note(32, address=0x3000, origin=other, size=4),
            Note(45, failed=True),
            Note(60, address=0x1000, category=GRADIENTS),
            Note(61, address=0x1000, title="layers.0.weight"),
            Note(62, address=0x9999, origin=other, size=4),  # not the allocator's
        ],
    )
    trace.settle()
    named = Birth(GRADIENTS, "layers.0.weight", *mm[1:])
    assert history.members(3) == [(1000, named), (4, Birth(TEMPORARY, *other))]
    assert history.members(1) == [(1000, named)]
    # When it failed the last tensor was gone, and its address not used again.
    assert trace.failed == 4 and history.members(4) == [(1000, named)]
    assert history.members(5) == [(1000, named)]
    history.forget()
    history.feed([entry("free_requested", 70, 0x1000, 1000)], [Note(65, step=2, phase="forward")])
    trace.settle()
    assert history.members(0) == [(1000, named)] and history.members(1) == []
