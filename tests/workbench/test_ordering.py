"""The history in every order, and what a text finds in it."""

from __future__ import annotations

import math

import pytest

from memwb.engine.errors import MemwbError
from memwb.engine.protocol import Categories, Peak
from memwb.engine.runs import Summary
from memwb.workbench.ordering import ORDERS, at_least, matching, order_named, sorted_runs


def run(number: int, **known: object) -> Summary:
    created = f"2026-01-0{number}T00:00:00+00:00"
    given = {"outcome": "done", "created": created, "name": f"n{number}"} | known
    return Summary(run=number, folder=f"runs/{number:04}", **given)  # type: ignore[arg-type]


def peak(size: int) -> Peak:
    return Peak(size, size, size, "backward", Categories(size))


RUNS = [
    run(5, outcome="oom", peak=peak(900), model="b", name="Zed"),
    run(4, peak=peak(20), losses=[9.0, 2.0], tokens_per_second=5.0, model="a", name="alpha"),
    run(3, losses=[1.0, math.nan], tokens_per_second=50.0, model="a", name="beta"),
    run(2, peak=peak(300), losses=[3.0], model="B", name="gamma", note="spilled\nbadly"),
    run(1, outcome="failed", techniques=["lora"], model="", name="lora", pinned="now"),
]


def test_a_run_that_was_cut_short_is_not_the_smallest() -> None:
    cut = [run(n, outcome=how, peak=peak(5)) for n, how in ((6, "stopped"), (7, "interrupted"))]
    for turned in (False, True):
        assert [each.run for each in sorted_runs([*cut, *RUNS], "peak", turned)][3:5] == [6, 7]
    assert [at_least(each) for each in (*cut, *RUNS[:3])] == ["≥", "≥", "", "", ""]


@pytest.mark.parametrize(
    ("name", "straight", "turned"),
    [
        ("time", [5, 4, 3, 2, 1], [1, 2, 3, 4, 5]),
        ("peak", [4, 2, 5, 3, 1], [5, 2, 4, 3, 1]),
        ("speed", [3, 4, 5, 2, 1], [4, 3, 5, 2, 1]),
        ("loss", [4, 2, 5, 3, 1], [2, 4, 5, 3, 1]),
        ("name", [4, 3, 2, 1, 5], [5, 1, 2, 3, 4]),
        ("model", [4, 3, 5, 2, 1], [5, 2, 4, 3, 1]),
        ("outcome", [4, 3, 2, 1, 5], [5, 1, 4, 3, 2]),
    ],
)
def test_every_order_both_ways(name: str, straight: list[int], turned: list[int]) -> None:
    """What has no such figure comes last, whichever way; equal ones stay as they were."""
    assert [each.run for each in sorted_runs(RUNS, name)] == straight
    assert [each.run for each in sorted_runs(RUNS, name, True)] == turned


def test_all_orders_are_tested_and_a_wrong_one_is_named() -> None:
    assert list(ORDERS) == ["time", "peak", "speed", "loss", "name", "model", "outcome"]
    with pytest.raises(MemwbError, match="did you mean 'peak'"):
        order_named("peek")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("  ", [5, 4, 3, 2, 1]),
        ("ZED", [5]),
        ("oom b", [5]),
        ("spilled badly", [2]),
        ("LoRA", [1]),
        ("pinned", [1]),
        ("#4", [4]),
        ("2026-01-03", [3]),
        ("done nothing", []),
        (".*", []),
    ],
)
def test_every_word_must_be_somewhere(text: str, found: list[int]) -> None:
    assert [each.run for each in matching(RUNS, text)] == found
