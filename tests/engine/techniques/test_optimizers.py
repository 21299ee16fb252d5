"""Optimizers and the optimizer step: bytes against arithmetic, steps against the plain ones."""

from __future__ import annotations

import contextlib
import functools
import io
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.catalog import Model
from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.protocol import Device, Ended, Event, Sample, Timeline
from memwb.engine.script import script
from memwb.engine.shapes import Shape, Weight
from memwb.engine.technique import module_of, techniques
from memwb.engine.techniques import (
    gradient_clipping,
    optimizer_in_backward,
    optimizer_offload,
)
from memwb.engine.trainer import cpu
from memwb.engine.trainer.burst import About, run_file

OPTIMIZERS = [name for name, technique in techniques().items() if technique.group == "optimizer"]
LINEAR = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
ABOUT = About(device=Device("cpu", "test", 1))
MODES = {
    "fp32": ["fp32=on"],
    "bf16": ["bf16=on"],
    "lora": ["lora=on"],
    "4-bit": ["bf16=on", "quantize_4bit=on", "lora=on"],
}


def plan_of(*overrides: str, **workload: Any) -> Plan:
    small = {"sequence_length": 32, "batch_size": 2, "steps": 2, "learning_rate": 1e-3}
    plan = plan_from({"model": "x", "workload": small | workload})
    for text in overrides:
        plan = override(plan, text)
    return plan


def needed(name: str) -> list[str]:
    return [f"{need.names[0]}=on" for need in techniques()[name].needs]


def burst(folder: Path, config: dict[str, Any], plan: Plan) -> list[Event]:
    """Every event of a plan's script run under the meter, in this process."""
    path = folder / "train.py"
    path.write_text(script(plan, model_of(config)), encoding="utf-8")
    events: list[Event] = []
    ended = run_file(path, [], events.append, ABOUT)
    assert ended.outcome == "done", ended
    return events


def run(config: dict[str, Any], plan: Plan) -> list[str]:
    """The losses that a plan's script prints, without a meter."""
    module = types.ModuleType("train")
    exec(compile(script(plan, model_of(config)), "train.py", "exec"), module.__dict__)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        module.main([])
    return [line.split()[-1] for line in out.getvalue().splitlines()]


def model_of(config: dict[str, Any]) -> Model:
    return Model(name="x", source="folder", location="", weights="random", config=config)


def losses(events: list[Event]) -> list[float]:
    last = events[-1]
    assert isinstance(last, Ended)
    return last.losses


def timeline(events: list[Event], step: int = 2) -> list[Sample]:
    return next(e.samples for e in events if isinstance(e, Timeline) and e.step == step)


def held(events: list[Event], category: str, phase: str = "") -> int:
    """The most bytes of a category in step 2."""
    samples = [s for s in timeline(events) if s.categories and phase in ("", s.phase)]
    return max(getattr(s.categories, category) for s in samples)


def facts_of(config: dict[str, Any], mode: str) -> Facts:
    """The facts of a plan, its trained tensors read off the model itself."""
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    adapters = mode in ("lora", "4-bit")
    if adapters:
        settings = LoraConfig(r=16, target_modules=LINEAR, task_type="CAUSAL_LM")
        model = get_peft_model(model, settings)
    kinds = {"embed": "embedding", "norm": "norm", "lm_head": "head"}
    weights = tuple(
        Weight(name, tuple(p.shape), next((k for n, k in kinds.items() if n in name), "linear"))
        for name, p in model.named_parameters()
        if p.requires_grad
    )
    shape = Shape(
        family=config["model_type"], layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16,
        intermediate=96, vocabulary=320, tied=config.get("tie_word_embeddings", False),
        weights=weights,
    )  # fmt: skip
    # peft keeps adapters in fp32 beside a bf16 base.
    width = 2 if mode == "bf16" else 4
    return Facts(
        shape=shape,
        workload=plan_of().workload,
        weight_bytes=width,
        compute_bytes=width,
        trained=weights,
        trained_bytes=width,
    )


def effect(name: str, facts: Facts, category: str, **params: Any) -> Effect:
    module = module_of(name)
    found: list[Effect] = module.effects(module.technique.params(**params), facts)
    return next(one for one in found if one.category == category)


PLAIN: dict[str, str] = {}
"""The first loss of the plain plan in each mode."""


# Adapters are the same in fp32 and over a 4-bit base: for most optimizers one of the two is enough.
CASES = [
    (name, mode)
    for name in OPTIMIZERS
    for mode in MODES
    if mode != "lora" or name in ("adamw", "galore", "bf16_stochastic_rounding")
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_states_are_the_bytes_of_the_arithmetic(
    name: str, mode: str, tmp_path: Path, families: dict[str, Any]
) -> None:
    """In every precision, over a full and an adapted model; and the first loss is the plain one."""
    config = families["llama"]
    if name == "bf16_stochastic_rounding" and mode in ("fp32", "lora"):
        refused = plan_of(*MODES[mode], f"{name}=on")
        assert [problem.override for problem in problems(refused)] == ["bf16=on"]
        return
    params = {"galore": {"rank": 8}, "sgd": {"momentum": 0.5}}.get(name, {})
    chosen = [f"{name}=on", *(f"{name}.{key}={value}" for key, value in params.items())]
    events = burst(tmp_path, config, plan_of(*chosen, *MODES[mode]))
    facts = facts_of(config, mode)
    assert held(events, "optimizer") == effect(name, facts, "optimizer", **params).after
    if mode not in PLAIN:
        PLAIN[mode] = run(config, plan_of(*MODES[mode], steps=1))[0]
    assert f"{losses(events)[0]:.6f}" == PLAIN[mode]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name: str, tmp_path: Path, families: dict[str, Any]) -> None:
    """One batch again and again: after 12 steps its loss has fallen."""
    rate = {"sgd": 0.5, "lion_8bit": 3e-4, "adafactor": 0.1}.get(name, 2e-3)
    data = tmp_path / "text.txt"
    data.write_text("memory is what training runs out of " * 2)
    plan = plan_of(f"{name}=on", *needed(name), f"data={data}", steps=12, learning_rate=rate)
    found = [float(loss) for loss in run(families["llama"], plan)]
    assert found[-1] < 0.97 * found[0]


def test_the_kernels_of_adamw_differ_in_temporaries(
    tmp_path: Path, families: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(families["llama"], "fp32")
    monkeypatch.setattr(cpu, "downsample", list)
    for kernel in ("loop", "foreach", "fused"):
        events = burst(tmp_path, families["llama"], plan_of("adamw=on", f"adamw.kernel={kernel}"))
        inside = [s.categories for s in timeline(events) if s.phase == "optimizer"]
        sizes = [found.temporary for found in inside if found is not None]
        made = max(sizes) - min(sizes)
        if kernel == "loop":
            largest = 4 * max(weight.size for weight in facts.trained)
            assert 2 * largest <= made <= 3 * largest
        else:
            assert made == effect("adamw", facts, "temporary", kernel=kernel).after, kernel


SAME = [name for name in OPTIMIZERS if name != "bf16_stochastic_rounding"]
"""Optimizers whose numbers do not hang on the order in which tensors are stepped."""


@pytest.mark.parametrize("name", SAME)
def test_a_step_within_backward_changes_no_loss(name: str, families: dict[str, Any]) -> None:
    """With a tied embedding, whose gradient comes from both ends, and a loss by chunks."""
    chosen = [f"{name}=on", "chunked_cross_entropy.chunk_size=20", "schedule=cosine"]
    chosen += ["activation_checkpointing=on"]
    chosen += ["galore.rank=8"] if name == "galore" else []
    config = families["qwen2"]
    steps = 10 if name == "adamw" else 4
    plain = run(config, plan_of(*chosen, steps=steps))
    assert run(config, plan_of(*chosen, "optimizer_in_backward=on", steps=steps)) == plain


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_within_backward_gradients_are_the_largest_tensors(
    family: str, tmp_path: Path, families: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every moment, not the highest of each slice of time.
    monkeypatch.setattr(cpu, "downsample", list)
    config = families[family]
    plain = burst(tmp_path, config, plan_of("sgd=on"))
    events = burst(tmp_path, config, plan_of("sgd=on", "optimizer_in_backward=on"))
    said = effect("optimizer_in_backward", facts_of(config, "fp32"), "gradients")
    assert held(plain, "gradients") == said.before
    assert held(events, "gradients") == said.after
    assert losses(plain) == losses(events)
    turns = [s.phase for s in timeline(events)]
    assert "optimizer" in turns[: len(turns) - turns[::-1].index("backward")]


def test_what_cannot_go_with_a_step_within_backward_is_refused() -> None:
    this = "optimizer_in_backward"
    summed = plan_of(f"{this}=on", "gradient_accumulation=2")
    assert [p.override for p in problems(summed)] == ["workload.gradient_accumulation=1"]
    for other in ("gradient_clipping", "zero_in_place", "optimizer_offload"):
        # What was switched on last stays.
        for first, last in ((this, other), (other, this)):
            plan = plan_of(f"{first}=on", f"{last}=on")
            assert [problem.override for problem in problems(plan)] == [f"{first}=off"]
            assert not problems(override(plan, f"{first}=off"))


def test_a_second_backward_within_one_step_is_an_error() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer_in_backward.patch_optimizer(model, optimizer)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="one backward pass"):
        model(torch.ones(1, 2)).sum().backward()


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "adamw_8bit", "galore"])
def test_twins_take_the_same_steps(
    name: str, families: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU stands for both sides; with accumulation, clipping and a schedule on top."""
    chosen = [f"{name}=on", "gradient_accumulation=2", "schedule=cosine"]
    chosen += ["gradient_clipping.max_norm=0.5"]
    config = families["qwen2"]
    plain = run(config, plan_of(*chosen, steps=4))
    assert run(config, plan_of(*chosen, "optimizer_offload=on", steps=4)) == plain
    forced: list[Any] = []

    def build(original: Any, model: Any, *rest: Any, **named: Any) -> Any:
        optimizer = optimizer_offload.step_on_twins(original(model, *rest, **named))
        forced.append((model, optimizer))
        return optimizer

    module = module_of(name)
    text = script(plan_of(*chosen, steps=4), model_of(config))
    train = types.ModuleType("train")
    exec(compile(text, "train.py", "exec"), train.__dict__)
    monkeypatch.setattr(train, "build_optimizer", functools.partial(build, train.build_optimizer))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        train.main([])
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == plain
    [(model, optimizer)] = forced
    assert module.technique.name == name
    twins = [weight for group in optimizer.param_groups for weight in group["params"]]
    own = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(twins) == len(own) and not {*twins} & {*own}
    assert all(weight.grad is None for weight in own)
    assert sorted(float(t.detach().double().sum()) for t in twins) == sorted(
        float(w.detach().double().sum()) for w in own
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_reaches_every_optimizer(name: str, families: dict[str, Any]) -> None:
    """What the optimizer is given has the norm of the limit, on the device or on the host."""
    module = module_of(name)
    for twins in (False, True):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**families["llama"]))
        model = model.to(torch.bfloat16) if needed(name) else model
        params = msgspec.to_builtins(module.technique.params())
        params.pop("kernel", None)
        if name == "adamw":
            params["kernel"] = "auto"
        optimizer = module.build_optimizer(model, 1e-3, **params)
        gradient_clipping.patch_optimizer(model, optimizer, max_norm=0.01)
        if twins:
            optimizer_offload.step_on_twins(optimizer)
        norms: list[float] = []

        def note(optimizer: Any, *_: Any, norms: list[float] = norms) -> None:
            grads = [w.grad.float() for g in optimizer.param_groups for w in g["params"]]
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

        optimizer.register_step_pre_hook(note)
        ids = torch.arange(32)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        assert norms == [pytest.approx(0.01, rel=1e-2)]


def test_zeros_in_place_keep_the_buffers(tmp_path: Path, families: dict[str, Any]) -> None:
    config = families["llama"]
    plain = burst(tmp_path, config, plan_of())
    kept = burst(tmp_path, config, plan_of("zero_in_place=on"))
    said = effect("zero_in_place", facts_of(config, "fp32"), "gradients")
    assert (held(plain, "gradients", "forward"), said.before) == (0, 0)
    assert held(kept, "gradients", "forward") == said.after
    assert held(kept, "gradients") == held(plain, "gradients")
    assert losses(kept) == losses(plain)
