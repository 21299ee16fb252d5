"""What a toggle makes of a plan: a plan that can run, by the edits that the workbench makes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from memwb.engine.plan import Plan, active, override, plan_from, problems, toggle
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques
from memwb.engine.toggles import Toggle, changes

CPU = Device("cpu", "a CPU", 2**34)
QLORA = {"bf16": {}, "lora": {"rank": 4}, "quantize_4bit": {}}


def plan(**chosen: dict[str, Any]) -> Plan:
    return plan_from({"model": "tiny", "techniques": chosen})


def of(name: str, *arguments: Any) -> Toggle:
    return next(each for each in changes(*arguments) if each.technique == name)


@pytest.mark.parametrize("name", techniques())
def test_each_technique_can_be_switched_on_and_off_again(name: str) -> None:
    bare = plan()
    on = of(name, bare)
    assert on.on and on.plan is not None and not on.reason
    assert problems(on.plan) == []
    assert name in active(on.plan)
    assert on.overrides[0] == f"{name}=on"
    off = of(name, on.plan)
    assert not off.on and off.plan is not None
    assert problems(off.plan) == [] and name not in off.plan.techniques


@pytest.mark.parametrize("name", techniques())
def test_without_anything_in_its_way_it_is_the_key_itself(name: str) -> None:
    bare = plan()
    expected = toggle(bare, name, True)
    if problems(expected):
        assert len(of(name, bare).overrides) > 1
    else:
        assert of(name, bare) == Toggle(name, True, (f"{name}=on",), expected)


def test_any_plan_has_a_change_for_each_technique_that_its_overrides_make() -> None:
    """Random heaps of techniques, most of them in conflict."""
    draw = random.Random(4)
    made = 0
    for _ in range(40):
        heap = plan(**{name: {} for name in draw.sample(list(techniques()), draw.randint(0, 9))})
        for device in (None, CPU):
            found = list(changes(heap, {}, device))
            assert sorted(each.technique for each in found) == sorted(techniques())
            for each in found:
                assert each.on == (each.technique not in heap.techniques)
                assert (each.plan is None) == bool(each.reason)
                if each.plan is None:
                    continue
                made += 1
                assert problems(each.plan, {}, device) == []
                assert (each.technique in each.plan.techniques) == each.on
                again = heap
                for edit in each.overrides:
                    again = override(again, edit)
                assert again == each.plan
    assert made > 1000


def test_what_is_on_comes_first() -> None:
    found = [each.technique for each in changes(plan(**QLORA))]
    assert set(found[:3]) == set(QLORA)


def test_what_a_technique_needs_comes_with_it() -> None:
    assert of("quantize_4bit", plan()).overrides == ("quantize_4bit=on", "lora=on")


def test_what_needs_a_technique_goes_with_it() -> None:
    change = of("lora", plan(**QLORA))
    assert change.overrides == ("lora=off", "quantize_4bit=off")
    assert change.plan is not None and list(change.plan.techniques) == ["bf16"]


def test_an_exclusive_group_makes_room_and_falls_back_to_its_default() -> None:
    change = of("bf16", plan(fp32={}))
    assert change.plan is not None and list(change.plan.techniques) == ["bf16"]
    change = of("sgd", plan(sgd={}))
    assert change.plan is not None and "adamw" in active(change.plan)


def test_a_conflict_gives_way_to_the_toggle() -> None:
    change = of("checkpoint_offload", plan(activation_checkpointing={}))
    assert change.overrides == ("checkpoint_offload=on", "activation_checkpointing=off")


def test_parameters_that_were_chosen_stay() -> None:
    change = of("bf16", plan(**QLORA))
    assert change.plan is not None
    assert change.plan.techniques["lora"] == plan(**QLORA).techniques["lora"]


def test_what_the_target_cannot_run_has_a_reason_and_elsewhere_it_has_none() -> None:
    change = of("tf32", plan(), {}, CPU)
    assert (change.plan, change.overrides) == (None, ("tf32=on",))
    assert "CUDA" in change.reason
    assert of("tf32", plan(), {}, None).plan is not None


def test_a_package_that_is_missing_here_is_no_obstacle_to_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memwb.engine.technique._missing", list)
    assert "pip install" in of("lora", plan(), {}, CPU).reason
    assert of("lora", plan(), {}, None).plan is not None


def test_a_model_that_a_technique_does_not_fit_is_the_reason() -> None:
    config = {"model_type": "gemma2", "final_logit_softcapping": 30.0}
    change = of("linear_cross_entropy", plan(), config)
    assert change.plan is None and "caps its logits" in change.reason
