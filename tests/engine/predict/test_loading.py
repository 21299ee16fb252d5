"""Checkpoints are loaded on meta as transformers loads them: the same bytes at the highest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
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

SHARP = "quantize_4bit.upcast=false"
"""Without it the highest of loading is where embeddings are brought to fp32, long after reading."""

CASES = [
    ("llama-fp32", "fp32"),
    ("llama-fp32", "bf16"),
    ("llama-fp32", "amp_bf16"),
    ("llama-fp32", "bf16 quantize_4bit " + SHARP),
    ("llama-fp32", "bf16 quantize_8bit quantize_8bit.upcast=false"),
    ("llama-bf16", "bf16"),
    ("llama-bf16", "amp_bf16"),
    ("llama-bf16", "bf16 lora"),
    ("llama-bf16", "bf16 quantize_4bit"),
    ("llama-bf16", "fp32 quantize_4bit " + SHARP),
    ("llama-bf16", "bf16 quantize_8bit quantize_8bit.upcast=false"),
    ("shards", "fp32"),
    ("shards", "bf16 quantize_4bit " + SHARP),
    ("qwen2", "fp32"),
    ("qwen2", "bf16 quantize_4bit " + SHARP),
    ("gpt2", "bf16"),
    ("gpt2", "bf16 quantize_4bit " + SHARP),
    ("gpt2", "bf16 quantize_8bit"),
    ("gemma3", "fp32"),
    ("gemma3", "bf16 quantize_4bit " + SHARP),
    ("experts", "bf16 quantize_4bit " + SHARP),
]


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
    return place


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
        process.stdin.writelines(json.dumps({**one, "threads": 1}) + "\n" for one in asked)
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


def most_of_loading(found: Prediction) -> int:
    return max(point.allocated for point in found.timeline if point.step == 0)


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: ": ".join(CASES[case]))
def test_loading_is_predicted_to_the_byte(
    measured: Callable[[int], int], saved: Path, case: int
) -> None:
    model, changes = CASES[case]
    found = predict(planned(saved / model, changes), "cpu")
    assert most_of_loading(found) == measured(case)
    assert not any("in place" in note for note in found.notes)
