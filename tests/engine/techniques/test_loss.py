"""The losses that never make all logits: the same value and gradients, fewer bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memwb.engine import recipe, technique
from memwb.engine.catalog import resolve
from memwb.engine.plan import Plan, override, plan_data, plan_from, problems
from memwb.engine.protocol import Start, Timeline
from memwb.engine.script import script
from memwb.engine.technique import techniques, unavailable
from memwb.engine.techniques import (
    amp_bf16,
    chunked_cross_entropy,
    cut_cross_entropy,
    fused_linear_cross_entropy,
    linear_cross_entropy,
)

STILL = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
Loss = Callable[[Any, dict[str, torch.Tensor], int], torch.Tensor]
CHUNKED = functools.partial(chunked_cross_entropy.loss, chunk_size=16)
LINEAR = functools.partial(linear_cross_entropy.loss, chunk_size=0)
SEVENS = functools.partial(linear_cross_entropy.loss, chunk_size=7)
FUSED = functools.partial(fused_linear_cross_entropy.loss, chunk_size=16)
CUT = cut_cross_entropy.loss
OURS = ("fused_linear_cross_entropy", "cut_cross_entropy")
NINE = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_bigcode"]


def model_of(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    still = STILL if config["model_type"].startswith("gpt") else {}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config, **still), dtype=dtype
    ).train()
    made.config.use_cache = False
    # Logits that differ, as those of a trained model do.
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(5)
    return made


def batch(padded: bool) -> tuple[dict[str, torch.Tensor], int]:
    tokens = torch.randint(0, 320, (2, 48), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[0, :9] = -100
    found = {"input_ids": tokens, "labels": labels}
    if padded:
        mask = torch.ones_like(tokens)
        mask[1, 40:] = 0
        labels[1, 40:] = -100
        found |= {"attention_mask": mask, "position_ids": torch.arange(48).expand(2, -1)}
    return found, int((labels[:, 1:] != -100).sum())


def backward(model: Any, loss: Loss, padded: bool = False) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    value = loss(model, *batch(padded))
    value.backward()
    return value.item(), [w.grad.float() for w in model.parameters() if w.grad is not None]


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest relative distance between two gradients of a weight."""
    norms = [(a - b).norm() / b.norm() for a, b in zip(ours, theirs, strict=True) if b.norm() > 0]
    return max(norm.item() for norm in norms)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", NINE)
def test_value_and_gradients_are_the_plain_loss_s(
    family: str, padded: bool, families: dict[str, Any]
) -> None:
    model = model_of(families[family])
    value, gradients = backward(model, recipe.loss, padded)
    capped = families[family].get("final_logit_softcapping")
    # fp32 sums over 320 words and 96 tokens, in another order.
    bound = (320 + 96) * 2**-24
    for loss in (CHUNKED, FUSED, CUT, *(() if capped else (LINEAR, SEVENS))):
        found, others = backward(model, loss, padded)
        assert abs(found - value) <= bound * value
        assert apart(others, gradients) <= bound


@pytest.mark.parametrize("how", ["bf16", "amp"])
def test_half_precision_stays_within_the_tolerance(how: str, families: dict[str, Any]) -> None:
    model = model_of(families["llama"], torch.bfloat16 if how == "bf16" else torch.float32)
    model = amp_bf16.patch_model(model) if how == "amp" else model
    value, gradients = backward(model, recipe.loss)
    for name, loss in (
        ("chunked_cross_entropy", CHUNKED),
        ("linear_cross_entropy", SEVENS),
        ("fused_linear_cross_entropy", FUSED),
        ("cut_cross_entropy", CUT),
    ):
        tolerance = techniques()[name].tolerance
        assert tolerance is not None
        found, others = backward(model, loss)
        assert abs(found - value) <= tolerance * value
        # Factors and results of the two products of the head's backward pass, and of the scale:
        # six roundings of 2^-8 at most, on a gradient that both have rounded.
        assert apart(others, gradients) <= 6 * 2**-8


def test_many_chunks_in_half_precision_lose_nothing_of_the_sum() -> None:
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 2048}
    model = model_of(config, torch.bfloat16)
    tokens = torch.randint(0, 2048, (4, 256), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": tokens, "labels": tokens}
    with torch.no_grad():
        plain, ours = recipe.loss(model, rows, 1020), LINEAR(model, rows, 1020)
    # A sum kept in bf16 stands still once it is 256 times what is added: it would be 5 % off.
    assert abs(plain - ours) <= 2**-8 * plain


def test_an_adapter_s_head_is_frozen_and_keeps_no_gradient(families: dict[str, Any]) -> None:
    from memwb.engine.techniques import lora

    values = []
    for loss in (recipe.loss, CHUNKED, LINEAR, FUSED, CUT):
        model = model_of(families["llama"])
        model = lora.adapt_model(model, **lora_parameters())
        values.append(backward(model, loss)[0])
        head = model.get_base_model().get_output_embeddings()
        assert head.weight.grad is None
    assert max(values) - min(values) <= 416 * 2**-24 * values[0]


def lora_parameters() -> dict[str, Any]:
    """LoRA's defaults, whichever it has."""
    import inspect

    from memwb.engine.techniques import lora

    takes = inspect.signature(lora.adapt_model).parameters.values()
    chosen = lora.Params()
    return {p.name: getattr(chosen, p.name) for p in takes if p.kind is p.KEYWORD_ONLY}


def test_a_head_that_is_not_plain_is_said_so(families: dict[str, Any]) -> None:
    model = model_of(families["llama"])
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    for loss in (LINEAR, FUSED, CUT):
        with pytest.raises(TypeError, match="Sequential, not a plain linear layer"):
            backward(model, loss)


SCALED = {
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.25},
}


@pytest.mark.parametrize("family", SCALED)
def test_ours_scale_logits_as_the_model_does(family: str) -> None:
    config = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 320}
    config |= {"model_type": family, "pad_token_id": 0, **SCALED[family]}
    model = model_of(config)
    value, gradients = backward(model, recipe.loss)
    for loss in (FUSED, CUT):
        found, others = backward(model, loss)
        assert abs(found - value) <= 416 * 2**-24 * value
        assert apart(others, gradients) <= 416 * 2**-24
    for name in OURS:
        assert not problems(plan_of(f"{name}=on"), config)
        [problem] = problems(plan_of(f"{name}=on"), {**config, "model_type": "mpt"})
        assert "scales its logits" in problem.reason


def plan_of(*overrides: str) -> Plan:
    return functools.reduce(override, overrides, Plan(model="tiny"))


@pytest.mark.parametrize("key", ["logits_scaling", "logit_scale", "lm_head_multiplier"])
@pytest.mark.parametrize("name", ["chunked_cross_entropy", "linear_cross_entropy"])
def test_scaled_logits_are_refused(name: str, key: str) -> None:
    [problem] = problems(plan_of(f"{name}=on"), {"model_type": "granite", key: 8.0})
    assert key in problem.reason
    assert not problems(plan_of(f"{name}=on"), {"model_type": "granite", key: 1.0})


def test_capped_logits_and_an_adapted_head_are_for_the_chunks(families: dict[str, Any]) -> None:
    plan = plan_of("linear_cross_entropy=on")
    [problem] = problems(plan, families["gemma2"])
    assert "caps" in problem.reason
    assert not problems(override(plan, problem.override), families["gemma2"])
    assert not any(problems(plan_of(f"{name}=on"), families["gemma2"]) for name in OURS)
    for adapter in ('lora.targets=["lm_head"]', "lora.output_layer=true"):
        for name in ("linear_cross_entropy", *OURS):
            reasons = [found.reason for found in problems(plan_of(f"{name}=on", adapter))]
            assert any("adapter on the output head" in reason for reason in reasons)


@pytest.mark.parametrize("version,here", [("2.11.0+cpu", False), ("2.13.0", True), ("3.0", True)])
def test_an_older_torch_does_not_have_it(
    version: str, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(technique, "torch_version", lambda: version)
    assert (not unavailable(techniques()["linear_cross_entropy"])) == here


def test_a_script_says_which_torch_it_needs() -> None:
    model = resolve("tiny", "random")
    plain = script(plan_of(), model)
    fused = script(plan_of("linear_cross_entropy=on"), model)
    assert "torch>=2.11," in plain and "torch>=2.13," in fused


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_log_probabilities_are_not_kept(precision: str, checkpoint: Path) -> None:
    from memwb.engine.trainer.burst import run_plan

    def kept(*overrides: str) -> int:
        work = {"sequence_length": 64, "batch_size": 2, "steps": 2}
        plan = plan_from({"model": str(checkpoint), "workload": work})
        for text in (f"{precision}=on", *overrides):
            plan = override(plan, text)
        events: list[Any] = []
        ended = run_plan(Start(plan_data(plan), "cpu", "1"), events.append)
        assert ended.outcome == "done", ended
        samples = [event for event in events if isinstance(event, Timeline)][-1].samples
        return max(sample.categories.activations for sample in samples)

    plain = kept()
    # What is saved for each token and word, but for the labels beside them and the loss itself.
    logs = 4 * 128 * 320
    for name in ("chunked_cross_entropy", "linear_cross_entropy"):
        saved = plain - kept(f"{name}=on")
        assert abs(saved - logs) <= 8 * 128 + 64, name
