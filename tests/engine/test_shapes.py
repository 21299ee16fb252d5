"""The tensors told from a config alone, against those of the real model on the meta device."""

from __future__ import annotations

import re
from typing import Any

import pytest

from memwb.engine import catalog
from memwb.engine.families import FAMILIES as TABLES
from memwb.engine.shapes import Shape, shape_of


def on_meta(config: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def told(shape: Shape) -> dict[tuple[str, tuple[int, ...]], int]:
    return {(weight.name, weight.shape): weight.count for weight in shape.weights}


def real(model: Any) -> dict[tuple[str, tuple[int, ...]], int]:
    """The names inside a layer or the model, with their shapes, and how often each is there."""
    found: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, weight in model.named_parameters():
        key = re.sub(r"^\w+\.(layers|h)\.\d+\.", "", name), tuple(weight.shape)
        found[key] = found.get(key, 0) + 1
    return found


def check(config: dict[str, Any]) -> None:
    model = on_meta(config)
    shape = shape_of(config)
    assert shape is not None
    assert told(shape) == real(model)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    text = model.config
    assert (shape.layers, shape.hidden) == (text.num_hidden_layers, text.hidden_size)
    assert (shape.heads, shape.vocabulary) == (text.num_attention_heads, text.vocab_size)
    assert shape.tied == (model.get_input_embeddings().weight is model.lm_head.weight)


Families = dict[str, dict[str, Any]]


def small(families: Families, model_type: str) -> dict[str, Any]:
    return next(config for config in families.values() if config["model_type"] == model_type)


@pytest.mark.parametrize("model_type", TABLES)
def test_every_family_and_what_it_takes_for_a_key_left_out(
    families: Families, model_type: str
) -> None:
    config = small(families, model_type)
    if "n_embd" in config:
        config = {**config, "n_embd": 96}  # so that the 12 heads of the default divide it
    check(config)
    for key in config.keys() - {"model_type", "pad_token_id"}:
        check({name: value for name, value in config.items() if name != key})


@pytest.mark.parametrize("name", catalog.catalogue())
def test_every_architecture_of_the_catalogue(name: str) -> None:
    check(catalog.resolve(name, "random").config or {})


NULL = {"num_key_value_heads": None, "head_dim": None}


@pytest.mark.parametrize(
    "model_type,changes",
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", NULL),
        ("mistral", {"head_dim": None}),
        ("qwen2", {"num_key_value_heads": None}),
        ("qwen3", {"attention_bias": True}),
        ("gemma2", {"attention_bias": True}),
        ("gemma3_text", {"attention_bias": True}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("gpt2", {"n_inner": 96}),
        ("gpt_bigcode", {"multi_query": False}),
    ],
)
def test_what_a_config_can_ask_for(
    families: Families, model_type: str, changes: dict[str, Any]
) -> None:
    check({**small(families, model_type), **changes})


def test_what_is_written_transposed_is_a_conv1d(families: Families) -> None:
    from transformers.pytorch_utils import Conv1D

    for config in families.values():
        shape = shape_of(config)
        assert shape is not None
        module = {name.split(".", 3)[-1]: found for name, found in on_meta(config).named_modules()}
        for weight in shape.weights:
            if weight.kind == "linear":
                made = module[weight.name.removesuffix(".weight")]
                assert weight.transposed == isinstance(made, Conv1D)


def test_what_is_not_known_is_not_guessed(families: Families) -> None:
    assert shape_of({}) is None
    assert shape_of({"model_type": "mixtral"}) is None
    assert shape_of({**families["llama"], "quantization_config": {"bits": 4}}) is None
    assert set(TABLES) == {config["model_type"] for config in families.values()}
