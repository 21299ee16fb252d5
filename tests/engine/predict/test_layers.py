"""Which layers are alike, by configs of many kinds, and how many of them are traced."""

from __future__ import annotations

from typing import Any

import pytest

from memwb.engine import catalog
from memwb.engine.predict.layers import FIXED, Pattern, depths, pattern, shorten

SPARSE = {"model_type": "qwen2_moe", "num_hidden_layers": 24}
CONFIGS: dict[str, tuple[dict[str, Any], Pattern]] = {
    "all alike": ({"model_type": "llama", "num_hidden_layers": 32}, Pattern(1)),
    "named otherwise": ({"model_type": "gpt2", "n_layer": 12}, Pattern(1)),
    "windows in turns": ({"model_type": "gemma2", "num_hidden_layers": 26}, Pattern(2)),
    "one in six": ({"model_type": "gemma3_text", "num_hidden_layers": 26}, Pattern(6)),
    "one in four": ({"model_type": "smollm3", "num_hidden_layers": 36}, Pattern(4)),
    "sparse layers": (SPARSE, Pattern(1)),
    "sparse and dense in turns": ({**SPARSE, "decoder_sparse_step": 3}, Pattern(3)),
    "dense ones first": ({**SPARSE, "mlp_only_layers": [0, 1]}, Pattern(1, 2)),
    "dense ones by a count": (
        {"model_type": "deepseek_v3", "num_hidden_layers": 61, "first_k_dense_replace": 3},
        Pattern(1, 3),
    ),
}


def config_of(fields: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(**fields)


@pytest.mark.parametrize("name", CONFIGS)
def test_patterns(name: str) -> None:
    fields, expected = CONFIGS[name]
    config = config_of(fields)
    assert pattern(config) == expected


def test_layers_by_a_list_of_their_types() -> None:
    kinds = ["sliding_attention", "full_attention", "full_attention"] * 4
    config = config_of({"model_type": "llama", "num_hidden_layers": 12})
    config.layer_types = kinds
    assert pattern(config) == Pattern(3)
    config.layer_types = ["a", *kinds[:11]]
    assert pattern(config) == Pattern(3, 1)


def test_layers_counted_from_the_last_are_not_folded() -> None:
    config = config_of({"model_type": "llama", "num_hidden_layers": 30})
    config.num_kv_shared_layers = 10
    found = pattern(config)
    assert depths(30, found.period, found.head) is None


def test_what_is_done_to_every_nth_layer_counts_too() -> None:
    plain = config_of({"model_type": "llama", "num_hidden_layers": 32})
    assert pattern(plain, [1, 3]).period == 3
    mixed = config_of({"model_type": "gemma2", "num_hidden_layers": 32})
    assert pattern(mixed, [3, 4]).period == 12


@pytest.mark.parametrize("head", [0, 1, 3])
@pytest.mark.parametrize("period", [1, 2, 3, 6])
def test_depths(period: int, head: int) -> None:
    for count in range(1, 100):
        found = depths(count, period, head)
        if found is None:
            # The short one need never be longer than this.
            assert count <= 2 * (max(head, 1) + 2 * period) + period + FIXED
            continue
        short, long = found
        assert long - short == period
        assert (count - short) % period == 0
        assert short >= max(head, 1) + period + 1
        assert short + long < count


def test_shorter_configs_say_so_everywhere() -> None:
    config = config_of({"model_type": "gemma3_text", "num_hidden_layers": 26})
    whole = list(config.layer_types)
    shorten(config, 8)
    assert config.num_hidden_layers == 8
    assert config.layer_types == whole[:8]


def test_the_catalogue_is_folded_where_that_saves() -> None:
    """All but the smallest and those of which two depths are nearly all layers."""
    whole = set()
    for name in catalog.catalogue():
        config = config_of(catalog.resolve(name, "random").config or {})
        found = pattern(config)
        if depths(config.get_text_config().num_hidden_layers, *found) is None:
            whole.add(name)
    assert whole <= {"tiny", "gemma-3-1b"}
