"""What is proposed when memory ran out: techniques that act on what filled it, and fit the plan."""

from __future__ import annotations

import re

import pytest

from memwb.engine.advice import Setting, advice, savers
from memwb.engine.arithmetic import effects_of, facts_of
from memwb.engine.catalog import resolve
from memwb.engine.memory import CATEGORIES
from memwb.engine.plan import active, override, plan_from, problems
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques

CUDA = Device("cuda", "a GPU", 2**34)
CPU = Device("cpu", "a CPU", 2**34)
MODEL = "smollm2-360m"
CONFIG = resolve(MODEL).config


def setting(*names: str, device: Device = CPU, batch: int = 8) -> Setting:
    data = {name: {} for name in names}
    plan = plan_from({"model": MODEL, "workload": {"batch_size": batch}, "techniques": data})
    return Setting(plan, CONFIG, device)


def named(where: Setting, category: str) -> list[str]:
    return [change.technique for change in savers(where, category)]


def test_all_that_act_on_activations_are_found() -> None:
    found = named(setting(device=CUDA), "activations")
    assert found[:3] == ["activation_checkpointing", "activation_offload", "checkpoint_offload"]


def test_on_a_cpu_nothing_is_moved_to_the_host() -> None:
    for category in CATEGORIES:
        assert not any(techniques()[name].to_host for name in named(setting(), category))


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("on", [(), ("bf16", "lora"), ("optimizer_in_backward",), ("adamw_8bit",)])
def test_each_proposal_is_off_acts_on_the_category_and_fits(
    category: str, on: tuple[str, ...]
) -> None:
    where = setting(*on)
    for change in savers(where, category):
        assert change.technique not in active(where.plan)
        assert category in techniques()[change.technique].shrinks
        made = where.plan
        for edit in change.overrides:
            made = override(made, edit)
        assert problems(made, CONFIG, CPU) == []
        assert set(on) <= set(active(made)) or category not in {
            one for name in on for one in techniques()[name].shrinks
        }


def test_titles_stand_before_the_edits_and_what_changes_no_loss_comes_first() -> None:
    text = advice(setting(), "activations")
    assert text.startswith(
        "Most of it was activations. Turn on activation checkpointing "
        "(-o activation_checkpointing=on), "
    )
    words = re.sub(r"\(-o [^)]*\)", "", text)
    assert not [name for name in techniques() if "_" in name and name in words]
    assert "4-bit base (-o quantize_4bit=on -o lora=on)" in advice(setting(), "weights")


def test_what_is_on_is_not_proposed_nor_what_would_put_it_off() -> None:
    found = named(setting("activation_checkpointing", device=CUDA), "activations")
    assert "activation_checkpointing" not in found and "checkpoint_offload" not in found
    assert named(setting("adamw_8bit", "bf16", "lora"), "optimizer") == []


def test_a_smaller_batch_is_one_that_trains_the_same() -> None:
    text = advice(setting(batch=6), "activations")
    assert "(-o batch_size=3 -o gradient_accumulation=2)" in text
    # It cannot accumulate; and of one sequence there is no half.
    assert "accumulated" not in advice(setting("optimizer_in_backward"), "activations")
    assert "batch_size" not in advice(setting(batch=1), "activations")
    # No batch is small enough for weights that are too large.
    assert "smaller model" in advice(setting(), "weights")


@pytest.mark.parametrize("name", techniques())
def test_what_a_technique_says_that_it_shrinks_is_what_its_arithmetic_says(name: str) -> None:
    where = setting(name, device=CUDA)
    if techniques()[name].needs:
        where = where._replace(plan=override(where.plan, "lora=on"))
    facts = facts_of(where.plan, CONFIG, CUDA)
    assert facts is not None
    shrinks = techniques()[name].shrinks
    assert set(shrinks) <= set(CATEGORIES)
    for effect in effects_of(name, where.plan.techniques[name], facts):
        # Counters of steps, which some keep elsewhere, are nothing to advise for.
        if effect.before is not None and abs(effect.before - effect.after) > effect.before / 100:
            assert (effect.category in shrinks) == (effect.after < effect.before)
