"""The architectures whose tensors are known, as tables: parts that families put together.

A family is the list of its tensors in terms of dimensions, and what transformers takes where a
config.json leaves a key out. ``shapes.py`` turns it into numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One tensor: its path, its kind, and the names of its dimensions."""

    name: str
    kind: str
    dimensions: tuple[str, ...]
    when: str = ""
    """The key of the config that must be true for it to be there; always if empty."""
    transposed: bool = False


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """How a family's model is built."""

    ends: tuple[Row, ...]
    """Outside the decoder layers."""
    layer: tuple[Row, ...]
    """In each decoder layer."""
    defaults: Mapping[str, Any]
    """What is taken for a key that config.json does not have, as transformers takes it."""


def _linear(path: str, outputs: str, inputs: str) -> Row:
    return Row(f"{path}.weight", "linear", (outputs, inputs))


def _conv1d(path: str, outputs: str, inputs: str) -> Row:
    return Row(f"{path}.weight", "linear", (inputs, outputs), transposed=True)


def _norm(path: str, size: str = "hidden") -> Row:
    return Row(f"{path}.weight", "norm", (size,))


def _biases(linears: tuple[Row, ...], when: str = "") -> tuple[Row, ...]:
    """A bias for each of these linear layers."""
    return tuple(
        Row(row.name.replace(".weight", ".bias"), "bias", (row.dimensions[-row.transposed],), when)
        for row in linears
    )


def _norm_biases(norms: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(Row(row.name.replace(".weight", ".bias"), "bias", row.dimensions) for row in norms)


# Decoders with rotary positions, RMS norms and a gated MLP.
ENDS = (
    Row("model.embed_tokens.weight", "embedding", ("vocabulary", "hidden")),
    _norm("model.norm"),
    Row("lm_head.weight", "head", ("vocabulary", "hidden"), when="untied"),
)
QKV = (
    _linear("self_attn.q_proj", "queries", "hidden"),
    _linear("self_attn.k_proj", "keys", "hidden"),
    _linear("self_attn.v_proj", "keys", "hidden"),
)
FUSED_QKV = (_linear("self_attn.qkv_proj", "queries_keys_values", "hidden"),)
OUTPUT = (_linear("self_attn.o_proj", "hidden", "queries"),)
GATE_UP = (
    _linear("mlp.gate_proj", "intermediate", "hidden"),
    _linear("mlp.up_proj", "intermediate", "hidden"),
)
FUSED_GATE_UP = (_linear("mlp.gate_up_proj", "gate_up", "hidden"),)
DOWN = (_linear("mlp.down_proj", "hidden", "intermediate"),)
NORMS = (_norm("input_layernorm"), _norm("post_attention_layernorm"))
QK_NORMS = (_norm("self_attn.q_norm", "head_dim"), _norm("self_attn.k_norm", "head_dim"))
MORE_NORMS = (_norm("pre_feedforward_layernorm"), _norm("post_feedforward_layernorm"))

PLAIN = (*QKV, *OUTPUT, *GATE_UP, *DOWN, *NORMS)
ATTENTION_BIAS = _biases((*QKV, *OUTPUT), when="attention_bias")
MLP_BIAS = _biases((*GATE_UP, *DOWN), when="mlp_bias")

# Decoders in GPT-2's manner: learned positions, layer norms, biases everywhere.
GPT_NORMS = (_norm("ln_1"), _norm("ln_2"))
GPT_LAST = (_norm("transformer.ln_f"),)
GPT_ENDS = (
    Row("transformer.wte.weight", "embedding", ("vocabulary", "hidden")),
    Row("transformer.wpe.weight", "embedding", ("positions", "hidden")),
    *GPT_LAST,
    *_norm_biases(GPT_LAST),
    Row("lm_head.weight", "head", ("vocabulary", "hidden"), when="untied"),
)


def _gpt_layer(conv1d: bool) -> tuple[Row, ...]:
    make = _conv1d if conv1d else _linear
    linears = (
        make("attn.c_attn", "queries_keys_values", "hidden"),
        make("attn.c_proj", "hidden", "hidden"),
        make("mlp.c_fc", "intermediate", "hidden"),
        make("mlp.c_proj", "hidden", "intermediate"),
    )
    return (*linears, *_biases(linears), *GPT_NORMS, *_norm_biases(GPT_NORMS))


LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "tie_word_embeddings": False,
}
QWEN_DEFAULTS = LLAMA_DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
}
GEMMA_DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
GPT_DEFAULTS = {
    "vocab_size": 50257,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}

FAMILIES = {
    "llama": Family(ends=ENDS, layer=(*PLAIN, *ATTENTION_BIAS, *MLP_BIAS), defaults=LLAMA_DEFAULTS),
    "qwen2": Family(ends=ENDS, layer=(*PLAIN, *_biases(QKV)), defaults=QWEN_DEFAULTS),
    "qwen3": Family(
        ends=ENDS,
        layer=(*PLAIN, *ATTENTION_BIAS, *QK_NORMS),
        defaults=QWEN_DEFAULTS | {"head_dim": 128},
    ),
    "mistral": Family(
        ends=ENDS,
        layer=PLAIN,
        defaults=LLAMA_DEFAULTS | {"intermediate_size": 14336, "num_key_value_heads": 8},
    ),
    "gemma2": Family(
        ends=ENDS, layer=(*PLAIN, *ATTENTION_BIAS, *MORE_NORMS), defaults=GEMMA_DEFAULTS
    ),
    "gemma3_text": Family(
        ends=ENDS,
        layer=(*PLAIN, *ATTENTION_BIAS, *MORE_NORMS, *QK_NORMS),
        defaults=GEMMA_DEFAULTS | {"vocab_size": 262208},
    ),
    "phi3": Family(
        ends=ENDS,
        layer=(*FUSED_QKV, *OUTPUT, *FUSED_GATE_UP, *DOWN, *NORMS),
        defaults=LLAMA_DEFAULTS
        | {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192},
    ),
    "gpt2": Family(ends=GPT_ENDS, layer=_gpt_layer(conv1d=True), defaults=GPT_DEFAULTS),
    "gpt_bigcode": Family(
        ends=GPT_ENDS,
        layer=_gpt_layer(conv1d=False),
        defaults=GPT_DEFAULTS | {"multi_query": True},
    ),
}
"""Families by the ``model_type`` of their config.json."""

ALIASES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
}
"""Keys of GPT-2's config.json by the names that the others use."""

SIZES = (
    *("hidden_size", "intermediate_size", "vocab_size", "head_dim"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
)
"""Keys whose values tensors are reckoned with."""
