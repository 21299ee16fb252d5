"""Fifty random plans, over all families: what is predicted for a CPU is what is measured on one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memwb.engine.memory import CATEGORIES
from memwb.engine.technique import techniques

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
PLANS = 50


@pytest.fixture(scope="module")
def compared(warm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Each plan, predicted and measured."""
    file = tmp_path_factory.mktemp("random") / "all.json"
    command = warm.python(ROOT / "benchmarks" / "prediction.py")
    command += ["--plans", str(PLANS), "--seed", "3", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert file.is_file(), done.stderr
    return list(msgspec.json.decode(file.read_bytes()))


def titled(one: Any) -> str:
    return (
        f"{Path(one['plan']['model']).name} {one['plan']['workload']} {one['plan']['techniques']}"
    )


def test_every_plan_is_predicted_and_measured(compared: list[Any]) -> None:
    assert len(compared) == PLANS
    for one in compared:
        assert not one["predicted"]["error"] and not one["measured"]["error"], one


def test_peaks_are_within_half_a_percent(compared: list[Any]) -> None:
    for one in compared:
        told, seen = one["predicted"]["allocated"], one["measured"]["allocated"]
        assert seen > 0 and abs(told / seen - 1) <= 0.005, (titled(one), told, seen)


def test_categories_at_the_peak_are_within_one_percent_of_it(compared: list[Any]) -> None:
    for one in compared:
        whole = one["measured"]["allocated"]
        for name in CATEGORIES:
            told, seen = (one[kind]["categories"][name] for kind in ("predicted", "measured"))
            assert abs(told - seen) <= 0.01 * whole, (titled(one), name, told, seen)


def test_the_highest_of_each_phase_is_within_one_percent(compared: list[Any]) -> None:
    for one in compared:
        told, seen = one["predicted"]["phases"], one["measured"]["phases"]
        assert set(told) >= set(seen) and len(seen) >= 5, titled(one)
        for phase, most in seen.items():
            assert abs(told[phase] / most - 1) <= 0.01, (titled(one), phase, told[phase], most)


def test_the_plans_are_of_all_kinds(compared: list[Any]) -> None:
    models = [Path(one["plan"]["model"]).name.rpartition("-") for one in compared]
    assert len({family for family, _, _ in models}) == 9
    assert sum(int(layers) > 10 for _, _, layers in models) >= 15, "folding takes no part"
    drawn = {name for one in compared for name in one["plan"]["techniques"]}
    assert len(drawn) >= 0.8 * sum(one.group != "compile" for one in techniques().values())
