"""What must hold of every prediction, on a CPU and on GPUs: seeded draws of small plans."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from memwb.engine.gpus import gpu_of
from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.prediction import VERDICTS, Prediction

pytestmark = pytest.mark.long

SEED = 4
TARGETS = ("cpu", "h200")
DRAWN = ("llama", "gemma2", "gpt2")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, families: dict[str, Any]) -> Any:
    """Makes plans over a small model of the family."""

    def plan(family: str, *overrides: str, **workload: int) -> Plan:
        folder = tmp_path_factory.mktemp(family)
        (folder / "config.json").write_text(json.dumps(families[family]))
        work = {"batch_size": 2, "sequence_length": 32, "steps": 2} | workload
        found = plan_from({"model": str(folder), "workload": work})
        for text in overrides:
            found = override(found, text)
        return found

    return plan


def consistent(found: Prediction) -> Prediction:
    """A prediction whose figures agree with each other."""
    peak = found.peak
    assert peak.categories.total == peak.allocated > 0
    assert peak.device >= peak.reserved >= peak.allocated
    assert all(point.categories.total == point.allocated for point in found.timeline)
    highest = max(found.timeline, key=lambda point: point.allocated)
    assert highest.allocated == peak.allocated
    assert (highest.phase, highest.categories) == (peak.phase, peak.categories)
    assert {point.step for point in found.timeline} == {0, 1, 2}
    sizes = [one.bytes for one in found.largest]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) <= peak.allocated
    assert 0 <= found.parameters.trainable <= found.parameters.total
    assert found.words and all(found.words)
    for fit in found.fits:
        assert fit.verdict in VERDICTS and (fit.verdict == "exceeds") == (fit.free < 0)
        assert fit.capacity - fit.free >= peak.reserved
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", DRAWN)
def test_more_tokens_never_take_less(base: Any, family: str, target: str) -> None:
    rng = random.Random(f"{SEED}{family}")
    lengths = sorted(rng.sample(range(2, 130), 4))
    plans = [base(family, sequence_length=length) for length in lengths]
    rising([consistent(predict(plan, target)) for plan in plans])
    batches = sorted(rng.sample(range(1, 9), 3))
    rising([consistent(predict(base(family, batch_size=size), target)) for size in batches])


def rising(found: list[Prediction]) -> None:
    for name in ("allocated", "reserved", "device"):
        figures = [getattr(one.peak, name) for one in found]
        assert figures == sorted(figures), (name, figures)
    assert found[0].peak.allocated < found[-1].peak.allocated


@pytest.mark.parametrize("target", TARGETS)
def test_a_higher_rank_never_has_fewer_weights(base: Any, target: str) -> None:
    plans = [base("llama", "lora=on", f"lora.rank={rank}") for rank in (1, 4, 16, 64)]
    found = [consistent(predict(plan, target)) for plan in plans]
    for name in ("weights", "gradients", "optimizer"):
        figures = [max(getattr(p.categories, name) for p in one.timeline) for one in found]
        assert figures == sorted(figures) and figures[0] < figures[-1], (name, figures)
    trained = [one.parameters.trainable for one in found]
    assert trained == [trained[0] * rank for rank in (1, 4, 16, 64)]
    assert len({one.parameters.total - one.parameters.trainable for one in found}) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", DRAWN)
def test_accumulation_changes_the_peak_by_no_more_than_gradients(
    base: Any, family: str, target: str
) -> None:
    one, *more = (
        consistent(predict(base(family, gradient_accumulation=count), target))
        for count in (1, 2, 3, 6)
    )
    gradients = max(point.categories.gradients for point in one.timeline)
    for count, found in zip((2, 3, 6), more, strict=True):
        # The ids and labels of all micro-batches of two steps are there at once, as is, on a CPU,
        # the table of tokens from which they are drawn: 40 bytes a token, blocks of 512.
        batches = count * (40 * 2 * 32 + 4 * 512) * 2
        assert 0 <= found.peak.allocated - one.peak.allocated <= gradients + batches


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", DRAWN)
def test_checkpointing_never_keeps_more(base: Any, family: str, target: str) -> None:
    plain = consistent(predict(base(family, sequence_length=64), target))
    saved = base(family, "activation_checkpointing=on", sequence_length=64)
    found = consistent(predict(saved, target))
    assert most(found, "activations") < most(plain, "activations")
    for name in ("weights", "gradients", "optimizer"):
        assert most(found, name) == most(plain, name)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", DRAWN)
def test_a_smaller_type_never_has_more_weights(base: Any, family: str, target: str) -> None:
    full = consistent(predict(base(family), target))
    half = consistent(predict(base(family, "bf16=on"), target))
    for name in ("weights", "gradients", "optimizer"):
        assert most(half, name) < most(full, name)
    assert full.parameters == half.parameters


def most(found: Prediction, category: str) -> int:
    return max(getattr(point.categories, category) for point in found.timeline)


def test_gpus_of_one_architecture_need_the_same(base: Any) -> None:
    plan = base("llama", "bf16=on")
    h100, h200 = (consistent(predict(plan, name)) for name in ("h100-80gb", "h200"))
    assert gpu_of("h100-80gb").arch == gpu_of("h200").arch
    assert h100.peak == h200.peak and h100.timeline == h200.timeline
    assert h100.fits == h200.fits
