"""The fused layers: what they replace in each family, what they keep, beside what they stand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from memwb.engine.arithmetic import effects_of, facts_of
from memwb.engine.plan import Plan, override, problems
from memwb.engine.technique import module_of

FUSED = ("fused_rms_norm", "fused_mlp", "fused_rope")
NORMED_HEADS = ("qwen3", "gemma3")

# How many modules of a decoder layer are replaced, and how many outside.
COUNTS = {
    "fused_rms_norm": {"qwen3": (4, 1), "gemma2": (4, 1), "gemma3": (6, 1), "": (2, 1)},
    "fused_mlp": {"": (1, 0)},
    "fused_rope": {"": (1, 0)},
}
WITHOUT = ("gpt2", "gpt_bigcode")


@pytest.mark.parametrize("name", FUSED)
def test_every_module_of_a_family_is_replaced_or_it_is_refused(
    name: str, families: dict[str, Any], family: str
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = families[family]
    plan = override(override(Plan(model=family), f"{name}=on"), "workload.sequence_length=24")
    found = problems(plan, config)
    if family in WITHOUT:
        assert family in found[0].reason and found[0].override == f"{name}=off"
        return
    assert not found
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        module_of(name).patch_model(model)
    replaced = [module for module in model.modules() if "forward" in vars(module)]
    layer, beside = COUNTS[name].get(family, COUNTS[name][""])
    assert len(replaced) == layer * config["num_hidden_layers"] + beside


@pytest.mark.parametrize("name", FUSED)
def test_other_models_are_refused_and_never_left_as_they_are(name: str) -> None:
    import torch

    plan = override(Plan(model="x"), f"{name}=on")
    (found,) = problems(plan, {"model_type": "mixtral"})
    assert "mixtral" in found.reason and "not known" in found.reason
    model: Any = torch.nn.Linear(2, 2)
    text = type("Config", (), {"model_type": "llama", "hidden_act": "silu"})()
    model.config = type("Outer", (), {"get_text_config": lambda self: text})()
    with pytest.raises(TypeError, match="found in Linear"):
        module_of(name).patch_model(model)


def test_an_activation_without_a_kernel_is_refused(bench: Any) -> None:
    plan = bench.adding(bench.plan(), "fused_mlp")
    assert "relu2" in bench.refused(plan, bench.tiny | {"hidden_act": "relu2"})
    for known in ("gelu", "gelu_pytorch_tanh"):
        config = bench.tiny | {"hidden_act": known, "num_hidden_layers": 1}
        plain = bench.losses(override(plan, "fused_mlp=off"), config)
        assert bench.losses(plan, config) == pytest.approx(plain, rel=2**-18)


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", "llama"), ("bf16", "llama"), ("bf16", "part"), ("amp_bf16", "phi3")],
)
def test_rotating_changes_no_bit(
    bench: Any, precision: str, kind: str, families: dict[str, Any]
) -> None:
    # Phi's heads are slices of one product, and it may rotate a part of a head.
    part = families["phi3"] | {"partial_rotary_factor": 0.5}
    config = {"llama": bench.tiny, "phi3": families["phi3"], "part": part}[kind]
    plan = bench.adding(bench.plan(), precision, "fused_rope")
    plain = override(plan, "fused_rope=off")
    assert bench.losses(plan, config) == bench.losses(plain, config)
    assert bench.run(plan, config).gradients == bench.run(plain, config).gradients != {}


@pytest.mark.parametrize(
    "beside",
    [
        ("amp_bf16",),
        ("lora",),
        ("bf16", "lora", "activation_checkpointing"),
        ("quantize_4bit", "lora"),
        ("packing",),
    ],
    ids="+".join,
)
def test_all_three_beside_others(bench: Any, beside: tuple[str, ...]) -> None:
    plain = bench.adding(bench.plan(steps=4), *beside)
    fused = bench.adding(plain, *FUSED)
    assert bench.losses(fused) == pytest.approx(bench.losses(plain), rel=2**-7)


CONTEXTS = (("bf16=on",), ("amp_bf16=on",), ("bf16=on", "lora=on", "lora.rank=4"))


@pytest.mark.parametrize("context", CONTEXTS, ids="+".join)
def test_a_layer_keeps_what_the_arithmetic_says(
    context: tuple[str, ...], families: dict[str, Any], family: str
) -> None:
    config = families[family]
    if family in WITHOUT:
        return
    made = {name: kept_by_a_layer(config, context, name) for name in ("", *FUSED)}
    # Phi's queries are slices: as they come out of the plain rotation they lie in memory so that
    # the attention's output is copied for the projection, and kept twice.
    copied = family == "phi3" and "lora=on" not in context
    assert (made["fused_rope"] < made[""]) if copied else (made["fused_rope"] == made[""])
    for name in ("fused_rms_norm", "fused_mlp"):
        plan = Plan(model=family)
        for text in ("workload.sequence_length=24", *context, f"{name}=on"):
            plan = override(plan, text)
        facts = facts_of(plan, config)
        assert facts is not None
        (effect,) = effects_of(name, plan.techniques[name], facts)
        assert made[name] - made[""] == effect.after - (effect.before or 0), name


def kept_by_a_layer(config: dict[str, Any], context: tuple[str, ...], name: str) -> int:
    """Bytes that a decoder layer keeps for backward beside its weights: a third one's."""
    return kept(config, context, name, 3) - kept(config, context, name, 2)


def kept(config: dict[str, Any], context: tuple[str, ...], name: str, layers: int) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made = config | {"num_hidden_layers": layers}
    if config["model_type"].startswith("gemma"):
        made["layer_types"] = ["full_attention"] * layers
    dtype = torch.bfloat16 if "bf16=on" in context else torch.float32
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**made), dtype=dtype)
    if "lora=on" in context:
        adapters = msgspec.to_builtins(module_of("lora").Params(rank=4))
        model = module_of("lora").adapt_model(model, **adapters)
    if name:
        model = module_of(name).patch_model(model)
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled="amp_bf16=on" in context),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        out = model(input_ids=torch.arange(24).view(1, 24), use_cache=False).logits
    assert out.requires_grad
    return sum(storage.nbytes() for storage in storages.values())
