"""What every technique owes, held against each one that is found: see docs/numerics.md."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memwb.engine.plan import Plan, override, problems, toggle
from memwb.engine.technique import Technique, parameters_of, techniques, unavailable

pytestmark = pytest.mark.long

TECHNIQUES = techniques()
NAMES = list(TECHNIQUES)
EXACT = [name for name in NAMES if TECHNIQUES[name].exact]
TOLERANT = [name for name in NAMES if TECHNIQUES[name].tolerance is not None]
FREE = [name for name in NAMES if name not in (*EXACT, *TOLERANT)]

# The base and its function stay as they are: only what is done with the gradients differs,
# or what is added starts as nothing.
NEUTRAL = ("optimizer", "step", "adapters")

LONG = {"steps": 10, "batch_size": 4, "sequence_length": 24}
PRECISIONS = ("fp32", "bf16")

# Where a precision takes other steps later, its first loss is still as close as its format:
# derived in docs/numerics.md.
FIRST = {"bf16": 2**-5, "amp_fp16": 2**-8}


def variants(technique: Technique) -> list[str]:
    """Overrides of one parameter each: other choices, flipped switches, small whole numbers."""
    found = []
    for parameter in parameters_of(technique):
        values: list[Any] = [choice for choice in parameter.choices if choice is not None]
        if parameter.type == "bool":
            values = ["false" if parameter.default else "true"]
        elif parameter.type == "int":
            values = [1, 2]
        found += [
            f"{technique.name}.{parameter.name}={value}"
            for value in values
            if value != parameter.default
        ]
    return found


def forms(names: list[str]) -> list[Any]:
    """Each technique as it stands, and in each of its variants.

    But for optimizers: AdamW is exact in its defaults, another parameter takes other steps.
    """
    return [
        pytest.param(name, change, id=change or name)
        for name in names
        for technique in [TECHNIQUES[name]]
        for change in ("", *(variants(technique) if technique.group != "optimizer" else ()))
    ]


def pair_of(bench: Any, name: str, change: str, *base: str, **workload: Any) -> tuple[Plan, Plan]:
    """The plan with the technique, and the same one without it."""
    on = bench.adding(bench.plan(**workload), *base, name)
    on = override(on, change) if change else on
    return on, toggle(on, name, False)


def test_every_technique_says_what_is_owed() -> None:
    for technique in TECHNIQUES.values():
        assert not (technique.exact and technique.tolerance is not None), technique.name
        if technique.tolerance is not None:
            assert 0 < technique.tolerance < 0.1, technique.name
        for line in (technique.saves, technique.costs, technique.not_when, technique.source):
            assert line and "\n" not in line, technique.name


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_runs_unless_the_machine_lacks_something(bench: Any, name: str) -> None:
    """So that no test below passes because the technique is refused for no good reason."""
    plan = bench.adding(bench.plan(), name)
    assert not problems(plan, bench.tiny)
    lacking = unavailable(TECHNIQUES[name], plan.techniques[name], bench.device)
    if not lacking:
        bench.losses(plan)


@pytest.mark.parametrize(("name", "change"), forms(EXACT))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_exact_technique_changes_no_loss_and_no_gradient(
    bench: Any, name: str, change: str, precision: str
) -> None:
    base = () if TECHNIQUES[name].group == "precision" else (precision,)
    on, off = pair_of(bench, name, change, *base, **LONG)
    if bench.refused(on, bench.tiny):
        return
    assert bench.losses(on) == bench.losses(off)
    assert bench.run(on).gradients == bench.run(off).gradients != {}


@pytest.mark.parametrize(("name", "change"), forms(TOLERANT))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_technique_stays_within_its_tolerance(
    bench: Any, name: str, change: str, precision: str
) -> None:
    base = () if TECHNIQUES[name].group == "precision" else (precision,)
    on, off = pair_of(bench, name, change, *base, **LONG)
    config = bench.config(name)
    if bench.refused(on, config):
        return
    tolerance = TECHNIQUES[name].tolerance or 0
    losses, others = bench.losses(on, config), bench.losses(off, config)
    for step, (with_it, plain) in enumerate(zip(losses, others, strict=True)):
        assert abs(with_it - plain) <= tolerance * plain, f"step {step + 1}"


@pytest.mark.parametrize("name", [name for name in FREE if TECHNIQUES[name].group in NEUTRAL])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_that_takes_other_steps_starts_from_the_same_loss(
    bench: Any, name: str, precision: str
) -> None:
    on, off = pair_of(bench, name, "", precision, **LONG)
    if bench.refused(on, bench.tiny):
        return
    assert bench.losses(on)[0] == bench.losses(off)[0]


def test_the_first_loss_of_a_precision_is_as_close_as_its_format(bench: Any) -> None:
    plain = bench.losses(bench.plan(**LONG))[0]
    free = {name for name in FREE if TECHNIQUES[name].group == "precision"}
    assert free == set(FIRST), "a precision owes a tolerance, or a bound on its first loss"
    for name in free:
        first = bench.losses(bench.adding(bench.plan(**LONG), name))[0]
        assert abs(first - plain) <= FIRST[name] * plain, name


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(bench: Any, name: str) -> None:
    plans = [
        bench.adding(bench.plan(**LONG, learning_rate=rate), name)
        for rate in (1e-9, 0.01, 0.1, 1.0)
    ]
    config = bench.config(name)
    if bench.refused(plans[0], config):
        return
    # The same rows through a model that stands still: some rows are easier than others.
    still = bench.losses(plans[0], config)
    assert still[0] == pytest.approx(math.log(config["vocab_size"]), rel=0.05)
    assert any(bench.losses(plan, config)[-1] < 0.995 * still[-1] for plan in plans[1:])


COMPARED = {form.values[1] for form in (*forms(EXACT), *forms(TOLERANT))}
"""Choices that run above already, with each precision."""


@pytest.mark.parametrize(
    "change",
    [one for name in NAMES for one in variants(TECHNIQUES[name]) if one not in COMPARED],
)
def test_every_other_choice_runs_or_is_refused(bench: Any, change: str) -> None:
    name = change.partition(".")[0]
    plan, config = override(bench.adding(bench.plan(), name), change), bench.config(name)
    if bench.refused(plan, config):
        return
    bench.losses(plan, config)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_trains_or_is_refused(
    bench: Any, name: str, family: str, families: dict[str, Any]
) -> None:
    config = families[family]
    on, off = pair_of(bench, name, "")
    if bench.refused(on, config):
        return
    losses = bench.losses(on, config)
    if TECHNIQUES[name].exact:
        assert losses == bench.losses(off, config)
        assert bench.run(on, config).gradients == bench.run(off, config).gradients
    tolerance = TECHNIQUES[name].tolerance
    if tolerance is not None:
        assert losses == pytest.approx(bench.losses(off, config), rel=tolerance)
