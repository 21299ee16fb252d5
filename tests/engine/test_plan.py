"""The plan: TOML in and out, overrides, and errors that say where and what to do."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path

import pytest

from memwb.engine.errors import MemwbError
from memwb.engine.plan import (
    Plan,
    active,
    check,
    override,
    parse_plan,
    plan_data,
    plan_from,
    plan_toml,
    problems,
    read_plan,
    toggle,
)
from memwb.engine.protocol import Device
from memwb.engine.technique import parameters_of, techniques

PLAN = """\
# A first run.
model = "tiny"  # three million parameters

[workload]
sequence_length = 64

# Only the adapters are trained.
[techniques.lora]
rank = 8
"""


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('model = "tiny"', encoding="utf-8-sig")
    assert read_plan(file) == Plan("tiny")


def test_round_trip_through_toml_and_data() -> None:
    plan = parse_plan(PLAN)
    assert plan.techniques["lora"].rank == 8
    assert plan.techniques["lora"].alpha == 32
    assert parse_plan(plan_toml(plan)) == plan
    assert plan_from(plan_data(plan)) == plan


def test_template_keeps_its_comments() -> None:
    plan = override(toggle(parse_plan(PLAN), "bf16", True), "lora.rank=4")
    text = plan_toml(plan, PLAN)
    assert "# three million parameters" in text
    assert "# Only the adapters are trained." in text
    assert parse_plan(text) == plan


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ('modle = "tiny"', "$.model is missing", "memwb models"),
        ('model = "tiny"\nwieghts = "auto"', "$.wieghts", "did you mean 'weights'?"),
        ('model = "tiny"\nweights = "some"', "$.weights", ""),
        ('model = ""', "$.model", ""),
        ('model = "tiny"\n[workload]\nbatch_size = 0', "$.workload.batch_size", "≥ 1"),
        ('model = "tiny"\n[workload]\nbatch_size = 99999999', "$.workload.batch_size", "≤ 65536"),
        ('model = "tiny"\n[workload]\nsteps = 1e30', "$.workload.steps", ""),
        ('model = "tiny"\n[workload]\nbatch_size = "2"', "$.workload.batch_size", "int"),
        ('model = "tiny"\n[workload]\nbatchsize = 2', "$.workload.batchsize", "'batch_size'"),
        ('model = "tiny"\n[workload]\nlearning_rate = nan', "$.workload.learning_rate", ""),
        ('model = "tiny"\n[techniques.lroa]', "$.techniques.lroa", "did you mean 'lora'?"),
        ('model = "tiny"\n[techniques.lora]\nrnak = 3', "$.techniques.lora.rnak", "'rank'"),
        ('model = "tiny"\n[techniques.lora]\nrank = 0', "$.techniques.lora.rank", "≥ 1"),
        ('model = "tiny"\n[techniques.bf16]\nx = 1', "$.techniques.bf16.x", "no parameters"),
        ('model = "tiny"\ntechniques = 3', "$.techniques", "[techniques.NAME]"),
        ('model = "tiny"\n[techniques]\nlora = 3', "$.techniques.lora", "[techniques.lora]"),
        ('model = "tiny"\n[[[', "", "line"),
    ],
)
def test_a_wrong_plan_names_the_path(text: str, path: str, hint: str) -> None:
    with pytest.raises(MemwbError) as caught:
        parse_plan(text, "mine.toml")
    assert "mine.toml" in caught.value.title
    assert path in caught.value.what
    assert hint in str(caught.value)


def test_overrides_by_path_by_short_name_and_as_toggles() -> None:
    plan = parse_plan(PLAN)
    assert override(plan, "workload.steps=4").workload.steps == 4
    assert override(plan, "steps = 4").workload.steps == 4
    assert override(plan, "model=7").model == "7"
    assert override(plan, "model=a=b").model == "a=b"
    assert override(plan, "techniques.lora.targets=mlp").techniques["lora"].targets == "mlp"
    assert override(plan, 'lora.targets=["q_proj"]').techniques["lora"].targets == ("q_proj",)
    assert "lora" not in override(plan, "lora=off").techniques
    second = override(plan, "activation_checkpointing.every=2")
    assert second.techniques["activation_checkpointing"].every == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("steps", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("workload.stesp=3", "did you mean 'steps'?"),
        ("stesp=3", "$.stesp"),
        ("workload.steps=none", "$.workload.steps"),
        ("model.x=3", "holds a value"),
        ("lroa=on", "did you mean 'lora'?"),
        ("workload=3", "$.workload"),
    ],
)
def test_a_wrong_override_says_so(text: str, hint: str) -> None:
    with pytest.raises(MemwbError) as caught:
        override(parse_plan(PLAN), text)
    assert hint in str(caught.value)


def test_toggling_keeps_one_of_an_exclusive_group() -> None:
    plan = toggle(toggle(parse_plan(PLAN), "sgd", True), "adamw_8bit", True)
    assert "sgd" not in plan.techniques
    assert "adamw_8bit" in plan.techniques
    assert problems(plan) == []


def test_groups_left_empty_have_a_default() -> None:
    assert list(active(parse_plan(PLAN))) == [
        "fp32", "lora", "concatenation", "adamw", "set_to_none",
    ]  # fmt: skip
    assert "sgd" in active(toggle(parse_plan(PLAN), "sgd", True))
    assert "adamw" not in active(toggle(parse_plan(PLAN), "sgd", True))


def test_conflicts_and_needs_are_told_with_the_edit_that_mends_them() -> None:
    two = parse_plan('model = "tiny"\n[techniques.sgd]\n[techniques.adamw]')
    assert [problem.override for problem in problems(two)] == ["sgd=off"]
    alone = parse_plan('model = "tiny"\n[techniques.quantize_4bit]')
    [problem] = problems(alone)
    assert problem.technique == "quantize_4bit"
    with pytest.raises(MemwbError, match="needs LoRA"):
        check(alone)
    assert problems(override(alone, problem.override)) == []


def test_a_reason_calls_techniques_by_their_titles_and_an_override_by_their_ids() -> None:
    unlike = {name for name, known in techniques().items() if name != known.title}
    pairs = itertools.permutations(techniques(), 2)
    plans = [Plan(model="tiny", techniques={n: techniques()[n].params() for n in p}) for p in pairs]
    found = [problem for plan in plans for problem in problems(plan)]
    assert len(found) > len(plans) // 4
    for problem in found:
        words = set(re.findall(r"\w+", f"{problem.reason} {problem.fix.partition('Set')[0]}"))
        assert not words & (unlike - {"lora", "concatenation"}), problem
        assert problem.override.partition("=")[0].partition(".")[0] in techniques()


CPU, GPU = Device("cpu", "test", 2**33), Device("cuda", "test", 2**33)


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        (("tf32=on",), "tf32=off"),
        (("attention.implementation=flash_attention_2",), "attention.implementation=sdpa"),
        (("attention.implementation=flex_attention",), "attention.implementation=sdpa"),
        (("attention.backend=efficient",), "attention.backend=auto"),
    ],
)
def test_what_cannot_run_on_the_device_is_a_problem_before_others(
    changes: tuple[str, ...], mend: str
) -> None:
    plan = Plan("tiny")
    for text in changes:
        plan = override(plan, text)
    first, *_ = problems(plan, None, CPU)
    assert first.here and first.override == mend
    with pytest.raises(MemwbError, match="cannot run on this machine"):
        check(plan, None, CPU)
    assert not problems(override(plan, first.override), None, CPU)
    # Where it will run is not known when it is exported.
    assert not any(problem.here for problem in problems(plan))


def test_a_missing_package_turns_a_technique_off(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name)
    )
    plan = toggle(Plan("tiny"), "lora", True)
    [problem] = problems(plan, None, CPU)
    assert problem.override == "lora=off" and "pip install peft" in problem.reason
    # What needs it is not told to turn it on: there would be no end of mending.
    quantized = toggle(Plan("tiny"), "quantize_4bit", True)
    assert [problem.override for problem in problems(quantized)] == ["lora=on"]
    assert problems(quantized, None, GPU)[-1].override == "quantize_4bit=off"


def test_no_mend_puts_out_what_was_named_last() -> None:
    count = 0
    for first, second in itertools.permutations(techniques(), 2):
        choices = [
            f"{first}.{item.name}={choice}"
            for item in parameters_of(techniques()[first])
            for choice in item.choices
        ]
        alone = toggle(Plan("tiny"), first, True)
        for start in (alone, *(override(alone, text) for text in choices)):
            plan = toggle(start, second, True)
            for problem in problems(plan):
                count += 1
                mended = override(plan, problem.override)
                assert second in mended.techniques, (first, second, problem)
    assert count > 400


def test_an_override_keeps_the_order_in_which_techniques_were_named() -> None:
    plan = parse_plan('model = "tiny"\n[techniques.sgd]\n[techniques.lora]\n[techniques.bf16]')
    changed = override(override(plan, "lora.rank=4"), "attention.backend=math")
    assert list(changed.techniques) == ["sgd", "lora", "bf16", "attention"]


@pytest.mark.parametrize(
    "override_text,choices,hint",
    [
        ("workload.schedule=cosin", "constant | cosine | linear", "did you mean 'cosine'?"),
        ("weights=zzz", "auto | pretrained | random", ""),
        ("adamw.kernel=FUSED", "auto | foreach | fused | loop", "did you mean 'fused'?"),
        ("lora.targets=mpl", "all-linear | attention | mlp", "did you mean 'mlp'?"),
    ],
)
def test_a_wrong_choice_is_told_with_the_choices(
    override_text: str, choices: str, hint: str
) -> None:
    with pytest.raises(MemwbError) as found:
        override(Plan(model="tiny"), override_text)
    assert choices in found.value.what and hint in found.value.what


def test_overrides_of_a_technique_say_on_or_off() -> None:
    with pytest.raises(MemwbError, match=r"'yes' is neither on nor off"):
        override(parse_plan(PLAN), "lora=yes")


def test_a_list_may_come_without_quotes() -> None:
    found = override(parse_plan(PLAN), "lora.targets=[q_proj, v_proj]")
    assert found.techniques["lora"].targets == ("q_proj", "v_proj")
    with pytest.raises(MemwbError, match=r'nor a list of names such as \["q_proj"\]'):
        override(parse_plan(PLAN), "lora.targets=q_proj")


def test_learned_positions_bound_the_sequence() -> None:
    plan = override(parse_plan(PLAN), "workload.sequence_length=300")
    [problem] = problems(plan, {"model_type": "gpt2", "n_positions": 256})
    assert problem.override == "workload.sequence_length=256"
    assert not problems(override(plan, problem.override), {"n_positions": 256})
    assert not problems(plan, {"model_type": "llama", "max_position_embeddings": 256})


def test_checkpointing_no_layer_at_all_is_refused() -> None:
    plan = override(parse_plan('model = "tiny"'), "activation_checkpointing.every=3")
    assert not problems(plan, {"num_hidden_layers": 3})
    [problem] = problems(plan, {"num_hidden_layers": 2})
    assert problem.override == "activation_checkpointing.every=2"
