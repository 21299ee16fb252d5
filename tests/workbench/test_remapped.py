"""Whoever gives the commands other keys reads of those alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.plan import Plan, override
from memwb.workbench.commands import COMMANDS, key_for, key_name, keyed
from memwb.workbench.layout import PANELS

# One letter each, of an alphabet that nothing here is written in.
KEYMAP = {command.id: chr(0x430 + at) for at, command in enumerate(COMMANDS)}
# Letters that are no keys: an article, units, the runs of a comparison.
OTHERS = set("aABCDs×")
STALE = {command.keys.split(",")[0] for command in COMMANDS} | {"?", "/", "^p"}
# Beside a letter that is a word of its own; charts shorten phases and categories to one.
TOKEN = re.compile(r"(?<![\w./'─-╿■-])([A-Za-z?/]|space|\^p)(?![\w./'─-╿…-])")


@pytest.fixture
def remapped(home: Path) -> None:
    home.mkdir()
    lines = [f'{name} = "{key}"' for name, key in KEYMAP.items()]
    (home / "settings.toml").write_text("\n".join(["[keymap]", *lines]), encoding="utf-8")


def said(app: Any) -> str:
    """All that is on the screen, and what passes over it."""
    strips = app.screen._compositor.render_strips()
    toasts = [str(each.message) for each in app._notifications]
    return "\n".join([*(strip.text for strip in strips), *toasts])


def stale(text: str) -> list[str]:
    """The lines that tell of a key that does nothing any more."""
    found = []
    # In the window that exports keys are its own.
    for line in text.replace("w there", "").splitlines():
        if {token for token in TOKEN.findall(line)} & STALE - OTHERS:
            found.append(line)
    return found


def test_a_key_is_named_by_its_command() -> None:
    assert keyed("$run runs, $model chooses", {}) == "r runs, o chooses"
    assert keyed("$run runs, $model chooses", {"run": "K,L"}) == "K runs, o chooses"
    assert stale("… · r runs the plan") and stale(" 4 m shows all") and not stale("a run of 4 s")


@pytest.mark.parametrize(
    "key, name",
    [("comma", ","), ("left_square_bracket", "["), ("semicolon", ";"), ("question_mark", "?"),
     ("minus", "\N{MINUS SIGN}"), ("space", "space"), ("tab", "tab"), ("escape", "esc"), ("A", "A"),
     ("f1", "f1"), ("ctrl+r", "ctrl+r"), ("shift+left", "shift+left"), ("underscore", "_"),
     ("backspace", "backspace"), ("number_sign", "#"), ("slash", "/"), ("plus", "+"), ("at", "@"),
     ("full_stop", "."), ("less_than_sign", "<"), ("left_curly_bracket", "{"), ("colon", ":")],
)  # fmt: skip
def test_a_key_is_told_as_it_is_printed_on_it(key: str, name: str) -> None:
    assert key_name(key) == name


async def test_a_bracket_is_no_markup(bench: Any, home: Path, waiting: Any) -> None:
    home.mkdir()
    given = (("run", "left"), ("pin", "right"), ("note_run", "left"), ("replay", "right"))
    lines = [f'{name} = "{side}_square_bracket"' for name, side in given]
    (home / "settings.toml").write_text("\n".join(["[keymap]", *lines]), encoding="utf-8")
    app = bench("full")
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("left_square_bracket", "5")
        await waiting(pilot, lambda: "] pin   [ run" in said(app))
        await waiting(pilot, lambda: "[ note · ] replay" in said(app))
        await pilot.press("ctrl+p", *"cursor to")
        await waiting(pilot, lambda: "cursor to the step before  ([)" in said(app))


@pytest.mark.usefixtures("remapped")
@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
async def test_no_screen_tells_of_a_key_that_was_given_away(
    bench: Any, waiting: Callable[..., Any], forecast: Callable[..., Any], size: tuple[int, int]
) -> None:
    plan = override(Plan(model="tiny"), "quantize_4bit=on")
    app = bench("full", "lora", plan=plan, forecast=forecast(), ready=False, guide=True)
    async with app.run_test(size=size) as pilot:

        async def look(*actions: str) -> None:
            for action in actions:
                await app.run_action(action if "." in action else f"screen.{action}")
                await pilot.pause()
            assert stale(said(app)) == []

        for panel in PANELS:
            await look(f"jump('{panel}')")
        await look("app.compare", "app.name_run", "app.note_run", "app.pin_run", "app.delete_run")
        await look("app.replay", "jump('plan')", "app.run", "app.undo", "app.stop")
        for row in ("model", "group:workload", "technique:bf16", "value:workload.steps"):
            app.main.plan_panel.rows.select(row)
            await look("reset_row")
        app.main.plan_panel.rows.select("technique:bf16")
        await look("edit_row")
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.engine_state == "ready")
        await look("fix", "fix", "fix", "app.run")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await look("jump('memory')", "jump('plan')")
        app.change_plan(override(app.session.plan, "bf16=on"))
        await look("app.run")
        await waiting(pilot, lambda: len(app.recorded) == 2 and not app.busy)
        await look("jump('runs')", "app.compare")
        app.main.runs.rows.cursor += 1
        await look("app.compare", "jump('peak')", "maximise")
        for panel in PANELS:
            await look(f"jump('{panel}')", "help")
            await pilot.press("escape")
        app.bursts.gone(None)
        await pilot.pause()
        await look("jump('plan')")
        assert f"Press {KEYMAP['run']} to start" in said(app)


async def test_other_keys_are_read_of_at_once(bench: Any) -> None:
    app = bench(ready=False)
    async with app.run_test(size=(200, 50)) as pilot:
        await pilot.pause()
        assert "2 Memory" in said(app) and "r runs the plan" in said(app)
        from memwb.workbench import preferences

        preferences.rebind(app, {"jump_memory": "ц", "run": "щ"})
        await pilot.pause()
        assert "ц Memory" in said(app) and "щ runs the plan" in said(app)
        assert "r runs the plan" not in said(app) and key_for("run", app.settings.keymap) == "щ"


async def test_the_cursor_of_the_chart_goes_by_the_keys_that_are_given(
    bench: Any, waiting: Callable[..., Any], home: Path
) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('[keymap]\ncursor_peak = "B"\n', encoding="utf-8")
    app = bench("full")
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r", "2")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        chart = app.main.memory.chart
        await pilot.press("k")
        assert chart.cursor is None, "the key was given away"
        await pilot.press("B")
        assert chart.cursor is chart.shown.peak is not None
