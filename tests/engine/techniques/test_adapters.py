"""LoRA, IA3 and quantized bases: what they train, in every family, and what they refuse."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.catalog import Model, resolve
from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.script import script
from memwb.engine.techniques import ia3, lora

WORK = {"sequence_length": 16, "batch_size": 1, "steps": 2, "learning_rate": 0.01}


def plan_of(*overrides: str) -> Plan:
    plan = plan_from({"model": "x", "workload": WORK})
    for text in overrides:
        plan = override(plan, text)
    return plan


def random_model(config: dict[str, Any]) -> Model:
    return Model(name="x", source="folder", location="/nowhere", weights="random", config=config)


def train(plan: Plan, model: Model) -> tuple[Any, list[float], dict[str, Any]]:
    """The model, its losses, and the gradients of its first step by name."""
    module = types.ModuleType("train")
    exec(compile(script(plan, model), "train.py", "exec"), module.__dict__)
    kept: dict[str, Any] = {}
    training = module.train

    def watched(args: Any, model: Any, optimizer: Any, *rest: Any) -> Any:
        kept["model"], kept["losses"] = model, []
        step = optimizer.step

        def stepping(*given: Any, **named: Any) -> Any:
            kept.setdefault("gradients", {n: p.grad for n, p in model.named_parameters()})
            return step(*given, **named)

        optimizer.step = stepping
        for number, value in training(args, model, optimizer, *rest):
            kept["losses"].append(value)
            yield number, value

    module.train = watched
    module.main([])
    return kept["model"], kept["losses"], kept["gradients"]


def arrived(gradients: dict[str, Any]) -> list[str]:
    return [name for name, gradient in gradients.items() if gradient is not None]


STACKS = [
    ["ia3=on", "quantize_4bit=on", "bf16=on"],
    ["ia3=on", "quantize_8bit=on", "bf16=on"],
    ["lora.dora=true", "quantize_4bit=on"],
    ["lora=on", "quantize_8bit.threshold=0.0", "bf16=on"],
]


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_all_families_train_what_is_added_and_nothing_else(
    stack: list[str], families: dict[str, dict[str, Any]]
) -> None:
    mark = "ia3_l" if "ia3=on" in stack else "lora_"
    for config in families.values():
        model, losses, gradients = train(plan_of(*stack), random_model(config))
        reached = arrived(gradients)
        assert reached and all(mark in name for name in reached)
        assert reached == [n for n, weight in model.named_parameters() if weight.requires_grad]
        assert all(0 < loss < 12 for loss in losses)


CHECKPOINTED = [
    ["lora=on", "quantize_4bit=on", "bf16=on"],
    ["lora.dora=true"],
    ["ia3=on", "quantize_8bit=on"],
]


@pytest.mark.parametrize("stack", CHECKPOINTED, ids="+".join)
def test_gradients_reach_adapters_under_checkpointing(
    stack: list[str], families: dict[str, dict[str, Any]]
) -> None:
    """The first layer's too, whose input needs no gradient: and they are the same, bit for bit."""
    import torch

    model = random_model(families["llama"])
    _, losses, plain = train(plan_of(*stack), model)
    _, others, checkpointed = train(plan_of(*stack, "activation_checkpointing=on"), model)
    assert losses == others
    assert arrived(plain) == arrived(checkpointed)
    assert any("layers.0." in name for name in arrived(checkpointed))
    for name in arrived(plain):
        assert torch.equal(plain[name], checkpointed[name])


@pytest.mark.parametrize("pretrained", [True, False], ids=["pretrained", "random"])
@pytest.mark.parametrize("compute", ["bf16", "fp16", "fp32"])
def test_a_4bit_base_computes_in_what_it_is_told(
    compute: str, pretrained: bool, checkpoint: Path, families: dict[str, Any]
) -> None:
    import torch

    model = resolve(str(checkpoint)) if pretrained else random_model(families["llama"])
    plan = plan_of("lora=on", "bf16=on", f"quantize_4bit.compute={compute}")
    trained, _, _ = train(plan, model)
    kinds = {m.compute_dtype for m in trained.modules() if hasattr(m, "compute_dtype")}
    assert kinds == {
        {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[compute]
    }


def test_an_8bit_weight_is_within_half_a_step_of_the_weight(families: dict[str, Any]) -> None:
    """A row's largest value is 127 steps, so a step is that by 127; fp16 adds 2^-11 of a value."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from memwb.engine.techniques.quantize_8bit import quantize_linear_8bit

    torch.manual_seed(0)
    for module in (torch.nn.Linear(40, 24), Conv1D(24, 40)):
        weight = module.weight.data if isinstance(module, torch.nn.Linear) else module.weight.data.T
        made = quantize_linear_8bit(module, threshold=6.0)
        again = made.weight.data.float() * made.weight.SCB[:, None] / 127
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert made.weight.dtype == torch.int8
        assert ((again - weight).abs() <= step / 2 + 127 * step * 2.0**-10).all()
        assert made.bias is module.bias


TIED = ["qwen2", "gemma2", "gemma3", "gpt2", "gpt_bigcode"]


def test_an_adapter_of_a_tied_output_layer_is_refused_and_mended(
    families: dict[str, dict[str, Any]],
) -> None:
    asked = ["lora.output_layer=true", 'lora.targets=["lm_head"]']
    both = 'lora.targets=["q_proj", "lm_head", "model.embed_tokens"]'
    for family, config in families.items():
        assert lora.tied(config) == (family in TIED)
        for text in asked:
            found = problems(plan_of(text), config)
            assert bool(found) == (family in TIED)
            if found:
                assert "tied" in found[0].reason
                assert not problems(override(plan_of(text), found[0].override), config)
    [problem, *_] = problems(plan_of(both), families["qwen2"])
    assert problem.override == 'lora.targets=["q_proj"]'
    assert not lora.tied({"model_type": "gpt2", "tie_word_embeddings": False})
    assert lora.tied({"model_type": "x", "text_config": {"tie_word_embeddings": True}})


def test_families_that_tie_by_default_are_those_of_transformers() -> None:
    from transformers import CONFIG_MAPPING

    for name in lora.TIED:
        if name in CONFIG_MAPPING and not name.startswith("gemma4"):
            assert CONFIG_MAPPING[name]().get_text_config().tie_word_embeddings, name
    for name in ("llama", "mistral", "phi3", "qwen2", "qwen3", "gpt_neox", "mixtral"):
        assert name not in lora.TIED
        assert not CONFIG_MAPPING[name]().tie_word_embeddings


def test_a_tied_output_layer_of_an_unknown_model_is_refused_when_it_is_met(
    families: dict[str, dict[str, Any]],
) -> None:
    model = random_model(families["llama"])
    text = script(plan_of("lora.output_layer=true"), model)
    module = types.ModuleType("train")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    module.CONFIG["tie_word_embeddings"] = True
    with pytest.raises(ValueError, match="tied to the embeddings"):
        module.main([])


REFUSED = {
    "lora.initialization=pissa quantize_4bit=on": "lora.initialization=default",
    "lora.initialization=olora quantize_8bit=on": "lora.initialization=default",
    "lora.initialization=orthogonal quantize_4bit=on": "lora.initialization=default",
    "lora.initialization=orthogonal lora.rank=5": "lora.rank=6",
    "lora.dora=true quantize_8bit=on": "lora.dora=false",
    "quantize_8bit=on": "lora=on",
}


@pytest.mark.parametrize("texts", REFUSED)
def test_what_peft_cannot_do_is_refused_with_what_mends_it(texts: str) -> None:
    plan = plan_of(*texts.split())
    [problem] = problems(plan)
    assert problem.override == REFUSED[texts]
    assert not problems(override(plan, problem.override))


def test_olora_is_refused_for_transposed_weights(families: dict[str, dict[str, Any]]) -> None:
    plan = plan_of("lora.initialization=olora")
    refused = [name for name, config in families.items() if problems(plan, config)]
    assert refused == ["gpt2"]


def test_more_directions_than_a_matrix_has_are_refused(
    families: dict[str, dict[str, Any]],
) -> None:
    plan = plan_of("lora.initialization=pissa", "lora.rank=40")
    [problem] = problems(plan, families["llama"])
    assert problem.override == "lora.rank=32"
    assert not problems(override(plan, problem.override), families["llama"])
    # Of a family that is not known, it is seen when the model is there.
    module = types.ModuleType("train")
    small = plan_of("lora.initialization=pissa", "lora.rank=32")
    exec(compile(script(small, random_model(families["llama"])), "t", "exec"), module.__dict__)
    adapt = module.adapt_model_lora
    module.adapt_model_lora = lambda model, **given: adapt(model, **given | {"rank": 40})
    with pytest.raises(ValueError, match="rank 40 is more than"):
        module.main([])


def test_wrong_targets_are_refused_before_anything_starts(
    families: dict[str, dict[str, Any]],
) -> None:
    [problem] = problems(plan_of('lora.targets=["q_prj", "v_proj"]'), families["llama"])
    assert "'q_prj' is no linear module" in problem.reason
    assert "did you mean 'q_proj'?" in problem.reason
    assert problem.override == 'lora.targets=["v_proj", "q_proj"]'
    [problem] = problems(plan_of('lora.targets=["zzz"]'), families["gpt2"])
    assert "there are c_attn, c_fc, c_proj" in problem.reason
    assert problem.override == "lora.targets=all-linear"
    right = ['"self_attn.q_proj"', '"q_proj", "lm_head"', '"embed_tokens"']
    for names in right:
        assert not problems(plan_of(f"lora.targets=[{names}]"), families["llama"])


def test_ia3_scales_keys_values_and_what_goes_into_the_last_product() -> None:
    llama = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    llama += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    gpt2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert ia3.scaled(llama, "all") == (
        ["self_attn.k_proj", "self_attn.v_proj"],
        ["mlp.down_proj"],
    )
    assert ia3.scaled(gpt2, "all") == (["attn.c_attn"], ["mlp.c_proj"])
    assert ia3.scaled(gpt2, "attention") == (["attn.c_attn"], [])
    assert ia3.scaled(gpt2, "feed-forward") == ([], ["mlp.c_proj"])
    with pytest.raises(ValueError, match=r"no keys, values or feed-forward among .* a, b"):
        ia3.scaled(["a", "b"], "all")


@pytest.mark.parametrize("base", ["quantize_4bit", "quantize_8bit"])
def test_factors_beside_a_base_that_stays_in_bf16_are_refused_and_mended(base: str) -> None:
    """peft's layers give fp32 there, and the next ones take bf16 alone."""
    texts = ("ia3=on", "bf16=on", f"{base}.upcast=false")
    [problem] = problems(plan_of(*texts))
    assert problem.path == "$.techniques.ia3" and problem.override == f"{base}.upcast=true"
    assert not problems(override(plan_of(*texts), problem.override))
    assert not problems(override(override(plan_of(*texts), "bf16=off"), "amp_bf16=on"))
