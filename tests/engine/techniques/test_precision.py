"""Precision: what is held in which dtype, what it does to bytes, how far the losses may go."""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memwb.engine.catalog import Model
from memwb.engine.plan import override, plan_data, plan_from
from memwb.engine.protocol import Device, Start, Timeline
from memwb.engine.script import script
from memwb.engine.technique import techniques, unavailable
from memwb.engine.techniques import amp_fp16, tf32

CPU = Device("cpu", "a CPU", 0)
GPU = Device("cuda", "a GPU", 0)


def burst(config: dict[str, Any], *overrides: str, steps: int = 10) -> types.SimpleNamespace:
    """What the plan's script trained: losses, model, optimizer, and the dtypes of gradients."""
    work = {"sequence_length": 16, "batch_size": 2, "steps": steps}
    plan = plan_from({"model": "x", "workload": work})
    for text in overrides:
        plan = override(plan, text)
    model = Model(name="x", source="folder", location="/nowhere", weights="random", config=config)
    module: Any = types.ModuleType("train")
    exec(compile(script(plan, model), "train.py", "exec"), module.__dict__)
    seen = types.SimpleNamespace(losses=[], made=[], gradients=set())
    train = module.train

    def watched(args: Any, model: Any, optimizer: Any, *rest: Any) -> Iterator[tuple[int, float]]:
        seen.model, seen.optimizer = model, optimizer
        for weight in model.parameters():
            weight.register_post_accumulate_grad_hook(lambda w: seen.gradients.add(w.grad.dtype))
        made: list[int] = []
        optimizer.register_step_post_hook(lambda *_: made.append(1))
        for step, value in train(args, model, optimizer, *rest):
            seen.losses.append(value)
            seen.made.append(len(made))
            yield step, value

    module.train = watched
    module.main([])
    return seen


@pytest.mark.parametrize(
    "name,held",
    [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("amp_bf16", torch.float32),
        ("amp_fp16", torch.float32),
    ],
)
def test_weights_gradients_and_states_are_held_in(
    name: str, held: torch.dtype, families: dict[str, Any]
) -> None:
    seen = burst(families["llama"], f"{name}=on", steps=1)
    assert {weight.dtype for weight in seen.model.parameters()} == {held}
    assert seen.gradients == {held}
    moments = {
        value.dtype
        for state in seen.optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    }
    assert moments == {held}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_mixed_precision_stays_within_its_tolerance(family: str, families: dict[str, Any]) -> None:
    plain = burst(families[family], "fp32=on").losses
    assert plain[-1] < plain[0]
    tolerance = techniques()["amp_bf16"].tolerance
    assert tolerance is not None
    half = burst(families[family], "amp_bf16=on")
    assert half.losses != plain
    assert apart(half.losses, plain) <= tolerance
    # With fp16 the curve is owed until a step is skipped: 11 significant bits in place of 8.
    scaled = burst(families[family], "amp_fp16=on")
    steps = sum(made == step for step, made in enumerate(scaled.made, 1))
    assert steps >= 1 and scaled.losses != plain
    assert apart(scaled.losses[: steps + 1], plain[: steps + 1]) <= tolerance / 8


def apart(ours: list[float], theirs: list[float]) -> float:
    """The largest relative distance between two curves."""
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


class Toy(torch.nn.Module):
    """One weight; its gradient is what the batch says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.device = torch.device("cpu")


def toy_run(gradients: list[float], optimizer: Any, schedule: Any, model: Toy) -> list[float]:
    stream = iter([{"labels": torch.tensor([[1, 1]]), "g": torch.tensor(g)} for g in gradients])
    args = argparse.Namespace(seed=0, steps=len(gradients), gradient_accumulation=1)

    def loss(model: Toy, batch: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
        return (model.weight * batch["g"]).sum() / tokens

    return [value for _, value in amp_fp16.train(args, model, optimizer, schedule, stream, loss)]


def test_a_step_that_overflows_is_skipped_and_the_schedule_waits_for_it() -> None:
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    losses = toy_run([float("inf"), 1.0], optimizer, schedule, model)
    # One step was made, with the first learning rate, and the loss is told without the scale.
    assert losses == [float("inf"), 4.0]
    assert model.weight.tolist() == [0.5] * 4
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("kernel", ["fused", "foreach"])
def test_what_looks_at_gradients_before_a_step_sees_them_unscaled(kernel: str) -> None:
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), **{kernel: True})  # type: ignore[arg-type]
    seen: list[list[float]] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.tolist()))  # type: ignore[union-attr]
    toy_run([3.0], optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), model)
    assert seen == [[3.0] * 4]


def test_tf32_is_for_cuda_and_is_set_for_everyone_who_asks() -> None:
    technique = techniques()["tf32"]
    assert "CUDA" in unavailable(technique, None, CPU)
    assert unavailable(technique, None, GPU) == unavailable(technique) == ""
    try:
        assert tf32.configure({}) == {"dtype": torch.float32}
        # Both ways of asking: cuBLAS's and, without an error about mixing them, the compiler's.
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_bf16_halves_what_is_held_and_most_of_what_is_kept(checkpoint: Path) -> None:
    from memwb.engine.trainer.burst import run_plan

    def kept(*overrides: str) -> dict[str, int]:
        work = {"sequence_length": 128, "batch_size": 2, "steps": 2}
        plan = plan_from({"model": str(checkpoint), "workload": work})
        for text in overrides:
            plan = override(plan, text)
        events: list[Any] = []
        ended = run_plan(Start(plan_data(plan), "cpu", "1"), events.append)
        assert ended.outcome == "done", ended
        samples = [event for event in events if isinstance(event, Timeline)][-1].samples
        names = samples[0].categories.__struct_fields__
        return {name: max(getattr(s.categories, name) for s in samples) for name in names}

    plain, half = kept(), kept("bf16=on")
    for name in ("weights", "gradients"):
        # Buffers (the rotary frequencies, 8 values of fp32 kept twice) are the same in both.
        assert 0 <= 2 * half[name] - plain[name] <= 64
    # The log-probabilities and what norms make of their inputs stay in fp32.
    logs = 4 * 256 * 320
    assert 0.5 * (plain["activations"] - logs) < half["activations"] - logs
    assert half["activations"] < 0.75 * plain["activations"]
