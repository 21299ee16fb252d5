"""The reason of a peak: by where a tensor was made before what it looks like."""

from __future__ import annotations

import pytest

from memwb.engine.memory import sized
from memwb.engine.plan import override, plan_from
from memwb.engine.predict.targets import target_named
from memwb.engine.predict.words import notes_on
from memwb.engine.trainer.alive import Birth
from memwb.engine.trainer.causes import (
    LAYER,
    LAYERS,
    LIBRARY,
    LOGITS,
    OTHERS,
    PASSING,
    SCORES,
    SCRATCH,
    WORKSPACE,
    Model,
    causes_of,
    words_on,
)
from memwb.engine.trainer.trace import ACTIVATIONS, TEMPORARY, WEIGHTS, Row
from memwb.workbench.charts.scale import gib

LENGTH = HIDDEN = 64
VOCABULARY = MLP = 128
WEIGHT = Birth(WEIGHTS, "model.layers.0.mlp.up_proj.weight", "aten.empty", (MLP, HIDDEN), "float32")


def reason(birth: Birth, phase: str = "backward") -> str:
    members = [(100, WEIGHT), (1000, birth)]
    causes = causes_of(members, phase, Model(VOCABULARY, LENGTH))
    assert [cause.bytes for cause in causes] == [1000]
    return causes[0].name


def made(category: int, module: str, op: str, *shape: int) -> Birth:
    return Birth(category, module, op, shape, "float32")


@pytest.mark.parametrize(
    ("birth", "phase", "expected"),
    [
        # A row as long as the hidden size is wide: no scores.
        (made(ACTIVATIONS, "model.layers.3.mlp", "aten.mul", 1, LENGTH, HIDDEN), "loss", LAYERS),
        # An MLP as wide as the vocabulary: no logits.
        (made(ACTIVATIONS, "model.layers.0.mlp.act_fn", "aten.silu", LENGTH, MLP), "loss", LAYERS),
        (made(ACTIVATIONS, "lm_head", "aten.mm", LENGTH, VOCABULARY), "loss", LOGITS),
        (
            made(TEMPORARY, "", "aten._log_softmax_backward_data", LENGTH, VOCABULARY),
            "loss",
            LOGITS,
        ),
        (made(ACTIVATIONS, "model.layers.1", "aten.bmm", 4, LENGTH, LENGTH), "loss", SCORES),
        (made(ACTIVATIONS, "model.layers.1", "aten.add", 1, 4, LENGTH, LENGTH), "loss", SCORES),
        (made(TEMPORARY, "model.layers.1.mlp", "aten.mul", 1, LENGTH, 96), "backward", LAYER),
        (made(TEMPORARY, "model.layers.1.mlp", "aten.mm", MLP, HIDDEN), "backward", PASSING),
        (made(TEMPORARY, "", "aten._foreach_mul", MLP, HIDDEN), "optimizer", SCRATCH),
        (made(TEMPORARY, "", WORKSPACE, 8519680), "optimizer", LIBRARY),
        (made(TEMPORARY, "model.norm", "aten.mul", 1, LENGTH, 96), "forward", OTHERS),
    ],
)
def test_reasons(birth: Birth, phase: str, expected: str) -> None:
    assert reason(birth, phase) == expected


@pytest.mark.parametrize(("gradients", "said"), [
    (1001, "Of what a step makes beside gradients, the most is"),
    (999, "Of what a step makes, the most is"),
])  # fmt: skip
def test_gradients_that_are_more_are_not_passed_over(gradients: int, said: str) -> None:
    members = [(1000, made(TEMPORARY, "", "aten._foreach_mul", MLP, HIDDEN))]
    row = Row(0.0, 2, "optimizer", (100, gradients, 0, 0, 1000))
    assert words_on(row, members, Model(VOCABULARY, LENGTH))[1].startswith(said)


def test_that_upcasting_makes_layers_compute_in_fp32_is_told() -> None:
    techniques: dict[str, dict[str, str]] = {"bf16": {}, "lora": {}, "quantize_4bit": {}}
    plan = plan_from({"model": "tiny", "techniques": techniques})
    wide = "-o quantize_4bit.upcast=false"
    target = target_named("h200")
    assert any(wide in note for note in notes_on(plan, target))
    for change in ("quantize_4bit.upcast=false", "bf16=off"):
        assert not any(wide in note for note in notes_on(override(plan, change), target))


@pytest.mark.parametrize(
    ("size", "told"),
    [(9_835_000, "9.38 MiB"), (2**30, "1.00 GiB"), (512 * 2**20, "512 MiB"), (7, "7 B")],
)
def test_a_sentence_tells_bytes_as_a_table_does(size: int, told: str) -> None:
    assert sized(size) == told == gib(size)
