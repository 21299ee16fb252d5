"""The CPU's meter, against arithmetic and against torch's own count of its allocator."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from memwb.engine.protocol import (
    CATEGORIES,
    Device,
    Ended,
    Event,
    Loaded,
    Peak,
    Sample,
    Samples,
    Start,
    Started,
    Step,
    Timeline,
)
from memwb.engine.trainer.burst import About, run_file, run_plan

CPU = About(device=Device("cpu", "test", 1))

# A model small enough to count by hand: 8·16 + 16·1 = 144 weights, a batch of 4 rows of 8.
SCRIPT = """
import torch

def batches():
    return torch.ones(4, 8, dtype=DTYPE)

def load_model():
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 16, bias=False), torch.nn.ReLU(), torch.nn.Linear(16, 1, bias=False)
    return torch.nn.Sequential(*layers).to(DTYPE)

def build_optimizer(model):
    return OPTIMIZER

def loss(model, batch, tokens):
    return model(batch).mean() / tokens

def train(model, optimizer, batch):
    for step in range(1, STEPS + 1):
        total = 0.0
        for _ in range(ACCUMULATION):
            value = loss(model, batch, ACCUMULATION)
            value.backward()
            total += value.item()
            del value
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step, total

def main(argv=None):
    batch = batches()
    model = load_model()
    optimizer = build_optimizer(model)
    for step, value in train(model, optimizer, batch):
        print(f"step {step}  loss {value:.6f}")
"""
PARAMETERS = 144
ADAMW = "torch.optim.AdamW(model.parameters(), foreach=False)"
STATE_STEPS = 2 * 4
"""AdamW counts steps in an fp32 number for each of the two parameter tensors."""


def measured(
    folder: Path,
    steps: int = 2,
    accumulation: int = 1,
    dtype: str = "torch.float32",
    optimizer: str = ADAMW,
    script: str = SCRIPT,
) -> list[Event]:
    path = folder / "train.py"
    values = {"STEPS": steps, "ACCUMULATION": accumulation, "DTYPE": dtype, "OPTIMIZER": optimizer}
    for name, value in values.items():
        script = script.replace(name, str(value))
    path.write_text(script)
    events: list[Event] = []
    run_file(path, [], events.append, CPU)
    return events


def timeline(events: list[Event], step: int) -> list[Sample]:
    return next(e.samples for e in events if isinstance(e, Timeline) and e.step == step)


def most(samples: list[Sample], category: str, phase: str = "") -> int:
    sizes = [getattr(s.categories, category) for s in samples if phase in ("", s.phase)]
    return max(sizes)


def ended(events: list[Event]) -> Ended:
    last = events[-1]
    assert isinstance(last, Ended)
    return last


def peak(events: list[Event]) -> Peak:
    found = ended(events).peak
    assert found is not None
    return found


def test_fp32_adamw_is_4_and_4_and_8_bytes_a_parameter(tmp_path: Path) -> None:
    events = measured(tmp_path)
    for step in (1, 2):
        samples = timeline(events, step)
        assert {s.categories.weights for s in samples if s.categories} == {4 * PARAMETERS}
        assert most(samples, "gradients") == 4 * PARAMETERS
        assert most(samples, "optimizer") == 8 * PARAMETERS + STATE_STEPS
    last = timeline(events, 2)[-1].categories
    assert last is not None
    # The batch of 4·8 fp32 numbers is what is left beside them.
    assert (last.gradients, last.activations, last.temporary) == (0, 0, 4 * 8 * 4)
    loaded = next(e for e in events if isinstance(e, Loaded))
    assert (loaded.parameters, loaded.trainable, loaded.weights) == (144, 144, 576)


def test_bf16_is_2_and_2_and_4_bytes_a_parameter(tmp_path: Path) -> None:
    samples = timeline(measured(tmp_path, dtype="torch.bfloat16"), 2)
    assert most(samples, "weights") == 2 * PARAMETERS
    assert most(samples, "gradients") == 2 * PARAMETERS
    assert most(samples, "optimizer") == 4 * PARAMETERS + STATE_STEPS


def test_sgd_has_no_state_and_momentum_has_one(tmp_path: Path) -> None:
    plain = measured(tmp_path, optimizer="torch.optim.SGD(model.parameters(), lr=0.1)")
    assert most(timeline(plain, 2), "optimizer") == 0
    heavy = "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)"
    assert most(timeline(measured(tmp_path, optimizer=heavy), 2), "optimizer") == 4 * PARAMETERS


def test_activations_by_hand(tmp_path: Path) -> None:
    """Backward needs the ReLU's output (4·16 fp32 numbers); the loss is 4 bytes."""
    samples = timeline(measured(tmp_path), 2)
    at_begin = next(s for s in samples if s.phase == "backward").categories
    assert at_begin is not None
    assert at_begin.activations == 4 * 16 * 4 + 4
    assert {s.phase for s in samples} == {"forward", "loss", "backward", "optimizer"}
    # The first linear layer's output is gone by then: temporary, beside the batch.
    assert most(samples, "temporary", "forward") >= 4 * 8 * 4 + 4 * 16 * 4


def test_accumulation_keeps_gradients_and_frees_activations(tmp_path: Path) -> None:
    samples = timeline(measured(tmp_path, accumulation=3), 2)
    assert most(samples, "activations") == 4 * 16 * 4 + 4
    assert most(samples, "gradients") == 4 * PARAMETERS
    turns = [s.phase for i, s in enumerate(samples) if not i or s.phase != samples[i - 1].phase]
    assert turns == ["forward", "loss", "backward"] * 3 + ["optimizer"]


def test_every_sample_adds_up_and_live_samples_hold_the_peak(tmp_path: Path) -> None:
    events = measured(tmp_path, steps=4)
    every = [s for e in events if isinstance(e, Samples | Timeline) for s in e.samples]
    for sample in every:
        assert sample.categories is not None
        assert sample.categories.total == sample.allocated == sample.reserved
        assert sample.device > 2**20
    live = [s for e in events if isinstance(e, Samples) for s in e.samples]
    found = peak(events)
    assert max(s.allocated for s in live) == found.allocated == max(s.allocated for s in every)
    assert found.categories.total == found.allocated


def test_untraced_steps_have_no_samples(tmp_path: Path) -> None:
    events = measured(tmp_path, steps=4)
    started = next(e for e in events if isinstance(e, Started))
    assert started.traced == (1, 2)
    steps = [e for e in events if isinstance(e, Step)]
    assert [(s.step, s.traced) for s in steps] == [(1, True), (2, True), (3, False), (4, False)]
    after = events[events.index(steps[2]) :]
    assert not [e for e in after if isinstance(e, Samples | Timeline)]
    assert ended(events).losses == [s.loss for s in steps]


def test_everything_is_taken_off_again(tmp_path: Path) -> None:
    before = torch.autograd.backward
    measured(tmp_path, steps=3)
    assert torch.autograd.backward is before
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert not _global_optimizer_pre_hooks and not _global_optimizer_post_hooks
    assert gc.isenabled()


def run(techniques: dict[str, object], **workload: object) -> list[Event]:
    events: list[Event] = []
    work = {"steps": 2, "sequence_length": 16, **workload}
    plan = {"model": "tiny", "workload": work, "techniques": techniques}
    run_plan(Start(plan, device="cpu"), events.append)
    assert ended(events).outcome == "done", ended(events)
    return events


def test_lora_has_gradients_and_state_for_its_adapters_only() -> None:
    events = run({"lora": {"rank": 4, "targets": "attention"}})
    loaded = next(e for e in events if isinstance(e, Loaded))
    samples = timeline(events, 2)
    # Hidden size 192; queries and outputs 192 wide, keys and values 2 heads of 32; 6 layers.
    adapters = 6 * 4 * (2 * (192 + 192) + 2 * (192 + 64))
    assert loaded.trainable == adapters
    assert most(samples, "gradients") == 4 * adapters
    tensors = 6 * 4 * 2
    assert most(samples, "optimizer") == 8 * adapters + 4 * tensors


def test_weights_of_a_4bit_base_with_its_scales() -> None:
    pytest.importorskip("bitsandbytes")
    technique = {"quant_type": "nf4", "double_quant": False, "upcast": False}
    events = run({"quantize_4bit": technique, "lora": {"rank": 1, "targets": "attention"}}, steps=1)
    loaded = next(e for e in events if isinstance(e, Loaded))
    linear = 6 * (2 * 192 * 192 + 2 * 192 * 64 + 3 * 192 * 512)
    rest = 512 * 192 + (2 * 6 + 1) * 192 + 6 * 1 * (2 * (192 + 192) + 2 * (192 + 64))
    assert loaded.parameters == linear + rest
    modules = 6 * 7
    # Half a byte a weight, an fp32 scale for 64 of them, a map of 16 fp32 numbers for each layer.
    quantised = linear // 2 + 4 * linear // 64 + modules * 16 * 4
    rotary = 2 * 16 * 4
    assert loaded.weights == quantised + 4 * rest + rotary
    assert most(timeline(events, 1), "weights") == loaded.weights


def test_the_sum_over_categories_names_is_complete() -> None:
    from memwb.engine.protocol import Categories

    assert Categories.__struct_fields__ == CATEGORIES
