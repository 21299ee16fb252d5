"""Every command of the table, by each of its keys, in a panel where it acts, and what then is seen.

A command without a line in EXPECTED fails: add one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from textual.pilot import Pilot

from memwb.engine.plan import Plan
from memwb.engine.protocol import CATEGORIES
from memwb.workbench import state
from memwb.workbench.commands import COMMANDS, Command
from memwb.workbench.settings import EVERYWHERE

Look = Callable[[Any], object]


class Case(NamedTuple):
    """What a command does: what is looked at, what it is afterwards, and what comes before."""

    look: Look
    then: object
    """Not so before, so after; ANOTHER: anything but what it was."""
    first: str = ""
    """Keys pressed beforehand; ``@ID`` selects a row of the plan, ``hold`` lets no burst end."""
    panel: str = ""
    """Where it is pressed, if not in the first panel that the command names, or the plan."""


ANOTHER = object()


def on(app: Any) -> list[str]:
    return list(app.session.plan.techniques)


def screen(app: Any) -> str:
    return type(app.screen).__name__


def opened(name: str, first: str = "", panel: str = "") -> Case:
    return Case(screen, name, first, panel)


def chart(app: Any) -> Any:
    return (app.main.loss if app.main.panel == "loss" else app.main.memory).chart


def pinned(app: Any) -> bool:
    return any(run.pinned for run in app.recorded)


def jumped(name: str) -> Case:
    return Case(lambda app: app.main.panel, name, panel="loss" if name == "plan" else "plan")


EXPECTED: dict[str, Case] = {
    "toggle": Case(lambda app: "lora" in on(app), True, "@technique:lora"),
    "edit": Case(lambda app: app.main.typing, True, "@value:workload.steps"),
    "run": Case(lambda app: len(app.recorded), ANOTHER),
    "stop": Case(lambda app: app.live.ended and app.live.ended.outcome, "stopped", "hold r"),
    "export": opened("ExportScreen"),
    "compare": Case(lambda app: len(app.session.marks), 1, panel="runs"),
    "pin": Case(pinned, True, panel="runs"),
    "replay": Case(lambda app: app.replay.doing[:9], "replaying", panel="runs"),
    "name_run": Case(lambda app: app.focused.id, "name", panel="runs"),
    "note_run": Case(lambda app: app.focused.id, "note", panel="runs"),
    "delete_run": opened("AskScreen", panel="runs"),
    "sort_runs": Case(lambda app: app.session.sort, "peak"),
    "turn_runs": Case(lambda app: app.session.turned, True),
    "fix": Case(lambda app: "lora" in on(app), True, "@technique:quantize_4bit space"),
    "fold_all": Case(lambda app: len(app.session.folded) > 3, True),
    "model": opened("ModelScreen"),
    "target": opened("TargetScreen"),
    "peak": opened("PeakScreen"),
    "settings": opened("SettingsScreen"),
    "save": opened("SaveScreen"),
    "load": opened("PresetScreen"),
    "undo": Case(lambda app: "lora" in on(app), False, "@technique:lora space"),
    "redo": Case(lambda app: "lora" in on(app), True, "@technique:lora space u"),
    "plan_text": opened("PlanTextScreen"),
    "reset": Case(
        lambda app: app.session.plan.workload.schedule, "constant", "@value:workload.schedule space"
    ),
    "reset_plan": Case(lambda app: "lora" in on(app), False, "@technique:lora space"),
    "take_plan": Case(lambda app: "lora" in on(app), False, "1 @technique:lora space 5"),
    "guide": Case(lambda app: app.session.guide, "run"),
    "filter": Case(lambda app: app.main.typing, True),
    "freeze": Case(lambda app: app.main.memory.frozen, True),
    "maximise": Case(lambda app: app.session.maximised, True),
    "zoom_in": Case(lambda app: chart(app).window, ANOTHER),
    "zoom_out": Case(lambda app: chart(app).window, ANOTHER, "plus plus plus"),
    "zoom_off": Case(lambda app: chart(app).window.whole, True, "plus"),
    "pan_back": Case(lambda app: chart(app).window, ANOTHER, "plus plus"),
    "pan_on": Case(lambda app: chart(app).window, ANOTHER, "plus plus less_than_sign"),
    **{
        f"band_{name}": Case(lambda app: set(app.main.memory.chart.hidden), {index})
        for index, name in enumerate(CATEGORIES)
    },
    "cursor_peak": Case(
        lambda app: (shown := app.main.memory.chart).cursor is shown.shown.peak, True, "home"
    ),
    **{
        f"{place}_{side}": Case(lambda app: app.main.memory.chart.cursor, ANOTHER, first)
        for place in ("phase", "step")
        for side, first in (("before", "end"), ("after", "home"))
    },
    **{f"jump_{name}": jumped(name) for name in EVERYWHERE},
    **{
        name: Case(lambda app: dict(app.session.sizes), ANOTHER)
        for name in ("more", "less", "wider", "narrower")
    },
    "usual_sizes": Case(lambda app: dict(app.session.sizes), {}, "right_curly_bracket"),
    "jump_mode": opened("JumpScreen"),
    "copy": Case(lambda app: "[workload]" in app.clipboard, True),
    "restart": Case(lambda app: app.scripted.started, 2),
    "help": opened("HelpScreen"),
    "palette": opened("Palette"),
    "quit": Case(lambda app: app._exit, True),
}
LAST = ("restart", "quit")


async def press(pilot: Pilot[None], keys: str) -> None:
    app: Any = pilot.app
    for key in keys.split():
        if key == "hold":
            app.scripted.hold = True
        elif key.startswith("@"):
            app.main.plan_panel.rows.select(key[1:])
        else:
            await pilot.press(key)
        await pilot.pause()


async def try_out(pilot: Pilot[None], command: Command, panel: str, key: str, until: Any) -> None:
    """Press one key of a command in a panel of a workbench as it was at first, and look."""
    app: Any = pilot.app
    case = EXPECTED[command.id]
    app.main.action_jump(panel)
    await until(pilot, lambda: app.main.panel == panel)
    await press(pilot, case.first)
    before = case.look(app)
    assert case.then is ANOTHER or before != case.then, f"{command.id}: it is so already"
    await pilot.press(key)
    try:
        await until(pilot, lambda: (now := case.look(app)) != before
                    and case.then in (ANOTHER, now), 5.0)  # fmt: skip
    except AssertionError:
        pytest.fail(f"{key} ({command.id}) in {panel}: {before!r}, then {case.look(app)!r}")


async def put_back(pilot: Pilot[None], until: Any) -> None:
    """The workbench as it was when both runs were done."""
    app: Any = pilot.app
    while app.screen is not app.main:
        await pilot.press("escape")
        await pilot.pause()
    app.replay.leave()
    if app.main.typing:
        await pilot.press("escape")
    app.main.plan_panel.clear_filter()
    app.main.runs.clear_filter()
    app.main.notice.clear()
    app.scripted.hold = False
    if app.main.memory.frozen:
        app.main.memory.freeze(False)
    for each in (app.main.memory.chart, app.main.loss.chart):
        each.show_all()
        each.show_all()
    if pinned(app):
        await press(pilot, "5 b")
        await until(pilot, lambda: not pinned(app))
    app.keep(state.Session(Plan(model="tiny")))
    app.show_runs()
    await until(pilot, lambda: app.main.memory.chart.region.area)


async def test_every_command_by_its_keys(bench: Any, waiting: Any) -> None:
    assert {command.id for command in COMMANDS} == set(EXPECTED), "a line each in EXPECTED"
    app = bench(*["full"] * 5, plan=Plan(model="tiny"))
    async with app.run_test(size=(120, 40)) as pilot:
        for count in (1, 2):
            await waiting(pilot, lambda: app.engine_state == "ready")
            await pilot.press("r")
            await waiting(pilot, lambda: len(app.recorded) == count)  # noqa: B023
        for command in sorted(
            COMMANDS, key=lambda one: (*LAST, one.id).index(one.id) if one.id in LAST else -1
        ):
            panel = EXPECTED[command.id].panel or (*command.where, "plan")[0]
            for key in command.keys.split(","):
                await waiting(pilot, lambda: app.engine_state == "ready")
                await put_back(pilot, waiting)
                await try_out(pilot, command, panel, key, waiting)
