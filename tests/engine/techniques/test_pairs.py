"""Every pair of techniques either runs, or is refused with a reason and what mends it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from memwb.engine.plan import Plan, override, problems, toggle
from memwb.engine.technique import techniques

pytestmark = pytest.mark.long

PAIRS = list(itertools.combinations(techniques(), 2))

# Its random numbers are drawn tensor after tensor, in the order in which they are updated.
ORDERED = {"bf16_stochastic_rounding", "optimizer_in_backward"}


def paired(bench: Any, first: str, second: str) -> Plan:
    """Both on, even where one of them would make room for the other."""
    one = bench.adding(bench.plan(), first)
    two = bench.adding(bench.plan(), second)
    plan = one
    for name, params in two.techniques.items():
        if name not in plan.techniques:
            plan = with_params(plan, name, params)
    return plan


def with_params(plan: Plan, name: str, params: Any) -> Plan:
    """The technique beside the others, its exclusive group or not."""
    return Plan(plan.model, plan.weights, plan.workload, {**plan.techniques, name: params})


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=map("+".join, PAIRS))
def test_a_pair_runs_or_is_refused(bench: Any, first: str, second: str) -> None:
    config = bench.config(first, second)
    plan = mend(paired(bench, first, second), config)
    assert plan.techniques, "nothing is left of it"
    if bench.refused(plan, config):
        # What this machine has not: said, with the reason.
        return
    losses = bench.losses(plan, config)
    # An exact technique changes nothing, whatever it stands beside.
    for name in (first, second):
        if name in plan.techniques and techniques()[name].exact and {first, second} != ORDERED:
            without = toggle(plan, name, False)
            if not problems(without, config):
                assert losses == bench.losses(without, config), f"{name} is not exact here"


def mend(plan: Plan, config: dict[str, Any]) -> Plan:
    """The plan after following, one after another, what its refusals say."""
    said = []
    while found := problems(plan, config):
        problem = found[0]
        assert problem.reason and problem.fix and problem.override, problem
        said.append(f"{problem.path}: {problem.reason} ({problem.override})")
        plan = override(plan, problem.override)
        assert problem not in problems(plan, config), f"not mended: {said[-1]}"
        assert len(said) < 6, f"no end of mending: {said}"
    return plan
