"""What a script saves is what it trained: from_pretrained gives the same logits."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import types
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.catalog import Model, resolve
from memwb.engine.errors import MemwbError
from memwb.engine.plan import override, plan_from
from memwb.engine.script import script

IDS = list(range(3, 40))


def text_of(model: Model, *overrides: str, merge: bool = False) -> str:
    work = {"sequence_length": 32, "batch_size": 2, "steps": 3, "learning_rate": 0.02}
    plan = plan_from({"model": "x", "workload": work})
    for one in overrides:
        plan = override(plan, one)
    return script(plan, model, merge=merge)


def random_model(config: dict[str, Any]) -> Model:
    return Model(name="x", source="folder", location="/nowhere", weights="random", config=config)


def logits_of(model: Any) -> Any:
    """In training mode: bitsandbytes computes in another way when it only evaluates."""
    import torch

    with torch.no_grad():
        return model.train()(input_ids=torch.tensor([IDS])).logits.float()


def train(text: str, folder: Path, *argv: str) -> tuple[Any, Any, str]:
    """Logits of the trained model and of what it was before, and the line about the saving."""
    module = types.ModuleType("train")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    kept: dict[str, Any] = {}
    saving, building = module.save, module.build_optimizer

    def build_optimizer(model: Any, *rest: Any, **named: Any) -> Any:
        kept["before"] = logits_of(model)
        return building(model, *rest, **named)

    def save(args: Any, model: Any, tokenizer: Any) -> Any:
        kept["after"] = logits_of(model)
        return saving(args, model, tokenizer)

    module.save, module.build_optimizer = save, build_optimizer
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        module.main(["--output", str(folder), *argv])
    return kept["after"], kept["before"], out.getvalue()


def deviation(one: Any, other: Any) -> float:
    """The largest difference, against the largest logit."""
    return float((one - other).abs().max() / one.abs().max())


BIT_EQUAL = [
    [],
    ["bf16=on"],
    ["lora=on"],
    ["lora=on", "bf16=on"],
    ["lora.dora=true"],
    ["lora.output_layer=true"],
    ["lora.rank_stabilized=true", "lora.initialization=gaussian"],
    ["ia3=on"],
    ["lora=on", "quantize_8bit=on"],
    ["lora=on", "quantize_4bit=on"],
    ["lora=on", "quantize_4bit=on", "bf16=on"],
    ["ia3=on", "quantize_8bit=on", "bf16=on"],
]


# A random base is written beside its adapters, whatever kind they are.
RANDOM = [[], ["lora.output_layer=true"], *BIT_EQUAL[-4:]]
CASES = [(stack, True) for stack in BIT_EQUAL] + [(stack, False) for stack in RANDOM]


@pytest.mark.parametrize(("stack", "pretrained"), CASES, ids=str)
def test_what_is_saved_is_loaded_with_the_same_logits(
    stack: list[str], pretrained: bool, checkpoint: Path, tmp_path: Path, families: dict[str, Any]
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = resolve(str(checkpoint)) if pretrained else random_model(families["llama"])
    trained, before, said = train(text_of(model, *stack), tmp_path / "out")
    assert deviation(trained, before) > 1e-3, "the training has moved something"
    named: dict[str, Any] = {}
    quantized = next((one for one in stack if one.startswith("quantize")), "")
    if pretrained and "bf16=on" in stack:
        named["dtype"] = torch.bfloat16
    if pretrained and quantized:
        assert "give it the quantization_config of this script" in said
        settings: dict[str, Any] = {"load_in_8bit": True}
        if quantized == "quantize_4bit=on":
            settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
            settings |= {"bnb_4bit_use_double_quant": True}
            settings |= {"bnb_4bit_compute_dtype": named.get("dtype", torch.float32)}
        named |= {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": "cpu"}}
    load = AutoPeftModelForCausalLM if {"lora", "ia3"} & words(stack) else AutoModelForCausalLM
    again = load.from_pretrained(tmp_path / "out", **named)
    if pretrained and quantized and "bf16=on" in stack:
        # The upcast of norms, embeddings and head, which is no part of a checkpoint.
        for weight in again.parameters():
            weight.data = weight.data.float() if weight.dtype == torch.bfloat16 else weight.data
    assert torch.equal(logits_of(again), trained)


def words(stack: list[str]) -> set[str]:
    return {one.partition("=")[0].partition(".")[0] for one in stack}


@pytest.mark.parametrize("pretrained", [True, False], ids=["pretrained", "random"])
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora"])
def test_adapters_that_took_a_part_of_the_base_fit_the_base_as_it_was(
    start: str, pretrained: bool, checkpoint: Path, tmp_path: Path, families: dict[str, Any]
) -> None:
    from peft import AutoPeftModelForCausalLM

    model = resolve(str(checkpoint)) if pretrained else random_model(families["llama"])
    stack = [f"lora.initialization={start}", "lora.rank=4", "lora.rank_stabilized=true"]
    stack += ['lora.targets=["q_proj", "down_proj", "embed_tokens"]'] if start == "olora" else []
    trained, before, _ = train(text_of(model, *stack), tmp_path / "out")
    assert deviation(trained, before) > 1e-2
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.peft_config["default"].r == (8 if pretrained else 4)
    assert deviation(trained, logits_of(again)) <= rounding(layers=2, width=96 + 2 * 8)


def rounding(layers: int, width: int) -> float:
    """How far two ways to compute the same logits in fp32 may be apart, relative to the logits.

    A sum of n products errs by n * 2^-24 of the sum of their sizes at most, which for weights
    of random signs is about sqrt(n) times the size of the sum. There are 7 linear modules in a
    layer and the head, and both ways err.
    """
    return 2 * (7 * layers + 1) * width * math.sqrt(width) * 2.0**-24


MERGED = [
    ["lora=on"],
    ["lora.dora=true"],
    ["lora.output_layer=true"],
    ["lora.initialization=pissa"],
    ["ia3=on"],
    ["lora=on", "quantize_4bit=on"],
    ["lora=on", "quantize_8bit=on"],
    ["lora.dora=true", "quantize_4bit=on"],
    ["ia3=on", "quantize_4bit=on"],
]


MERGES = [(stack, True) for stack in MERGED] + [(stack, False) for stack in MERGED[-4:]]


@pytest.mark.parametrize(("stack", "pretrained"), MERGES, ids=str)
def test_a_merged_model_is_plain_and_has_the_logits_of_the_adapted_one(
    stack: list[str], pretrained: bool, checkpoint: Path, tmp_path: Path, families: dict[str, Any]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = resolve(str(checkpoint)) if pretrained else random_model(families["llama"])
    trained, before, _ = train(text_of(model, *stack, merge=True), tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    assert {type(module).__name__ for module in again.modules()} >= {"Linear"}
    bound = rounding(layers=2, width=96 + 16)
    assert deviation(trained, before) > 2 * bound, "the bound tells adapters from none"
    assert deviation(trained, logits_of(again)) <= bound


OTHERS = [
    ("gpt2", ["lora=on"]),
    ("gpt2", ["ia3=on"]),
    ("gpt2", ["lora=on", "quantize_4bit=on"]),
    ("gpt2", ["lora.dora=true", "quantize_4bit=on"]),
    ("gpt2", ["ia3=on", "quantize_8bit=on"]),
    ("gpt_bigcode", ["ia3=on", "quantize_4bit=on"]),
    ("phi3", ["ia3=on", "quantize_8bit=on"]),
    ("gemma2", ["lora=on", "quantize_8bit=on"]),
]


@pytest.mark.parametrize(("family", "stack"), OTHERS, ids=str)
def test_other_families_merge(
    family: str, stack: list[str], tmp_path: Path, families: dict[str, Any]
) -> None:
    """GPT-2's transposed weights and fused projections come back as its own kind of module."""
    from transformers import AutoModelForCausalLM

    drop = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    config = {**families[family], **(drop if family.startswith("gpt") else {})}
    trained, before, _ = train(text_of(random_model(config), *stack), tmp_path / "out", "--merge")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    bound = rounding(layers=2, width=256 + 16)
    assert deviation(trained, before) > bound
    assert deviation(trained, logits_of(again)) <= bound


def test_a_merged_weight_in_bf16_is_the_sum_rounded_once(checkpoint: Path, tmp_path: Path) -> None:
    """At most half of bf16's spacing away from the exact sum: 2^-8 of it."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    text = text_of(resolve(str(checkpoint)), "lora=on", "bf16=on")
    train(text, tmp_path / "adapters")
    train(text, tmp_path / "merged", "--merge")
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    adapters = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    found = dict(whole.named_parameters())
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    changed = 0
    for name, weight in base.named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" not in adapters:
            assert torch.equal(found[name], weight)
            continue
        update = (
            adapters[f"{key}.lora_B.weight"].double() @ adapters[f"{key}.lora_A.weight"].double()
        )
        exact = weight.detach().double() + 2 * update
        # Half of the spacing, and what the fp32 sums of 16 products err by.
        allowed = exact.abs() * 2.0**-8 + 17 * 2.0**-24 * (exact.abs() + 2 * update.abs() + 1)
        assert ((found[name].double() - exact).abs() <= allowed).all()
        changed += 1
    assert changed == 14


def test_adapters_of_a_random_base_can_be_moved(tmp_path: Path, families: dict[str, Any]) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    trained, _, said = train(text_of(random_model(families["llama"]), "lora=on"), tmp_path / "out")
    assert "PeftModel.from_pretrained" in said
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "out", moved)
    with pytest.raises((OSError, ValueError)):
        AutoPeftModelForCausalLM.from_pretrained(moved)
    base = AutoModelForCausalLM.from_pretrained(moved / "base")
    assert torch.equal(logits_of(PeftModel.from_pretrained(base, moved)), trained)


def test_an_adapter_holds_no_copy_of_the_head(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train(text_of(resolve(str(checkpoint)), "lora.output_layer=true"), tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    assert any("lm_head" in name for name in names)


def test_merge_without_adapters_is_wrong_before_anything_is_loaded(
    tmp_path: Path, families: dict[str, Any]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(text_of(random_model(families["llama"])))
    module = types.ModuleType("train")
    exec(compile(path.read_text(), "train.py", "exec"), module.__dict__)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        module.main(["--merge", "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "--merge goes with adapters" in said.getvalue()
    assert not (tmp_path / "out").exists()
    with pytest.raises(MemwbError, match="nothing to merge"):
        text_of(random_model(families["llama"]), merge=True)


def test_merge_explains_itself(families: dict[str, Any]) -> None:
    module = types.ModuleType("train")
    text = text_of(random_model(families["llama"]), "lora=on", merge=True)
    exec(compile(text, "train.py", "exec"), module.__dict__)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        module.main(["--help"])
    told = " ".join(out.getvalue().split())
    assert "--merge, --no-merge" in told
    assert "a quantized base is expanded" in told
