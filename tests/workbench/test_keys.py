"""Every key does what the table of commands says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.keys import _character_to_key
from textual.widgets import Input

from memwb.engine.plan import Plan, override
from memwb.engine.technique import GROUPS, techniques
from memwb.workbench import searching
from memwb.workbench.commands import COMMANDS, key_name, shown_key
from memwb.workbench.layout import PANELS
from memwb.workbench.panels import notice
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import SAID
from memwb.workbench.panels.texts import footer
from memwb.workbench.screens import help_texts

SIZE = (120, 40)


def rows(app: Any) -> Any:
    return app.main.plan_panel.rows


def text(row: Any) -> str:
    return "".join(piece for piece, _ in row.left)


async def test_every_technique_is_a_row_of_its_group(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        ids = [row.id for row in rows(app).rows]
        for group in GROUPS:
            start = ids.index(f"group:{group.name}")
            members = [t.name for t in techniques().values() if t.group == group.name]
            assert ids[start + 1 : start + 1 + len(members)] == [f"technique:{m}" for m in members]


async def test_space_toggles_and_enter_edits_in_place(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("technique:lora")
        await pilot.press("space")
        assert "lora" in app.session.plan.techniques
        assert "value:techniques.lora.rank" in [row.id for row in rows(app).rows]
        await pilot.press("enter")
        await pilot.pause()
        field = app.focused
        assert isinstance(field, Input)
        await pilot.press("0")
        await pilot.pause()
        note = [text(row).strip() for row in rows(app).rows if row.id == SAID]
        assert note == ["✗ give a whole number ≥ 1"]
        await pilot.press("enter")
        assert app.session.plan.techniques["lora"].rank == 16, "a wrong value is not taken"
        await pilot.press("backspace", "4", "tab")
        await pilot.pause()
        assert app.session.plan.techniques["lora"].rank == 4
        assert app.main.query_one("Editor").path == "techniques.lora.alpha"
        await pilot.press("escape")
        assert app.focused is rows(app)


async def test_space_steps_through_choices(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("value:workload.schedule")
        seen = []
        for _ in range(3):
            await pilot.press("space")
            seen.append(app.session.plan.workload.schedule)
        assert seen == ["cosine", "linear", "constant"]


async def test_a_default_shows_that_it_acts(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        shown = {row.id: text(row) for row in rows(app).rows}
        assert "◐" in shown["technique:adamw"] and "default" in shown["technique:adamw"]
        rows(app).select("technique:sgd")
        await pilot.press("space")
        shown = {row.id: text(row) for row in rows(app).rows}
        assert "○" in shown["technique:adamw"] and "●" in shown["technique:sgd"]


async def test_what_is_not_installed_is_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from memwb.workbench.panels import plan_rows

    monkeypatch.setattr(
        plan_rows, "unavailable", lambda t, *_: "needs bitsandbytes" if t.packages else ""
    )
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        lines = [text(row) for row in rows(app).rows]
        at = next(i for i, line in enumerate(lines) if "4-bit" in line)
        assert "needs bitsandbytes" in lines[at]


async def test_what_the_device_cannot_run_is_told_and_passed_over(bench: Any) -> None:
    app = bench(plan=override(Plan(model="tiny"), "attention=on"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert app.device.kind == "cpu"
        lines = [text(row) for row in rows(app).rows]
        at = next(i for i, line in enumerate(lines) if "tf32" in line)
        assert "·" in lines[at] and "CUDA" in lines[at]
        rows(app).select("technique:tf32")
        await pilot.pause()
        lines = [text(row) for row in rows(app).rows]
        assert "CUDA" not in lines[at] and "not here: only CUDA" in lines[at + 1]
        rows(app).focus()
        for choice in ("eager", "sdpa"):
            rows(app).select("value:techniques.attention.implementation")
            await pilot.press("space")
            assert app.main.plan_panel.plan.techniques["attention"].implementation == choice


async def test_f_mends_a_problem(bench: Any, waiting: Any) -> None:
    plan = override(override(Plan(model="tiny"), "quantize_4bit=on"), "steps=2")
    app = bench(plan=plan)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.main.plan_panel.border_subtitle)
        await pilot.press("r")
        assert app.main.notice.display, "a plan with a problem does not run"
        while app.main.plan_panel.border_subtitle:
            before = app.session.plan
            await pilot.press("f")
            await pilot.pause()
            assert app.session.plan != before
        assert "lora" in app.session.plan.techniques


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("tf32=on", {}),
        ("attention.implementation=flash_attention_2", {"implementation": "sdpa"}),
    ],
)
async def test_f_mends_what_the_device_cannot_run(
    bench: Any, change: str, left: dict[str, str]
) -> None:
    app = bench(plan=override(Plan(model="tiny"), change))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        panel = app.main.plan_panel
        assert panel.border_subtitle == ("✗ 2 to mend" if left else "✗ 1 to mend: tf32")
        told = [text(row) for row in rows(app).rows if "CUDA devices" in text(row)]
        assert len(told) == 1, "once, at its row"
        await pilot.press("r")
        assert app.main.notice.display
        await pilot.press("f")
        await pilot.pause()
        assert not panel.border_subtitle
        chosen = panel.plan.techniques
        assert {key: getattr(chosen["attention"], key) for key in left} == left
        assert "bf16" not in chosen and "tf32" not in chosen


async def test_every_edit_is_taken_back_and_made_again_where_it_is_seen(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        panel, began = app.main.plan_panel, app.session.plan
        await pilot.press("u")
        assert any("nothing to be undone" in str(n.message) for n in app._notifications)
        rows(app).select("technique:lora")
        await pilot.press("space")
        app.change_plan(override(app.session.plan, "lora.rank=64"))
        app.change_plan(override(app.session.plan, "workload.steps=2"))
        rows(app).select("model")
        await pilot.press("u")
        assert rows(app).current.id == "value:workload.steps"
        assert str(panel.border_title) == "1 Plan · undone: steps 2 → 8"
        await pilot.press("u")
        assert rows(app).current.id == "value:techniques.lora.rank"
        await pilot.press("u")
        assert app.session.plan == began and rows(app).current.id == "technique:lora"
        assert "undone: LoRA off" in str(panel.border_title)
        await pilot.press("U", "U", "U", "U")
        assert app.session.plan.workload.steps == 2
        assert app.session.plan.techniques["lora"].rank == 64
        assert any("nothing to be done again" in str(n.message) for n in app._notifications)
        assert str(panel.border_title) == "1 Plan · done again: steps 8 → 2"
        app.fold("workload")
        await pilot.press("u")
        assert rows(app).current.id == "group:workload"


async def test_x_resets_a_row_and_shift_x_the_plan(bench: Any) -> None:
    plan = override(Plan(model="tiny"), "lora.rank=64")
    app = bench(plan=plan)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        rows(app).select("value:techniques.lora.rank")
        await pilot.press("enter", *"32", "enter", "x")
        assert app.session.plan.techniques["lora"].rank == 16
        app.change_plan(override(override(app.session.plan, "lora.rank=8"), "steps=3"))
        for row in ("technique:lora", "group:workload", "group:adapters"):
            rows(app).select(row)
            await pilot.press("x")
        assert app.session.plan == Plan(model="tiny")
        await pilot.press("x")
        assert any("as it usually is" in str(n.message) for n in app._notifications)
        await pilot.press("X")
        assert app.session.plan == plan
        assert "as it began" in str(app.main.plan_panel.border_title)
        await pilot.press("u")
        assert app.session.plan == Plan(model="tiny")
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        await pilot.press("X")
        assert app.session.plan == plan, "what a plan began from is kept"


async def test_slash_filters_and_escape_gives_all_back(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        everything = len(rows(app).rows)
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press(*"no such thing")
        await pilot.pause()
        assert [text(row).strip() for row in rows(app).rows] == ["nothing matches"]
        before = app.session.plan
        await pilot.press("enter", "space", "enter")
        await pilot.pause()
        assert app.session.plan == before and app.focused is rows(app)
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press("ctrl+u", *"lora", "enter")
        await pilot.pause()
        assert [row.id for row in rows(app).rows if row.selectable] == [
            "technique:lora",
            "technique:fused_lora",
        ]
        await pilot.press("escape")
        await pilot.pause()
        assert len(rows(app).rows) == everything


async def test_a_filter_lands_on_what_can_be_toggled(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press(*"att", "enter", "space")
        await pilot.pause()
        assert "attention" in app.session.plan.techniques and app.session.folded == ()


async def test_digits_and_tab_reach_every_panel(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        for key, name in zip("54321", ("runs", "peak", "loss", "memory", "plan"), strict=True):
            await pilot.press(key)
            await pilot.pause()
            assert app.main.panel == name == app.session.tab
        seen = []
        for _ in range(5):
            await pilot.press("tab")
            await pilot.pause()
            seen.append(app.main.panel)
        assert seen == ["memory", "loss", "peak", "runs", "plan"]


async def test_m_gives_a_panel_the_screen_and_takes_it_back(bench: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("4", "m")
        await pilot.pause()
        assert not app.main.plan_panel.display or not app.main.plan_panel.region.area
        assert app.main.peak.region.width == SIZE[0]
        await pilot.press("m")
        await pilot.pause()
        assert app.main.plan_panel.region.area


@pytest.mark.parametrize("panel", ["1", "2", "3"])
async def test_p_freezes_both_charts_and_lets_go(bench: Any, panel: str) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        app.main.memory.chart.display = True
        await pilot.press(panel)
        for frozen in (True, False):
            await pilot.press("p")
            await pilot.pause()
            assert app.main.memory.frozen == frozen
            assert app.main.loss.query_one("#loss-chart").frozen == frozen
            assert ("frozen" in app.main.memory.border_title) == frozen


@pytest.mark.parametrize("panel", ["1", "2", "5"])
async def test_escape_puts_a_message_away(bench: Any, panel: str) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        app.main.memory.chart.display = True
        await pilot.press(panel)
        app.main.tell("error", "Something", "happened")
        await pilot.press("escape")
        await pilot.pause()
        assert not app.main.notice.display


async def test_what_was_done_is_told_for_a_while_and_what_is_wrong_until_it_is_put_away(
    bench: Any, waiting: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "LASTS", 0.05)
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        message = app.main.notice
        app.main.tell("information", "Exported", "train.py")
        assert message.display
        await waiting(pilot, lambda: not message.display)
        app.main.tell("information", "Exported", "train.py")
        app.main.tell("error", "Something", "happened")
        await pilot.pause(0.15)
        assert message.display and "Something" in message.render().plain
        app.main.tell("information", "No GPU here", passing=True)
        await pilot.pause(0.15)
        assert message.display
        app.change_plan(override(app.session.plan, "steps=3"))
        assert not message.display


async def test_groups_fold(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("group:workload")
        await pilot.press("space")
        assert "value:workload.steps" not in [row.id for row in rows(app).rows]
        assert app.session.folded == ("workload",)
        await pilot.press("enter")
        assert app.session.folded == ()


async def test_the_mouse_toggles(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        line = rows(app).line_of("technique:lora")
        await pilot.click("#plan-rows", offset=(4, line))
        await pilot.pause()
        assert "lora" in app.session.plan.techniques


async def test_the_palette_has_every_action(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        titles = [command.title for command in app.get_system_commands(app.screen)]
        for command in COMMANDS:
            if command.palette:
                assert f"{command.title}  ({shown_key(command, {})})" in titles
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"undo")
        await pilot.pause(0.3)
        assert app.screen is not app.main
        await pilot.press("escape")


async def test_keys_can_be_given_other_names(bench: Any, home: Any) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('[keymap]\nundo = "D"\nrun = "K"\n')
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        before = app.session.plan
        rows(app).select("technique:sgd")
        await pilot.press("space", "u")
        assert app.session.plan != before
        await pilot.press("D")
        assert app.session.plan == before
        app.bursts.gone(None)
        assert "K starts it" in str(app.main.query_one("#header").render())
        assert "Press K to start it" in app.main.notice.render().plain


@pytest.mark.parametrize("size", [(40, 24), (50, 24), (60, 24), (70, 24), (80, 24), (200, 50)])
async def test_the_footer_holds_at_most_six_keys(
    bench: Any, size: tuple[int, int], waiting: Callable[..., Any]
) -> None:
    app = bench()
    async with app.run_test(size=size) as pilot:
        for key in "12345":
            await pilot.press(key)
            await pilot.pause()
            line = app.main.query_one("#footer", Line).render().plain
            words = [word for word in line.split("  ") if word.strip()]
            assert 1 <= len(words) <= 6 and "…" not in line
            assert "? help" in line and ("r run" in line or key == "5")
            bar = app.main.query_one("#tabs", Line)
            assert not bar.display or bar.render().plain.rstrip().endswith("5 Runs")


@pytest.mark.parametrize("width", range(11, 90, 3))
def test_a_footer_is_never_cut(width: int) -> None:
    for panel in PANELS:
        for state in ({"running": True}, {"broken": True}, {"typing": True}):
            how = {"running": False, "typing": False, **state}
            line = footer(panel, keymap={}, width=width, **how)
            assert (
                line.cell_length <= width and ("esc" if how["typing"] else "? help") in line.plain
            )


async def test_a_small_terminal_shows_one_panel(bench: Any) -> None:
    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.main.plan_panel.region.width == 80
        await pilot.press("2")
        await pilot.pause()
        assert not app.main.plan_panel.region.area
        assert app.main.memory.region.width == 80
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert app.main.plan_panel.region.area and app.main.memory.region.area


async def test_nothing_is_lost_on_quit(bench: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        rows(app).select("technique:lora")
        await pilot.press("space")
        rows(app).select("group:workload")
        await pilot.press("space", "5", "q")
        await pilot.pause()
        left = app.session
    again = bench()
    async with again.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert again.session == left
        assert again.main.panel == "runs"
        assert rows(again).current.id == left.row
        await pilot.press("u")
        assert "lora" not in again.session.plan.techniques


async def test_what_keys_do_is_named_in_small_letters_everywhere(bench: Any) -> None:
    named = [command.title for command in COMMANDS]
    named += [text for pairs in help_texts.OWN_KEYS.values() for _, text in pairs]
    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        for key in ("", "e", "C", "t", "o", "l"):
            await pilot.press(*key)
            await pilot.pause()
            named += [found.title for found in searching.commands(app, app.screen)]
            while app.screen is not app.main:
                await pilot.press("escape")
                await pilot.pause()
        named += app.main.query_one("#footer").render().plain.split()
    # An abbreviation is written as it always is.
    assert [text for text in named if text[0].isupper() and not text[:2].isupper()] == []


def test_every_sign_that_can_be_typed_is_shown_as_it_is_on_the_key() -> None:
    for sign in map(chr, range(33, 127)):
        shown = "\N{MINUS SIGN}" if sign == "-" else sign
        assert key_name(_character_to_key(sign)) == shown
    for name in ("space", "tab", "home", "delete", "shift+tab", "f1"):
        assert key_name(name) == name
