"""Checkpoints are loaded on meta as transformers loads them: the same bytes at the highest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memwb.engine import catalog
from memwb.engine.checkpoint import header
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override, plan_data, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.predict.reading import deeper
from memwb.engine.predict.run import traced
from memwb.engine.predict.targets import target_named
from memwb.engine.prediction import Prediction
from memwb.engine.prediction_cache import key_of
from memwb.engine.technique import techniques

pytestmark = pytest.mark.long

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
GPT = {"n_embd": 64, "n_head": 4, "vocab_size": 320, "n_positions": 64}
DEEP = {"num_hidden_layers": 11}

MODELS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "llama-fp32": ({"model_type": "llama", **SMALL}, "float32", {}),
    "llama-bf16": ({"model_type": "llama", **SMALL, **DEEP}, "bfloat16", {}),
    "shards": ({"model_type": "llama", **SMALL, **DEEP}, "bfloat16", {"max_shard_size": "200KB"}),
    "qwen2": ({"model_type": "qwen2", **SMALL, "tie_word_embeddings": True}, "bfloat16", {}),
    "gpt2": ({"model_type": "gpt2", **GPT, "n_layer": 11}, "float32", {}),
    "gemma3": (
        {"model_type": "gemma3_text", **SMALL, **GEMMA, "tie_word_embeddings": True},
        "bfloat16",
        {},
    ),
    "experts": (
        {
            **{"model_type": "qwen3_moe", **SMALL, "num_hidden_layers": 9, "head_dim": 16},
            **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        },
        "bfloat16",
        {},
    ),
}
"""Each model's config, the type that it is saved in, and how."""

FOUR = "quantize_4bit quantize_4bit.upcast=false lora=on lora.rank=1"
EIGHT = "quantize_8bit quantize_8bit.upcast=false lora=on lora.rank=1"
"""With upcast or larger adapters the highest of loading is long after reading."""

CASES = [
    ("llama-fp32", "fp32"),
    ("llama-fp32", "bf16"),
    ("llama-fp32", "amp_bf16"),
    ("llama-fp32", "bf16 " + FOUR),
    ("llama-fp32", "bf16 " + EIGHT),
    ("llama-bf16", "bf16"),
    ("llama-bf16", "amp_bf16"),
    ("llama-bf16", "bf16 lora"),
    ("llama-bf16", "bf16 quantize_4bit"),
    ("llama-bf16", "fp32 " + FOUR),
    ("llama-bf16", "bf16 " + EIGHT),
    ("shards", "fp32"),
    ("shards", "bf16 " + FOUR),
    ("qwen2", "fp32"),
    ("qwen2", "bf16 " + FOUR),
    ("gpt2", "bf16"),
    ("gpt2", "bf16 " + FOUR),
    ("gpt2", "bf16 " + EIGHT),
    ("gemma3", "fp32"),
    ("gemma3", "bf16 " + FOUR),
    ("experts", "bf16 " + FOUR),
    ("experts", "bf16"),
    ("experts", "fp32"),
    ("twice", "bf16"),
    ("twice", "fp32"),
    ("lacking", "bf16"),
]


ONE_BY_ONE = ("experts",)
"""Models of which all is read by the main thread: where threads read, it is up to chance how far
they are when the main one merges experts."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = tmp_path_factory.mktemp("saved")
    for name, (config, dtype, how) in MODELS.items():
        made = AutoConfig.for_model(**config)
        model = AutoModelForCausalLM.from_config(made, dtype=getattr(torch, dtype))
        model.save_pretrained(place / name, **how)
    assert len(list((place / "shards").glob("*.safetensors"))) > 3
    # Tied weights under both names, as some makers store them; and some that are not there.
    shutil.copytree(place / "qwen2", place / "twice")
    shutil.copytree(place / "llama-fp32", place / "lacking")
    change(
        place / "twice", lambda all_: {**all_, "lm_head.weight": all_["model.embed_tokens.weight"]}
    )
    change(place / "lacking", lambda all_: {k: v for k, v in all_.items() if "up_proj" not in k})
    return place


def change(folder: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write other weights into a model's folder."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = {name: one.clone() for name, one in edit(load_file(file)).items()}
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})


def planned(folder: Path, changes: str) -> Plan:
    """A plan of a short step, with what its techniques need."""
    work = {"sequence_length": 8, "batch_size": 1, "steps": 2}
    plan = plan_from({"model": str(folder), "workload": work})
    for change in changes.split():
        plan = override(plan, change if "=" in change else f"{change}=on")
    for name in list(plan.techniques):
        for need in techniques()[name].needs:
            if not set(need.names) & set(plan.techniques):
                plan = override(plan, f"{need.names[0]}=on")
    return plan


@pytest.fixture(scope="module")
def measured(warm: Any, saved: Path) -> Iterator[Callable[[int], int]]:
    """The most bytes of loading by the number of the case, measured while others are predicted."""
    asked = [
        {"plan": plan_data(planned(saved / model, changes)), "target": "cpu", "measure": True}
        for model, changes in CASES
    ]
    with subprocess.Popen(
        warm.python(Path(__file__).with_name("both.py")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for one, (model, _) in zip(asked, CASES, strict=True):
            line = json.dumps({**one, "threads": model not in ONE_BY_ONE})
            process.stdin.write(f"{line}\n")
        process.stdin.close()
        answers = process.stdout
        found: list[int] = []

        def most(case: int) -> int:
            while len(found) <= case:
                answer = json.loads(answers.readline())["measured"]
                assert isinstance(answer, dict), answer
                found.append(sum(answer["0/load"]))
            return found[case]

        yield most
        process.kill()


def told_in_place(found: Prediction) -> bool:
    return any("made in place" in note for note in found.notes)


def most_of_loading(found: Prediction) -> int:
    return max(point.allocated for point in found.timeline if point.step == 0)


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: ": ".join(CASES[case]))
def test_loading_is_predicted_to_the_byte(
    measured: Callable[[int], int], saved: Path, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, changes = CASES[case]
    if model in ONE_BY_ONE:
        monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    found = predict(planned(saved / model, changes), "cpu")
    assert most_of_loading(found) == measured(case)
    assert not told_in_place(found)


def test_experts_that_threads_read_are_all_there_before_they_are_merged(saved: Path) -> None:
    found = predict(planned(saved / "experts", "bf16"), "cpu")
    files = catalog.local_weights(catalog.resolve(str(saved / "experts")))
    entries = [one for file in files for one in header(file).values()]
    # Beside all: gates and ups of one layer's four experts, each stacked already, in one tensor.
    merged = 2 * 4 * 32 * 64 * 2
    stored = sum(one["data_offsets"][1] - one["data_offsets"][0] for one in entries)
    assert stored + merged <= most_of_loading(found) <= stored + merged + 8192


def test_steps_are_those_of_weights_made_in_place(saved: Path) -> None:
    for changes in ("bf16", "bf16 quantize_4bit"):
        read = planned(saved / "llama-bf16", changes)
        one, other = (predict(plan, "cpu") for plan in (read, override(read, "weights=random")))
        points = [[point for point in all_.timeline if point.step] for all_ in (one, other)]
        assert points[0] == points[1]
        assert one.parameters == other.parameters


def test_a_gpu_holds_nothing_while_the_host_reads(saved: Path) -> None:
    """Weights of full precision are moved when all are read: nothing but them is on the GPU."""
    found = predict(planned(saved / "llama-fp32", "bf16"), "h200")
    load = [point for point in found.timeline if point.step == 0]
    assert most_of_loading(found) == load[-1].categories.weights


def test_a_quantized_base_has_its_memory_asked_for_at_once(saved: Path) -> None:
    """transformers takes the bytes of all weights from CUDA's allocator before it loads, and gives
    them back: what is reserved is in one piece."""
    plan = planned(saved / "llama-bf16", "bf16 quantize_4bit")
    births = traced(plan, target_named("h200")).stream.births.values()
    asked = [one.shape for one in births if one.op == "aten.empty" and one.dtype == "float16"]
    linear = 11 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    others = 2 * 320 * 64 + (2 * 11 + 1) * 64
    assert asked == [((linear // 2 + 2 * others) // 2,)]


def test_what_does_not_fit_the_config_cannot_be_loaded(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "llama-fp32", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["intermediate_size"] = 128
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MemwbError, match="ignore_mismatched_sizes"):
        predict(planned(tmp_path / "other", "bf16"), "cpu")


def test_what_is_not_here_or_stored_quantized_is_made_in_place(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "llama-fp32", tmp_path / "quantized")
    file = tmp_path / "quantized" / "config.json"
    config = json.loads(file.read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps(config | {"quantization_config": stored}))
    plan = planned(tmp_path / "quantized", "bf16")
    assert not catalog.local_weights(catalog.resolve(plan.model))
    assert told_in_place(predict(plan, "cpu"))
    assert not told_in_place(predict(override(plan, "weights=random"), "cpu"))


def test_other_weights_are_another_prediction(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "qwen2", tmp_path / "m")
    plan = planned(tmp_path / "m", "bf16")
    before = key_of(plan, catalog.resolve(plan.model), "cpu")
    assert key_of(plan, catalog.resolve(plan.model), "cpu") == before
    change(tmp_path / "m", lambda all_: {name: one.float() for name, one in all_.items()})
    assert key_of(plan, catalog.resolve(plan.model), "cpu") != before


def named(count: int, *parts: str) -> list[str]:
    return [f"{part.format(at)}.weight" for part in parts for at in range(count)]


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["model.embed.weight", *named(4, "model.layers.{}.q")], ["model.layers.3.q.weight"]),
        # Experts are numbered within a layer, in the same way.
        (named(4, "h.{}.experts.0.up", "h.1.experts.{}.up"), ["h.3.experts.0.up.weight"]),
        # A last one, which predicts the token after the next, is none of the layers.
        (named(5, "layers.{}.q"), ["layers.3.q.weight", "layers.4.q.weight"]),
        (named(3, "layers.{}.q"), []),
        # Which of the two is the language model's?
        (named(4, "text.layers.{}.q", "vision.layers.{}.q"), []),
    ],
)
def test_names_of_deeper_layers(names: list[str], left: list[str]) -> None:
    assert deeper(names, 4, 3) == frozenset(left)
