"""Fused LoRA: the same gradients in every family, what is kept, and what is left to peft."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.techniques import fused_lora

pytest.importorskip("triton")

FAMILIES = ("llama", "qwen2", "gemma2", "phi3", "gpt2")
TOKENS = torch.arange(24).view(2, 12)


def adapted(config: dict[str, Any], dtype: torch.dtype, **settings: Any) -> Any:
    """A model with adapters whose B is not nothing, as it is after a while."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    made = AutoConfig.for_model(**config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(made, dtype=dtype)
    # Without dropout, which two models would draw apart.
    model.eval()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **settings))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted


def trained(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits, and the gradients by name."""
    logits = model(input_ids=TOKENS).logits.float()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()).backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return logits.detach(), found


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp32_every_family_has_the_same_gradients(
    family: str, mlp: bool, families: dict[str, Any]
) -> None:
    plain = adapted(families[family], torch.float32, use_rslora=True)
    fused = fused_lora.adapt_model(copy.deepcopy(plain), mlp=mlp)
    assert list(fused.state_dict()) == list(plain.state_dict())
    (wanted, gradients), (logits, found) = trained(plain), trained(fused)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert found.keys() == gradients.keys() and found
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def kept_bytes(model: Any, run: Callable[[Any], Any]) -> int:
    """Bytes of what is kept for backward and is no weight, each storage once."""
    held = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(model)
    del out
    return sum(kept.values())


def test_a_gated_mlp_keeps_its_input_and_what_its_activation_multiplies(
    families: dict[str, Any],
) -> None:
    hidden, inner, tokens = 64, 96, 24
    x = torch.randn(2, 12, hidden, dtype=torch.bfloat16)
    found = {}
    for mlp in (True, False):
        model = fused_lora.adapt_model(adapted(families["llama"], torch.bfloat16), mlp=mlp)
        part = model.get_base_model().model.layers[0].mlp
        found[mlp] = kept_bytes(model, lambda _, part=part: part(x))  # type: ignore[misc]
    two = 2 * tokens * (hidden + 2 * inner)
    assert found[True] == two
    # And the activation's result, and what the adapter gets.
    assert found[False] == two + 2 * tokens * 2 * inner


@pytest.mark.parametrize("autocast", [False, True])
def test_projections_share_one_input(autocast: bool, families: dict[str, Any]) -> None:
    dtype = torch.float32 if autocast else torch.bfloat16
    model = fused_lora.adapt_model(adapted(families["llama"], dtype), mlp=True)
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(2, 12, 64, dtype=dtype)

    def run(_: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return [attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)]

    assert kept_bytes(model, run) == 2 * x.numel()


def test_a_cast_is_not_taken_for_another(families: dict[str, Any]) -> None:
    last: dict[str, Any] = {}
    x = torch.ones(3)
    with torch.autocast("cpu", torch.bfloat16):
        first = fused_lora.as_computed(x, last)
        assert fused_lora.as_computed(x, last) is first
        x += 1
        second = fused_lora.as_computed(x, last)
        assert second is not first and second.tolist() == [2, 2, 2]
        with torch.no_grad():
            assert fused_lora.as_computed(x, last) is not second
        with torch.autocast("cpu", torch.float16):
            assert fused_lora.as_computed(x, last).dtype == torch.float16
    assert fused_lora.as_computed(x, last) is x


def test_without_its_adapter_or_with_it_merged_the_layer_is_pefts(
    families: dict[str, Any],
) -> None:
    plain = adapted(families["llama"], torch.float32)
    fused = fused_lora.adapt_model(copy.deepcopy(plain), mlp=True)
    with torch.no_grad():
        with plain.disable_adapter(), fused.disable_adapter():
            wanted = plain(input_ids=TOKENS).logits
            assert torch.equal(fused(input_ids=TOKENS).logits, wanted)
        for model in (plain, fused):
            model.merge_adapter()
        assert torch.equal(fused(input_ids=TOKENS).logits, plain(input_ids=TOKENS).logits)
        for model in (plain, fused):
            model.unmerge_adapter()
        logits = plain(input_ids=TOKENS).logits
        torch.testing.assert_close(fused(input_ids=TOKENS).logits, logits, rtol=1e-4, atol=1e-4)


def plan_of(*overrides: str) -> Plan:
    plan = plan_from({"model": "x", "workload": {"sequence_length": 16}})
    for text in ("lora=on", "fused_lora=on", *overrides):
        plan = override(plan, text)
    return plan


@pytest.mark.parametrize(
    ("changes", "reason"),
    [(("lora.dropout=0.1",), "dropout"), (("lora.dora=true",), "DoRA")],
)
def test_adapters_that_are_more_than_two_products_are_refused(
    changes: tuple[str, ...], reason: str, families: dict[str, Any]
) -> None:
    plan = plan_of(*changes)
    [problem] = problems(plan, families["llama"])
    assert reason in problem.reason
    assert not problems(override(plan, problem.override), families["llama"])


def test_an_activation_that_it_does_not_know_is_refused(families: dict[str, Any]) -> None:
    config = families["llama"] | {"hidden_act": "relu"}
    [problem] = problems(plan_of(), config)
    assert "relu" in problem.reason and problem.override == "fused_lora.mlp=false"
    assert not problems(override(plan_of(), problem.override), config)
    # There is no gated MLP in these.
    assert not problems(plan_of(), families["gpt2"] | {"activation_function": "relu"})


def test_a_model_without_adapters_is_an_error() -> None:
    with pytest.raises(ValueError, match="no adapted"):
        fused_lora.adapt_model(torch.nn.Linear(2, 2), mlp=True)
