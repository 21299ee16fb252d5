"""Attention: the kernel asked for is the one that runs, in recomputation too, and is right."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from memwb.engine.arithmetic import Facts
from memwb.engine.plan import Plan, Workload, override, plan_data, problems
from memwb.engine.protocol import Device, Start, Timeline
from memwb.engine.recipe import decoder_layers
from memwb.engine.shapes import Shape
from memwb.engine.technique import closed, parameters_of, techniques, unavailable
from memwb.engine.techniques import attention

CPU = Device("cpu", "a CPU", 0)
GPU = Device("cuda", "a GPU", 0)
FLASH = "_scaled_dot_product_flash_attention_for_cpu"
EIGHT = ["llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "gpt2", "gpt_bigcode"]
STILL = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


class Operators(TorchDispatchMode):
    """Counts the operators that attention is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen[name] = self.seen.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def model_of(config: dict[str, Any], implementation: str, backend: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    still = STILL if config["model_type"].startswith("gpt") else {}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config, **still), attn_implementation=implementation
    )
    made.config.use_cache = False
    return attention.patch_model(made.train(), implementation=implementation, backend=backend)


def backward(model: Any) -> tuple[float, list[torch.Tensor]]:
    tokens = torch.randint(0, 320, (2, 48), generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return loss.item(), [weight.grad for weight in model.parameters()]


def plan_of(*overrides: str) -> Plan:
    return functools.reduce(override, overrides, Plan(model="tiny"))


@pytest.mark.parametrize("family", EIGHT)
def test_every_kernel_computes_what_eager_does(family: str, families: dict[str, Any]) -> None:
    value, gradients = backward(model_of(families[family], "eager", "auto"))
    for kernel in ("auto", "flash", "math"):
        with Operators() as operators:
            found, others = backward(model_of(families[family], "sdpa", kernel))
        assert (FLASH in operators.seen) == (kernel != "math")
        # fp32 sums of at most 96 terms in another order, in each of some ten products that follow
        # one another: an error of 10 x 96 x 2^-24 of the largest value.
        bound = 960 * 2**-24
        assert abs(found - value) <= bound * value
        for ours, theirs in zip(others, gradients, strict=True):
            assert (ours - theirs).abs().max() <= bound * theirs.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_the_kernel_is_forced_when_checkpointing_runs_it_again(
    kernel: str, families: dict[str, Any]
) -> None:
    model = model_of(families["llama"], "sdpa", kernel)
    for layer in decoder_layers(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    loss = model(input_ids=tokens, labels=tokens).loss
    with Operators() as operators:
        loss.backward()
    # Two layers, each forward once more.
    assert operators.seen.get(FLASH, 0) == (2 if kernel == "flash" else 0)
    assert operators.seen.get(f"{FLASH}_backward", 0) == (2 if kernel == "flash" else 0)
    # The choice is for these modules alone.
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled()


def test_capped_scores_are_for_eager_and_flex(families: dict[str, Any]) -> None:
    config = families["gemma2"]
    [problem] = problems(plan_of("attention.implementation=sdpa"), config)
    assert "caps" in problem.reason and problem.override == "attention.implementation=eager"
    for choice in ("eager", "flex_attention"):
        assert not problems(plan_of(f"attention.implementation={choice}"), config)
    backward(model_of(config, "eager", "auto"))


@pytest.mark.parametrize(
    "overrides,word",
    [
        (("attention.implementation=eager", "attention.backend=math"), "sdpa's"),
        (("attention.implementation=flash_attention_2",), "bf16 or fp16"),
        (("attention.backend=cudnn",), "bf16 or fp16"),
        (("attention.backend=flash", "tf32=on"), "bf16 or fp16"),
    ],
)
def test_what_does_not_go_with_the_plan_is_refused_and_mended(
    overrides: tuple[str, ...], word: str
) -> None:
    plan = plan_of(*overrides)
    [problem] = problems(plan)
    assert word in problem.reason
    assert not problems(override(plan, problem.override))


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode"])
def test_families_without_flex_are_refused(family: str, families: dict[str, Any]) -> None:
    plan = plan_of("attention.implementation=flex_attention", "sequence_length=16")
    [problem] = problems(plan, families[family])
    assert "family" in problem.reason


def test_what_a_cpu_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    technique = techniques()["attention"]
    implementation, kernel = parameters_of(technique)
    here = closed(technique, implementation, None, CPU)
    assert set(here) == {"flash_attention_2", "flex_attention"}
    assert "backward" in here["flex_attention"]
    assert set(closed(technique, kernel, None, CPU)) == {"efficient", "cudnn"}
    assert not closed(technique, kernel, None, GPU)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    assert set(closed(technique, implementation, None, GPU)) == {"flash_attention_2"}
    # With another implementation no kernel could run: nothing is said of each.
    eager = attention.Params(implementation="flex_attention")
    assert not closed(technique, kernel, eager, CPU) and unavailable(technique, eager, CPU)


def test_flex_attention_has_indeed_no_backward_here() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    query = torch.randn(1, 1, 16, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="backward on CPU"):
        flex_attention(query, query, query)


def test_a_kernel_that_refuses_is_told_in_words(families: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from memwb.engine.trainer.outcome import ended_by

    # GPT-2 drops scores, which flash cannot do on a CPU.
    torch.manual_seed(0)
    config = AutoConfig.for_model(**families["gpt2"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    attention.patch_model(model, implementation="sdpa", backend="flash")
    with pytest.raises(RuntimeError) as caught:
        model(input_ids=torch.zeros(1, 16, dtype=torch.int64), use_cache=False)
    ended = ended_by("1", caught.value, True, None)
    assert ended.outcome == "failed" and "attention.backend=auto" in ended.fix


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_keeps_what_its_arithmetic_says(precision: str, checkpoint: Path) -> None:
    from memwb.engine.trainer.burst import run_plan

    work = Workload(sequence_length=64, batch_size=2, steps=2)

    def kept(implementation: str) -> int:
        plan = Plan(model=str(checkpoint), workload=work)
        for text in (f"{precision}=on", f"attention.implementation={implementation}"):
            plan = override(plan, text)
        events: list[Any] = []
        ended = run_plan(Start(plan_data(plan), "cpu", "1"), events.append)
        assert ended.outcome == "done", ended
        samples = [event for event in events if isinstance(event, Timeline)][-1].samples
        return max(sample.categories.activations for sample in samples)

    shape = Shape(family="llama", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16,
                  intermediate=96, vocabulary=320, tied=False, weights=())  # fmt: skip
    size = 4 if precision == "fp32" else 2
    facts = Facts(shape=shape, workload=work, weight_bytes=size, compute_bytes=size, trained=())
    [effect] = attention.effects(attention.Params(implementation="eager"), facts)
    grown = kept("eager") - kept("sdpa")
    assert grown == shape.layers * (effect.after - effect.before)
