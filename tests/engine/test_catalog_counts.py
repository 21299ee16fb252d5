"""Every architecture of the catalogue, built on the meta device, against published counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from memwb.engine import catalog

NAMES = list(catalog.catalogue())
SCALE = {"K": 10**3, "M": 10**6, "B": 10**9}

# Counts that others have published to the last digit (model hubs count the tensors they hold),
# written down apart from the catalogue so that one slip cannot pass in both.
EXACT = {
    "gpt2": 124439808,
    "smollm2-135m": 134515008,
    "smollm2-360m": 361821120,
    "smollm2-1.7b": 1711376384,
    "tinyllama-1.1b": 1100048384,
    "qwen2.5-0.5b": 494032768,
    "qwen2.5-1.5b": 1543714304,
    "qwen2.5-3b": 3085938688,
    "qwen2.5-7b": 7615616512,
    "qwen2.5-14b": 14770033664,
    "qwen3-0.6b": 596049920,
    "qwen3-1.7b": 1720574976,
    "qwen3-4b": 4022468096,
    "qwen3-8b": 8190735360,
    "llama-3.2-1b": 1235814400,
    "llama-3.2-3b": 3212749824,
    "llama-3.1-8b": 8030261248,
    "llama-3.1-70b": 70553706496,
    "mistral-7b": 7248023552,
    "gemma-2-2b": 2614341888,
    "gemma-2-9b": 9241705984,
    "gemma-3-1b": 999885952,
    "gemma-3-4b": 3880263168,
    "phi-3.5-mini": 3821079552,
    "starcoder-15.5b": 15517456384,
}


def on_meta(name: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**(catalog.resolve(name, "random").config or {}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def rounds_to(count: int, published: str) -> bool:
    """Within one unit of the last digit that counts: makers round, and some cut off."""
    number = Decimal(published[:-1])
    unit = Decimal(1).scaleb(int(number.normalize().as_tuple().exponent))
    return abs(Decimal(count) / SCALE[published[-1]] - number) < unit


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_has_the_published_number_of_parameters(name: str) -> None:
    entry = catalog.catalogue()[name]
    # parameters() yields a shared matrix once.
    count = sum(weight.numel() for weight in on_meta(name).parameters())
    assert count == entry.parameters
    assert count == EXACT.get(name, count)
    assert rounds_to(count, entry.published)


def test_every_model_but_our_own_has_an_exact_count() -> None:
    assert set(NAMES) - set(EXACT) == {"tiny"}


def test_the_comparison_with_a_rounded_count_can_fail() -> None:
    assert rounds_to(7_615_616_512, "7.61B")
    assert not rounds_to(7_641_000_000, "7.61B")
    assert rounds_to(361_821_120, "360M")
    assert not rounds_to(375_000_000, "360M")


def test_gemma_3_4b_is_the_text_part_that_its_makers_count() -> None:
    model = on_meta("gemma-3-4b")
    embedding = model.get_input_embeddings().weight.numel()
    total = sum(weight.numel() for weight in model.parameters())
    # Gemma 3 technical report, table 1: 3,209M parameters that are not embedding.
    assert round((total - embedding) / 1e6) == 3209


def test_what_shapes_the_arithmetic_arrives_in_the_config() -> None:
    """Values that no parameter count would miss."""
    gemma2 = on_meta("gemma-2-2b").config
    assert (gemma2.attn_logit_softcapping, gemma2.final_logit_softcapping) == (50.0, 30.0)
    assert gemma2.layer_types[:2] == ["sliding_attention", "full_attention"]
    gemma3 = on_meta("gemma-3-1b").config
    assert (gemma3.sliding_window, gemma3.layer_types.count("full_attention")) == (512, 4)
    assert gemma3.rope_parameters["sliding_attention"]["rope_theta"] == 10_000
    assert gemma3.rope_parameters["full_attention"]["rope_theta"] == 1_000_000
    assert on_meta("mistral-7b").config.sliding_window is None
    llama = on_meta("llama-3.2-1b").config
    assert llama.rope_parameters["rope_type"] == "llama3"
    assert (llama.rope_parameters["factor"], llama.rope_parameters["rope_theta"]) == (32.0, 5e5)
    phi = on_meta("phi-3.5-mini").config
    assert len(phi.rope_parameters["long_factor"]) == len(phi.rope_parameters["short_factor"]) == 48
    assert on_meta("qwen3-4b").model.layers[0].self_attn.head_dim == 128
    assert on_meta("starcoder-15.5b").transformer.h[0].attn.kv_heads == 1


def test_tiny_is_small_and_has_a_token_for_every_byte() -> None:
    tiny = catalog.resolve("tiny")
    assert 2_000_000 <= (tiny.parameters or 0) <= 4_000_000
    assert (tiny.vocabulary or 0) >= 256
    assert (tiny.weights, tiny.location, tiny.tokenizer) == ("random", "", "")


def test_building_does_not_write_into_the_catalogue() -> None:
    before = catalog.resolve("llama-3.1-8b").config
    on_meta("llama-3.1-8b")
    assert catalog.resolve("llama-3.1-8b").config == before
