from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
from textual.app import App

from memwb.engine.plan import Plan, toggle
from memwb.workbench import workers


def unawaited(caught: list[warnings.WarningMessage]) -> list[str]:
    gc.collect()
    return [str(one.message) for one in caught if "never awaited" in str(one.message)]


@pytest.mark.parametrize("leave", [False, True])
async def test_work_that_is_displaced_or_left_before_it_begins_leaves_nothing(leave: bool) -> None:
    done = []

    async def work(number: int) -> None:
        done.append(number)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        app: App[None] = App()
        async with app.run_test() as pilot:
            for number in range(3):
                workers.displace(app, "one", work, number)
            if leave:
                app.workers.cancel_all()
            await pilot.pause()
        assert unawaited(caught) == []
    assert done == ([] if leave else [2])


async def test_a_plan_that_is_edited_as_the_workbench_is_left_is_not_looked_up(
    bench: Any, waiting: Any
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        app = bench("full", plan=Plan(model="tiny"))
        async with app.run_test(size=(80, 24)) as pilot:
            await waiting(pilot, lambda: app.engine_state == "ready")
            for name in ("bf16", "activation_checkpointing"):
                app.change_plan(toggle(app.session.plan, name, True))
            app.show_runs()
            app.workers.cancel_all()
            app.exit()
        assert unawaited(caught) == []
