"""What a burst has alive at its peak, counted by hand, and when memory runs out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module as modules

from memwb.engine.memory import Alive, Large
from memwb.engine.protocol import Device, Ended, Event
from memwb.engine.trainer.alive import MOST, Birth, Snapshot, largest_of
from memwb.engine.trainer.burst import About, run_file
from memwb.engine.trainer.causes import Model, told
from memwb.engine.trainer.cpu import CpuMeter
from memwb.engine.trainer.trace import GRADIENTS, TEMPORARY, WEIGHTS, Row, Trace, higher

CPU = About(device=Device("cpu", "test", 1))

# 8·16 and 16·1 weights, a batch of 64 rows of 8: what the layers keep is more than the rest.
SCRIPT = """
import torch

def batches():
    return torch.ones(64, 8)

def load_model():
    first = torch.nn.Linear(8, 16, bias=False)
    return torch.nn.Sequential(first, torch.nn.Sigmoid(), torch.nn.Linear(16, 1, bias=False))

def build_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)

def loss(model, batch, tokens):
    return model(batch).sum()

def train(model, optimizer, batch):
    for step in range(1, 4):
        value = loss(model, batch, 1)
        value.backward()
        optimizer.step()
        BODY
        optimizer.zero_grad(set_to_none=True)
        yield step, value.item()

def main(argv=None):
    batch = batches()
    model = load_model()
    for step, value in train(model, build_optimizer(model), batch):
        pass
"""


def ended(folder: Path, body: str = "pass") -> Ended:
    path = folder / "train.py"
    path.write_text(SCRIPT.replace("BODY", body))
    events: list[Event] = []
    run_file(path, [], events.append, CPU)
    last = events[-1]
    assert isinstance(last, Ended)
    return last


def alive(end: Ended) -> Alive:
    assert end.alive is not None
    return end.alive


def test_by_hand(tmp_path: Path) -> None:
    """In backward of step 2, as the sigmoid's is computed: its output and the gradients of it and
    of its input, 64 × 16 each; before it the last layer's weight has its gradient."""
    end = ended(tmp_path)
    found = alive(end)
    assert end.peak is not None and found.allocated == end.peak.allocated
    assert (found.step, found.phase, found.unexplained, found.more) == (2, "backward", 0, 0)
    values = 4 * 64 * 16
    rows = [(one.bytes, one.category, one.module, one.op, one.shape) for one in found.largest]
    assert rows == [
        (values, "activations", "1", "aten.sigmoid", (64, 16)),
        (values, "temporary", "1", "aten.sigmoid_backward", (64, 16)),
        (values, "temporary", "2", "aten.mm", (64, 16)),
        (4 * 64 * 8, "temporary", "", "aten.ones", (64, 8)),
        (4 * 8 * 16, "optimizer", "0.weight", "aten.clone", (16, 8)),
        (4 * 8 * 16, "weights", "0.weight", "aten.empty", (16, 8)),
        (4 * 16, "gradients", "2", "aten.mm", (1, 16)),
        (4 * 16, "optimizer", "2.weight", "aten.clone", (1, 16)),
        (4 * 16, "weights", "2.weight", "aten.empty", (1, 16)),
        (4, "activations", "loss", "aten.sum", ()),
        (4, "temporary", "", "aten.ones_like", ()),
    ]
    assert {one.dtype for one in found.largest} == {"float32"}
    assert sum(one.bytes for one in found.largest) == found.allocated
    assert found.words[0].startswith("The peak of 15.2 KiB is in the backward of a steady step")
    assert found.asked is None
    assert not modules._global_forward_hooks and not modules._global_forward_pre_hooks


def test_a_steady_step_is_told_of_where_the_first_is_as_high() -> None:
    first = [Row(0.0, 1, "loss", (5, 0, 0, 0, 0)), Row(0.1, 1, "backward", (9, 0, 0, 0, 0))]
    second = [Row(0.2, 2, "loss", (9, 0, 0, 0, 0)), Row(0.3, 2, "backward", (9, 0, 0, 0, 0))]
    assert higher(first, None) == 1
    assert higher(second, first[1]) == 0
    assert higher(second, second[0]) is None and higher([], None) is None
    assert higher(first, second[0]) is None


def test_what_is_alive_in_a_row_of_a_span() -> None:
    trace = Trace()
    trace.mark(0.0, 1, "forward")
    trace.change(0.1, 1, 100)
    trace.label(1, WEIGHTS)
    trace.settle()
    trace.mark(0.2, 1, "backward")
    trace.change(0.3, 2, 7)
    trace.change(0.4, 2, 3)
    trace.fail()
    trace.free(0.5, 1)
    rows = trace.settle()
    assert trace.failed == 2
    assert trace.alive(0) == {1: (100, WEIGHTS)}
    assert trace.alive(2) == {1: (100, WEIGHTS), 2: (10, TEMPORARY)}
    assert trace.alive(3) == {2: (10, TEMPORARY)}
    assert [row.total for row in rows] == [100, 107, 110, 10]
    trace.settle()
    assert trace.failed is None


def test_those_that_are_alike_are_told_together() -> None:
    births = [
        Birth(WEIGHTS, f"layers.{at}.up.weight", "aten.empty", (2, 2), "float32") for at in (0, 1)
    ]
    other = Birth(WEIGHTS, "layers.0.up.weight", "aten.empty", (2, 3), "float32")
    found = largest_of([(16, births[0]), (16, births[1]), (24, other)])
    assert found == (
        Large(32, "weights", "layers.*.up.weight", "aten.empty", (2, 2), "float32", 2),
        Large(24, "weights", "layers.0.up.weight", "aten.empty", (2, 3), "float32"),
    )


def test_what_no_tensor_explains_is_a_line_of_its_own() -> None:
    """As on a GPU: blocks are rounded up, and some are no tensor's."""
    births = [Birth(GRADIENTS, f"m{at}", "aten.mm", (at,), "float32") for at in range(MOST + 3)]
    members = [(100 + at, birth) for at, birth in enumerate(births)]
    tensors = sum(size for size, _ in members)
    row = Row(0.0, 2, "backward", (0, tensors + 40, 0, 0, 500))
    found = told(Snapshot(row, members, row.total + 60), Model(0, 0))
    assert len(found.largest) == MOST and found.more == 3
    assert found.others == 100 + 101 + 102 and found.unexplained == 40 + 500 + 60
    listed = sum(large.bytes for large in found.largest)
    assert listed + found.others + found.unexplained == found.allocated == row.total + 60


def test_when_memory_runs_out_it_is_told_for_what_and_what_was_there(tmp_path: Path) -> None:
    wide = 1 << 44
    body = f"held = torch.zeros(1000); model[0](torch.ones(1).expand({wide}, 8)); del held"
    end = ended(tmp_path, body)
    found = alive(end)
    assert end.outcome == "oom" and end.peak is not None
    # Its product in the first layer: a row of 16 numbers for each of so many rows of 8.
    assert found.asked is not None
    assert found.asked == Large(4 * 16 * wide, "", "0", found.asked.op, (wide, 16), "float32")
    assert found.asked.op in ("aten.mm", "aten.addmm", "aten.clone")
    held = [one for one in found.largest if one.op == "aten.zeros"]
    assert [(one.bytes, one.module) for one in held] == [(4000, "")]
    assert (found.step, found.phase) == (1, "optimizer")
    assert found.allocated == sum(one.bytes for one in found.largest) + found.others
    assert f"by {found.asked.op.removeprefix('aten.')} in 0" in end.what
    assert "When memory ran out, in the optimizer of the first step" in found.words[0]


def test_a_failure_in_a_span_that_goes_on_is_forgotten_in_the_next() -> None:
    meter = CpuMeter(time.perf_counter, lambda samples: None)
    meter.start()
    try:
        held = [torch.ones(10)]
        with pytest.raises(RuntimeError):
            torch.empty(1 << 52)
        meter.settle()
        failure = meter.failure()
        held.append(torch.ones(10))
        meter.settle()
        assert failure is not None and failure.asked is not None and meter.failure() is None
    finally:
        meter.close()


def test_a_failure_that_the_script_mends_is_not_what_ended_it(tmp_path: Path) -> None:
    body = f"""
        try:
            torch.empty({1 << 52})
        except RuntimeError:
            pass"""
    end = ended(tmp_path, body)
    assert end.outcome == "done" and alive(end).asked is None and alive(end).phase == "backward"


def test_scratch_that_found_no_memory_has_no_shape() -> None:
    from memwb.engine.trainer.mode import Mode
    from memwb.engine.trainer.origins import Origins

    asked = []
    mode = Mode(lambda tensor, func: None, Origins(), asked.append)

    def refuse(*_: object) -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."
        )

    library = torch.library.Library("peaktest", "DEF")
    library.define("greedy(Tensor x) -> Tensor")
    library.impl("greedy", refuse, "CPU")
    library.impl("greedy", lambda x: torch.empty_like(x), "Meta")
    with mode, pytest.raises(RuntimeError):
        torch.ops.peaktest.greedy(torch.ones(3))
    (request,) = asked
    assert (request.bytes, request.origin.op, request.origin.shape) == (7, "peaktest.greedy", ())
