"""Every technique with every choice of its parameters: predicted to the byte, and for a GPU."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.arithmetic import Facts, effects_of, facts_of
from memwb.engine.memory import CATEGORIES
from memwb.engine.plan import Plan, override, plan_data, problems
from memwb.engine.protocol import Device
from memwb.engine.technique import Technique, parameters_of, techniques, unavailable
from memwb.engine.techniques.adamw import tensors
from memwb.engine.techniques.adamw_4bit import LEARNING_RATES

pytestmark = pytest.mark.long

CPU = Device("cpu", "CPU", 2**34)
GPU = "rtx-4090"
TECHNIQUES = techniques()

# Matrices of more than 4096 values: below, 8-bit optimizers keep fp32 states.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}
WIDE = {**CONFIG, "vocab_size": 2048}
BUFFERS = 2 * 4 * (64 // 4 // 2)
"""Bytes of the rotary frequencies, which a model keeps twice, in fp32, of half a head's size."""

REFUSED_ON_A_GPU = {
    "adamw_4bit": "its step is compiled",
    "attention.implementation=flex_attention": "compiled for the device",
    "torch_compile": "how they are fused",
    "torch_compile.scope=model": "how they are fused",
    "torch_compile.dynamic=always": "how they are fused",
    "torch_compile.dynamic=never": "how they are fused",
}
"""What cannot be predicted for a GPU, and a part of the reason that is given."""

SLOW = ("torch_compile", "activation_checkpointing.mode=budget")
"""Compiled for real where they are predicted: seconds each, so that few of them are tried."""


def forms(numbers: bool) -> list[Any]:
    """Each technique as it stands, and with each other choice of one of its parameters."""
    return [
        pytest.param(name, change, id=change or name)
        for name, technique in TECHNIQUES.items()
        for change in ("", *(choices(technique, numbers) if numbers or kernels(technique) else ()))
    ]


def kernels(technique: Technique) -> bool:
    """Whether its choices decide which kernels run on a GPU."""
    return technique.group in ("attention", "quantization", "compile")


def choices(technique: Technique, numbers: bool) -> list[str]:
    """Overrides of one parameter each: other choices, flipped switches, small whole numbers."""
    found = []
    for parameter in parameters_of(technique):
        values: list[Any] = [choice for choice in parameter.choices if choice is not None]
        if parameter.type == "bool":
            values = ["false" if parameter.default else "true"]
        elif parameter.type == "int" and numbers:
            values = [2 if parameter.default == 1 else 1]
        found += [
            f"{technique.name}.{parameter.name}={value}"
            for value in values
            if value != parameter.default
        ]
    return found


class Bench:
    """Makes plans of one small model and has them run."""

    def __init__(self, folders: dict[bool, Path], process: subprocess.Popen[str]) -> None:
        self._folders = folders
        self._process = process

    def plan(self, *changes: str, wide: bool = False, **workload: Any) -> Plan:
        """A plan of two short steps, with what its techniques need, and mended where it says."""
        plan = Plan(model=str(self._folders[wide]))
        small = {"sequence_length": 24, "batch_size": 2, "steps": 2} | workload
        for key, value in small.items():
            plan = override(plan, f"workload.{key}={value}")
        for change in changes:
            plan = override(plan, change)
        for name in list(plan.techniques):
            for need in TECHNIQUES[name].needs:
                if not set(need.names) & set(plan.techniques):
                    plan = override(plan, f"{need.names[0]}=on")
        return plan

    def ask(self, plan: Plan, target: str, measure: bool = True) -> dict[str, Any]:
        """What the plan needs on a target, measured (on a CPU) and predicted."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps({"plan": plan_data(plan), "target": target, "measure": measure})
        print(line, file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


@pytest.fixture(scope="module")
def bench(warm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folders = {}
    for wide, config in ((False, CONFIG), (True, WIDE)):
        folders[wide] = tmp_path_factory.mktemp("model")
        (folders[wide] / "config.json").write_text(json.dumps(config))
    with subprocess.Popen(
        warm.python(Path(__file__).with_name("both.py")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Bench(folders, process)
        assert process.stdin is not None
        process.stdin.close()


def runs_there(plan: Plan, device: Device) -> bool:
    """Whether neither the plan nor the device refuses it."""
    return not problems(plan, CONFIG) and not any(
        unavailable(TECHNIQUES[name], params, device) for name, params in plan.techniques.items()
    )


@pytest.mark.parametrize(("name", "change"), forms(numbers=True))
def test_a_cpu_is_predicted_to_the_byte(bench: Bench, name: str, change: str) -> None:
    if name == "torch_compile" or change in SLOW:
        return
    changes = (f"{name}=on", *([change] if change else ()))
    # A step whose gradients overflow is skipped, and which do only their values tell: those of
    # more tokens are smaller.
    longer = {"sequence_length": 48} if name == "amp_fp16" else {}
    plan = bench.plan(*changes, **longer)
    if not runs_there(plan, CPU):
        plan = bench.plan(*changes, "bf16=on", **longer)
    if not runs_there(plan, CPU):
        return
    found = bench.ask(plan, "cpu")
    assert found["predicted"] == found["measured"]


@pytest.mark.parametrize(
    "changes",
    [
        ("quantize_4bit=on", "lora=on", "adamw_8bit=on", "gradient_clipping=on"),
        ("bf16=on", "linear_cross_entropy=on", "lion_8bit=on", "attention.backend=math"),
        ("amp_bf16=on", "paged_adamw=on", "chunked_cross_entropy=on", "zero_in_place=on"),
        ("quantize_4bit=on", "lora=on", "activation_checkpointing=on"),
        ("quantize_4bit=on", "lora=on", "activation_checkpointing=on", "amp_bf16=on"),
    ],
)
def test_so_are_several_at_once_with_accumulation(bench: Bench, changes: tuple[str, ...]) -> None:
    found = bench.ask(bench.plan(*changes, gradient_accumulation=2), "cpu")
    assert found["predicted"] == found["measured"]


def test_a_mask_is_kept_by_what_is_computed_again(bench: Bench, tmp_path: Path) -> None:
    """A window that slides needs a mask: attention keeps it as numbers until its backward pass."""
    sliding = {**CONFIG, "model_type": "mistral", "sliding_window": 16}
    (tmp_path / "config.json").write_text(json.dumps(sliding))
    found = bench.ask(
        override(bench.plan("activation_checkpointing=on"), f"model={tmp_path}"), "cpu"
    )
    assert found["predicted"] == found["measured"]


@pytest.mark.parametrize("changes", [(), ("amp_bf16=on", "lora=on"), ("bf16=on",)])
def test_experts_are_predicted_in_every_precision(
    bench: Bench, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    """torch's kernel for meta multiplies groups in bf16 alone, those of devices in fp32 too."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    mixture = {**CONFIG, **experts, "model_type": "qwen3_moe"}
    (tmp_path / "config.json").write_text(json.dumps(mixture))
    plan = override(bench.plan(*changes), f"model={tmp_path}")
    found = bench.ask(plan, "cpu")
    assert found["predicted"] == found["measured"]
    assert isinstance(bench.ask(plan, GPU)["predicted"], dict)


def test_what_is_computed_again_for_a_gpu_is_under_autocast_again(bench: Bench) -> None:
    """Attention is given no tensor by its place, so that checkpointing has no device to ask."""
    mode = "activation_checkpointing.mode=submodule"
    plan = bench.plan("amp_bf16=on", "lora=on", "activation_checkpointing=on", mode)
    assert isinstance(bench.ask(plan, GPU)["predicted"], dict)


def test_what_is_compiled_operator_by_operator_is_predicted_on_a_cpu(bench: Bench) -> None:
    plan = bench.plan("torch_compile=on", "torch_compile.backend=aot_eager")
    found = bench.ask(plan, "cpu")
    assert found["predicted"] == found["measured"]


@pytest.mark.parametrize("target", ["cpu", GPU])
def test_what_a_compiler_keeps_within_a_budget_is_not_guessed(bench: Bench, target: str) -> None:
    compiled = ("torch_compile=on", "torch_compile.backend=aot_eager")
    budget = ("activation_checkpointing=on", "activation_checkpointing.mode=budget")
    found = bench.ask(bench.plan(*compiled, *budget), target, measure=False)
    assert "CannotPredict" in found["predicted"] and "budget" in found["predicted"]


@pytest.mark.parametrize(("name", "change"), forms(numbers=False))
def test_a_gpu_is_predicted_or_the_reason_is_given(bench: Bench, name: str, change: str) -> None:
    if change in SLOW or "aot_eager" in change:
        return
    changes = (f"{name}=on", *([change] if change else ()))
    # Kernels that are asked for by name take half precision.
    half = ("bf16=on",) if name == "attention" else ()
    plan = bench.plan(*changes, *half)
    if problems(plan, CONFIG):
        return
    found = bench.ask(plan, GPU)["predicted"]
    reason = REFUSED_ON_A_GPU.get(change or name)
    if reason is not None:
        assert isinstance(found, str) and "CannotPredict" in found and reason in found
        return
    assert isinstance(found, dict), found
    facts = facts_of(plan, CONFIG, Device("cuda", "GPU", 2**34))
    assert facts is not None
    for effect in effects_of(name, plan.techniques[name], facts):
        if effect.category in ("weights", "optimizer"):
            held = found["2/optimizer"][CATEGORIES.index(effect.category)]
            beside = BUFFERS if effect.category == "weights" else -on_the_host(name, plan, facts)
            assert held == effect.after + beside, effect.formula


def on_the_host(name: str, plan: Plan, facts: Facts) -> int:
    """Bytes of an optimizer's state that stay on the host where it trains on a GPU.

    torch's and torchao's counters of steps (but AdamW's of its fused kernel) and learning rates
    are tensors there, and of bitsandbytes' two maps Lion moves only the one that it uses.
    """
    counted = (*ADAPTERS, "adafactor", "adamw", "bf16_stochastic_rounding")
    adamw = plan.techniques.get("adamw")
    if name in counted and getattr(adamw, "kernel", "") != "fused":
        rates = LEARNING_RATES if name == "bf16_stochastic_rounding" else 0
        return 4 * tensors(facts) + rates
    return 256 * 4 if name == "lion_8bit" else 0


ADAPTERS = [name for name, technique in TECHNIQUES.items() if technique.group == "adapters"]


def test_states_in_managed_memory_are_not_torchs(bench: Bench) -> None:
    """The two tables of 2048 x 64 have more than 100,000 values; every other weight has fewer."""
    plan = bench.plan("paged_adamw=on", wide=True)
    found = bench.ask(plan, GPU)["predicted"]
    assert isinstance(found, dict), found
    facts = facts_of(plan, WIDE, Device("cuda", "GPU", 2**34))
    assert facts is not None
    held = found["2/optimizer"][CATEGORIES.index("optimizer")]
    assert held == 8 * (facts.trainable - 2 * 2048 * 64)


def test_an_8_bit_base_keeps_its_inputs_beside_checkpoints(bench: Bench) -> None:
    """bitsandbytes keeps them as attributes of the operation, not as tensors saved for backward."""
    kept = {}
    for base in ("quantize_4bit=on", "quantize_8bit=on"):
        plan = bench.plan(base, "lora=on", "activation_checkpointing=on")
        found = bench.ask(plan, GPU, measure=False)["predicted"]
        kept[base] = found["2/loss"][CATEGORIES.index("activations")]
    assert kept["quantize_8bit=on"] > 1.5 * kept["quantize_4bit=on"]
    assert "beside checkpoints" in TECHNIQUES["quantize_8bit"].costs
