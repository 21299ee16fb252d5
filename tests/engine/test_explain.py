"""What is said of a technique for a plan."""

from __future__ import annotations

import pytest

from memwb.engine.catalog import resolve
from memwb.engine.explain import Explanation, explain
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Device
from memwb.engine.technique import parameters_of, techniques

TINY = resolve("tiny").config


def plan(*changes: str) -> Plan:
    made = Plan(model="tiny")
    for text in changes:
        made = override(made, text)
    return made


def told(explanation: Explanation, label: str) -> str:
    rows = [row for section in explanation.sections for row in section.rows]
    return next((text for name, text in rows if name == label), "")


@pytest.mark.parametrize("name", techniques())
def test_every_technique_tells_all_it_declares(name: str) -> None:
    technique = techniques()[name]
    found = explain(name, plan(), TINY, Device("cpu", "test", 2**33))
    for label, text in (("saves", technique.saves), ("costs", technique.costs)):
        assert told(found, label) == text
    assert told(found, "not when") == technique.not_when
    assert told(found, "source") == technique.source
    assert told(found, "losses")
    for parameter in parameters_of(technique):
        assert parameter.description in told(found, parameter.name)
    for relation in technique.conflicts:
        assert relation.reason in str(found.sections)
    # Bytes, or on what they depend: never nothing.
    assert bool(found.effects) != bool(found.unknown)


def test_the_values_are_the_plan_s_or_the_defaults() -> None:
    assert told(explain("lora", plan(), TINY), "rank").endswith("(int; default 16)")
    changed = explain("lora", plan("lora.rank=4"), TINY)
    assert told(changed, "rank").endswith("(int; now 4, default 16)")


def test_what_is_in_the_way_is_said_with_the_fix() -> None:
    missing = explain("quantize_4bit", plan("quantize_4bit=on"), TINY)
    assert "Turn LoRA on." in told(missing, "in this plan")
    mended = explain("quantize_4bit", plan("quantize_4bit=on", "lora=on"), TINY)
    assert not told(mended, "in this plan")
    capped = explain("attention", plan(), {**(TINY or {}), "attn_logit_softcapping": 50.0})
    assert "caps its attention scores" in told(capped, "in this plan")


def test_the_arithmetic_is_of_the_plan_with_the_technique_on() -> None:
    found = explain("bf16", plan("workload.batch_size=2"), TINY)
    assert found.setting == "tiny, 2 × 1,024 tokens, bf16"
    weights = found.effects[0]
    assert (weights.before, weights.after) == (4 * 2_460_096, 2 * 2_460_096)
    assert "2.46 M weights" in weights.formula
    beside = explain("bf16", plan("lora=on"), TINY)
    assert beside.setting.endswith("bf16, lora")
    assert beside.effects[0].before > weights.before


def test_what_is_not_known_is_said() -> None:
    assert explain("bf16", plan(), None).unknown == "the model's config.json is not on this machine"
    assert "mixtral" in explain("bf16", plan(), {"model_type": "mixtral"}).unknown
    assert "compiler" in explain("torch_compile", plan(), None).unknown, "whatever the model"
    mode = "activation_checkpointing.mode=selective"
    assert "operators" in explain("activation_checkpointing", plan(mode), TINY).unknown


def test_a_model_that_refuses_a_technique_has_no_bytes_of_it() -> None:
    scaled = {**(TINY or {}), "logits_scaling": 8.0}
    refused = explain("chunked_cross_entropy", plan(), scaled)
    assert not refused.effects and "does not run on this model" in refused.unknown
    # What is refused of the plan alone could be mended: its bytes are told.
    assert explain("quantize_4bit", plan("quantize_4bit=on"), TINY).effects


def test_what_the_device_cannot_run_is_told_with_the_mend() -> None:
    device = Device("cpu", "test", 2**33)
    on = told(explain("tf32", plan("tf32=on"), TINY, device), "available")
    assert on.startswith("only CUDA") and on.endswith("(mended by -o tf32=off)")
    assert "mended" not in told(explain("tf32", plan(), TINY, device), "available")
