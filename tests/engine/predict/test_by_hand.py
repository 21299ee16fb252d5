"""A model small enough to count: every byte of its prediction by arithmetic.

One decoder layer of a Llama whose heads share nothing; no biases, the output head not tied.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.prediction import Point, Prediction

H, F, V = 64, 128, 96
"""Hidden size, feed-forward size, vocabulary."""
HEADS, D = 2, 32
ROWS, LENGTH = 2, 16
T = ROWS * LENGTH
"""Tokens of a step."""

# Embedding and head; query, key, value, output; gate, up, down; two norms of the layer and a last.
TENSORS = [H * V] * 2 + [H * H] * 4 + [H * F] * 3 + [H] * 3
# Frequencies of the rotary embedding, in fp32: those in use and those it was made with.
BUFFERS = [4 * D // 2] * 2


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = {
        "model_type": "llama",
        "hidden_size": H,
        "intermediate_size": F,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": V,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def planned(model: str, *overrides: str) -> Plan:
    work = {"batch_size": ROWS, "sequence_length": LENGTH, "steps": 2}
    plan = plan_from({"model": model, "workload": work})
    for text in overrides:
        plan = override(plan, text)
    return plan


def bytes_of(sizes: list[int], target: str) -> int:
    """Exact on a CPU; CUDA's caching allocator rounds each up to 512 bytes."""
    return sum(sizes) if target == "cpu" else sum(-(-size // 512) * 512 for size in sizes)


def end_of(found: Prediction, phase: str) -> Point:
    """Where the phase of the second step ends."""
    return [point for point in found.timeline if (point.step, point.phase) == (2, phase)][-1]


@pytest.mark.parametrize("target", ["cpu", "h200"])
@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_stays(model: str, target: str, precision: str, width: int, optimizer: str) -> None:
    found = predict(planned(model, f"{precision}=on", f"{optimizer}=on"), target)
    sizes = [width * size for size in TENSORS]
    assert found.parameters.total == found.parameters.trainable == sum(TENSORS)
    assert found.peak.categories.weights == bytes_of(sizes + BUFFERS, target)
    # All of the gradients are there when the backward pass is over, and none after the step.
    assert end_of(found, "backward").categories.gradients == bytes_of(sizes, target)
    assert end_of(found, "optimizer").categories.gradients == 0
    # Two moments as wide as the weights; AdamW counts a tensor's steps on the host, in fp32.
    counters = [4] * len(TENSORS) if target == "cpu" else []
    states = [] if optimizer == "sgd" else sizes * 2 + counters
    assert end_of(found, "optimizer").categories.optimizer == bytes_of(states, target)


KEPT = [
    8 * T,  # token ids
    4 * T * H,  # embedded tokens: the first residual
    *[4 * LENGTH * D] * 2,  # cosine and sine of the positions, the same for every row
    4 * T,  # the norm's reciprocal root
    *[4 * T * H] * 2,  # normalised, and times the weight: the input of query, key and value
    4 * T * H,  # value
    *[4 * T * H] * 2,  # query and key, rotated; before that nothing of them is needed
    4 * T * H,  # attention's result: the input of the output projection
    4 * T * HEADS,  # logsumexp of the scores
    4 * T * H,  # the residual after attention
    4 * T,
    *[4 * T * H] * 2,  # the second norm
    *[4 * T * F] * 4,  # gate, its silu, up, their product
    4 * T * H,  # the residual after the feed-forward
    4 * T,
    *[4 * T * H] * 2,  # the last norm; the second is the head's input
    4 * T * V,  # log-probabilities; the logits are not needed again
    8 * T,  # labels, shifted by one
    4,  # the labels' weight
    4,  # the loss
]
"""Bytes that forward and loss keep for backward in fp32 on a CPU, by hand."""


def test_what_is_kept_for_backward(model: str) -> None:
    found = predict(planned(model, "sgd=on"), "cpu")
    assert end_of(found, "loss").categories.activations == sum(KEPT)


def test_categories_and_totals_at_the_end_of_the_loss(model: str) -> None:
    found = predict(planned(model, "adamw=on"), "cpu")
    point = end_of(found, "loss")
    weights = 4 * sum(TENSORS) + sum(BUFFERS)
    states = 8 * sum(TENSORS) + 4 * len(TENSORS)
    assert point.categories.gradients == 0
    assert point.allocated - point.categories.temporary == weights + states + sum(KEPT)
    # The table of the data's tokens is all that is there besides: 32-bit ids, whole documents.
    assert 0 < point.categories.temporary < 2**16


@pytest.mark.parametrize("layers", [1, 2, 12])
def test_a_layer_more_is_a_layer_more(model: str, layers: int, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    found = predict(planned(model, "sgd=on"), "cpu")
    layer = [H * H] * 4 + [H * F] * 3 + [H] * 2
    assert found.parameters.total == sum(TENSORS) + (layers - 1) * sum(layer)
    # From one residual to the next: two norms, attention, feed-forward.
    first = KEPT.index(4 * T)
    kept = sum(KEPT[first : KEPT.index(4 * T, first + 5) + 8])
    one = sum(KEPT)
    assert end_of(found, "loss").categories.activations == one + (layers - 1) * kept
