"""The screens beside the main one: models, presets, export, help."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from textual.containers import Vertical
from textual.events import Key, MouseDown
from textual.widgets import Input

from memwb.engine.plan import Plan, override, read_plan
from memwb.engine.presets import load_plan, presets
from memwb.engine.technique import techniques
from memwb.workbench import dialogs, library
from memwb.workbench.panels.rows import Rows
from memwb.workbench.screens.ask import AskScreen
from memwb.workbench.screens.help import HelpScreen
from memwb.workbench.screens.presets import SaveScreen
from memwb.workbench.screens.settings import SettingsScreen
from memwb.workbench.searching import commands
from memwb.workbench.settings import Settings

pytestmark = pytest.mark.long

SIZE = (120, 40)


def said(app: Any) -> str:
    return str(app.screen.query_one(".said").render())


async def test_a_model_is_found_by_a_few_letters(bench: Any, waiting: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("o")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._models)
        await pilot.press(*"sml135")
        await waiting(pilot, lambda: "135m" in app.screen.query_one("Rows").current.id)
        assert "random weights" in said(app)
        await pilot.press("enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.session.plan.model == "smollm2-135m"
        await waiting(pilot, lambda: app.model is not None)
        assert "135 M" in str(app.main.query_one("#header").render())
        await pilot.press("u")
        assert app.session.plan.model == "tiny"


async def test_a_folder_that_is_no_model_is_told_in_place(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("o")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._models)
        app.screen.query_one(Input).value = str(tmp_path)
        await pilot.press("enter")
        await waiting(pilot, lambda: "✗" in said(app))
        assert "config.json" in said(app)
        await pilot.press("escape")
        await pilot.pause()
        assert app.session.plan.model == "tiny"


async def test_a_folder_with_a_config_can_be_chosen(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    config = library.resolve(Plan(model="tiny"), Settings()).config
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps(config))
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("o")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._models)
        app.screen.query_one(Input).value = str(tmp_path)
        await pilot.press("enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.session.plan.model == str(tmp_path)
        await waiting(pilot, lambda: app.model is not None)
        assert "random weights" in str(app.main.query_one("#header").render())


async def test_a_preset_is_described_and_loaded(bench: Any, waiting: Any) -> None:
    app = bench(plan=override(Plan(model="gpt2"), "sgd=on"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("l")
        await waiting(pilot, lambda: app.screen is not app.main)
        app.screen.query_one("Rows").select("tiny-demo")
        await pilot.pause()
        head = presets()["tiny-demo"].read_text().splitlines()[0].removeprefix("# ")
        await waiting(pilot, lambda: head in page_of(app))
        for change in ("~ model gpt2 → tiny", "− techniques.sgd"):
            assert change in page_of(app)
        await pilot.press("enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.session.plan == load_plan("tiny-demo")


async def test_a_plan_is_saved_under_a_name(bench: Any, waiting: Any) -> None:
    app = bench(plan=override(Plan(model="tiny"), "lora.rank=3"))
    async with app.run_test(size=SIZE) as pilot:
        for name, asks in (("a name", True), ("mine", False), ("mine", True)):
            await pilot.press("w")
            await waiting(pilot, lambda: app.screen is not app.main)
            app.screen.query_one(Input).value = name
            await pilot.press("enter")
            await pilot.pause()
            assert (app.screen is not app.main) == asks
            if asks:
                assert said(app)
                await pilot.press("enter" if name == "mine" else "escape")
                await waiting(pilot, lambda: app.screen is app.main)
        assert load_plan("mine") == app.session.plan


async def test_export_writes_what_a_burst_runs(bench: Any, waiting: Any, tmp_path: Path) -> None:
    app = bench()
    target = tmp_path / "a new folder"
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        assert app.screen._script == library.script(app.session.plan, Settings())
        app.screen.query_one(Input).value = str(target)
        await pilot.pause()
        launch = str(app.screen.query_one("#launch").render())
        assert launch == f"python '{target}/train.py' --output '{target}/model'"
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert (target / "train.py").read_text() == library.script(app.session.plan, Settings())
        assert read_plan(target / "plan.toml") == app.session.plan
        assert app.session.target == str(target)
        assert launch in str(app.main.notice.render()), "and is there to be read still"


async def test_what_cannot_run_here_is_exported_all_the_same(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    app = bench(plan=override(Plan(model="tiny"), "tf32=on"))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.device)
        await pilot.press("e")
        await waiting(pilot, lambda: "def main" in app.screen._script)
        assert "train.py cannot run here" in said(app) and "TF32" in said(app)
        app.screen._retarget(str(tmp_path / "out"))
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert (tmp_path / "out" / "train.py").exists()


async def test_export_merges_adapters_if_asked(bench: Any, waiting: Any, tmp_path: Path) -> None:
    app = bench(plan=override(Plan(model="tiny"), "lora=on"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: "def main" in app.screen._script)
        assert '"merge": False' in app.screen._script
        app.screen._retarget(str(tmp_path / "out"))
        await pilot.press("m")
        await waiting(pilot, lambda: "one model" in said(app))
        assert str(app.screen.query_one("#launch").render()).endswith("/model --merge")
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert '"merge": True' in (tmp_path / "out" / "train.py").read_text()
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: "def main" in app.screen._script)
        await pilot.press("m")
        await waiting(pilot, lambda: "no adapters to merge" in said(app))


async def test_export_never_overwrites_without_asking(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    file = tmp_path / "train.py"
    file.write_text("mine")
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        app.screen.query_one(Input).value = str(tmp_path)
        await pilot.pause()
        await pilot.press("w")
        await pilot.pause()
        assert file.read_text() == "mine" and "w again replaces it" in said(app)
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert file.read_text() == library.script(app.session.plan, Settings())


@pytest.mark.parametrize("name", ["file", "x" * 300], ids=["in a file", "too long"])
async def test_export_to_where_nothing_can_be_written_says_so(
    bench: Any, waiting: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("")
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        app.screen.query_one(Input).value = str(tmp_path / name)
        await pilot.pause()
        await pilot.press("w")
        await pilot.pause()
        assert "cannot be written" in said(app)


async def test_export_to_a_home_folder_can_be_launched_from_its_line(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        for typed, meant in (("~/my runs", tmp_path / "my runs"), ("~nobody-here", "~nobody-here")):
            app.screen.query_one(Input).value = typed
            await pilot.pause()
            launch = str(app.screen.query_one("#launch").render())
            assert shlex.split(launch)[:2] == ["python", f"{meant}/train.py"]
        await pilot.press("w")
        await waiting(pilot, lambda: app.screen is app.main)
        assert (tmp_path / "~nobody-here" / "train.py").exists()


async def test_another_folder_takes_the_complaint_about_the_last_one_away(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        app.screen.query_one(Input).value = str(tmp_path / "file")
        await pilot.pause()
        await pilot.press("w")
        await waiting(pilot, lambda: "✗" in said(app))
        app.screen.query_one(Input).value = str(tmp_path / "folder")
        await waiting(pilot, lambda: not said(app))


async def test_export_copies(bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        await pilot.press("y")
        await pilot.pause()
        assert app.clipboard == library.script(app.session.plan, Settings())


def page_of(app: Any) -> str:
    return " ".join(str(app.screen.query_one("Page").render()).split())


@pytest.mark.parametrize("size", [(60, 30), (80, 24), (120, 40)])
async def test_what_is_wrapped_in_help_stays_in_its_column(
    bench: Any, waiting: Any, size: tuple[int, int]
) -> None:
    app = bench()
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.press("question_mark")
        await waiting(pilot, lambda: app.screen is not app.main and page_of(app))
        page = app.screen.query_one("Page")
        lines = str(page.render()).splitlines()
        assert page.size.height == len(lines), "nothing is wrapped a second time"
        own = lines[: next(at for at, line in enumerate(lines) if line.startswith("At the right"))]
        keys = {line[:12].strip() for line in own if not line.startswith(" ")}
        params = techniques()["lora"].params.__struct_fields__
        told = {
            "saves",
            "costs",
            "not when",
            "losses",
            "conflicts",
            "needs",
            "in this plan",
            "not here",
        }
        told |= {"source", "available", "switch", "weights", "gradients", "optimizer"}
        titles = {"Parameters (", "Bytes by ari", ""}
        assert keys <= told | titles | {name[:12] for name in params}


async def test_help_of_a_technique_is_its_declaration(bench: Any, waiting: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        app.main.plan_panel.rows.select("technique:lora")
        await pilot.press("question_mark")
        await waiting(pilot, lambda: app.screen is not app.main)
        await waiting(pilot, lambda: page_of(app))
        page = page_of(app)
        lora = techniques()["lora"]
        for part in (
            lora.saves,
            lora.costs,
            lora.not_when,
            lora.source,
            *lora.params.__struct_fields__,
        ):
            assert part in page
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is app.main


@pytest.mark.parametrize("name", sorted(techniques()))
def test_help_and_the_command_line_show_the_same_text(name: str, capsys: Any) -> None:
    from memwb.engine.catalog import resolve
    from memwb.engine.devices import assumed
    from memwb.engine.explain import explain
    from memwb.workbench.cli import main as command_line
    from memwb.workbench.screens.help import technique_help

    told = explain(name, Plan(model="tiny"), resolve("tiny").config, assumed("auto"))
    assert command_line(["techniques", name]) == 0
    printed = capsys.readouterr().out.split()
    for width in (40, 72, 200):
        page = technique_help(told, width).plain
        assert printed[printed.index("saves") :] == page.split()


async def test_help_and_the_plan_follow_the_values_at_the_cursor(bench: Any, waiting: Any) -> None:
    app = bench(plan=override(Plan(model="tiny"), "bf16=on"))
    async with app.run_test(size=(120, 50)) as pilot:
        await waiting(pilot, lambda: app.main.plan_panel.config)
        app.main.plan_panel.rows.select("technique:bf16")
        about = app.main.plan_panel.query_one("#about")
        await waiting(pilot, lambda: "weights  9.38 MiB → 4.69 MiB" in str(about.render()))
        app.change_plan(override(app.session.plan, "lora=on"))
        await waiting(pilot, lambda: "weights  9.38 MiB → 4.69 MiB" not in str(about.render()))
        await pilot.press("question_mark")
        await waiting(pilot, lambda: app.screen is not app.main and page_of(app))
        assert "tiny, 1 × 1,024 tokens, bf16, lora" in page_of(app)
        assert "in adapters" in page_of(app)
        # What stands beside it and what can be done with it.
        assert "+ with what it needs" in page_of(app)
        assert "/ filter" in page_of(app) and "u U undo" in page_of(app)


@pytest.mark.parametrize(
    "key,word", [("2", "stacked"), ("3", "loss"), ("4", "Reserved"), ("5", "folder")]
)
async def test_help_explains_the_focused_panel(
    bench: Any, waiting: Any, key: str, word: str
) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press(key)
        await pilot.pause()
        await pilot.press("f1")
        await waiting(pilot, lambda: app.screen is not app.main)
        await waiting(pilot, lambda: word in page_of(app))


@pytest.mark.parametrize("dialog", [SaveScreen(Plan(model="tiny")), AskScreen("", "", "", "")])
async def test_a_dialog_fits_a_small_terminal(bench: Any, dialog: Any) -> None:
    app = bench()
    async with app.run_test(size=(44, 24)) as pilot:
        app.push_screen(dialog)
        await pilot.pause()
        assert dialog.query_one(".dialog").region.width == 44


async def test_f1_explains_the_smallest_window_and_what_is_typed(bench: Any, waiting: Any) -> None:
    windows = {
        "5 d": "AskScreen",
        "5 n": "RemarksScreen",
        "w": "SaveScreen",
        "v": "PlanTextScreen",
        "1 enter": "",
        "5 slash": "",
    }
    app = bench("full")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended and app.recorded)
        app.main.plan_panel.rows.select("value:weights")
        for keys, front in windows.items():
            await pilot.press(*keys.split())
            await pilot.pause()
            before, focused = app.screen, app.focused
            assert type(before).__name__ == (front or "MainScreen"), keys
            await pilot.press("f1")
            await pilot.pause()
            assert isinstance(app.screen, HelpScreen), keys
            await pilot.press("escape")
            await pilot.pause()
            assert app.screen is before and app.focused is focused
            assert isinstance(focused, Input) or front in ("AskScreen", "PlanTextScreen"), keys
            assert focused is None or focused.display
            await pilot.press("escape", "escape")
            await pilot.pause()
            assert app.screen is app.main


OPENING = ("model", "target", "inspect_peak", "settings", "export", "load_preset", "save_preset")
OPENING += ("plan_text", "command_palette", "name_run", "jump_mode")


@pytest.mark.parametrize("action", OPENING)
async def test_a_workbench_can_be_left_while_a_screen_opens(
    bench: Any, waiting: Any, action: str
) -> None:
    app = bench("full")
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        before = app.screen
        getattr(app, f"action_{action}")()
        # As when the app goes down before the screen has its widgets: it gets none any more.
        if app.screen is not before:
            app.screen._pruning = True
        app.post_message(Key("escape", None))
        await pilot.pause()
        assert app._exception is None
        app.exit()


async def test_every_scrollbar_is_a_quiet_one(bench: Any, waiting: Any) -> None:
    app = bench("full")
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        quiet = app.main.plan_panel.rows.styles.scrollbar_color
        for key in ("v", "e", "ctrl+p", "question_mark"):
            await pilot.press(key)
            await pilot.pause()
            bars = [each for each in app.screen.query("*") if each.allow_vertical_scroll]
            assert bars, key
            for each in bars:
                assert each.styles.scrollbar_color == quiet, each
            await pilot.press("escape")
            await pilot.pause()


async def test_a_click_on_what_has_just_been_taken_away_is_no_click(
    bench: Any, waiting: Any
) -> None:
    app = bench("full")
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        line = app.main.query_one("#header")
        x, y = line.region.offset
        parent = line.parent
        line._detach()
        app.post_message(MouseDown(None, x, y, 0, 0, 1, False, False, False, x, y, None))
        await pilot.pause()
        assert app._exception is None
        line._attach(parent)


async def test_a_narrow_window_keeps_whole_keys_help_and_the_way_out_among_them(
    bench: Any, waiting: Any
) -> None:
    app = bench()
    async with app.run_test(size=(50, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for key, line in (("e", "export"), ("l", "preset"), ("v", "text"), ("C", "settings")):
            await pilot.press(key)
            await pilot.pause()
            told = app.screen.query_one(f"#{line}-keys").render().plain
            assert "…" not in told and "help" in told and "esc leave" in told
            await pilot.press("escape")
            await pilot.pause()


async def test_the_palettes_keys_do_nothing_where_its_list_has_no_room(
    bench: Any, waiting: Any
) -> None:
    app = bench("full")
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("ctrl+p")
        commands = app.screen.query_one("CommandList")
        await waiting(pilot, lambda: commands.option_count > 0 and commands.region)
        await pilot.press("down")
        commands.styles.display = "none"
        await pilot.pause()
        commands.refresh(layout=True)
        commands._clear_caches()
        await pilot.press("pagedown", "pageup", "down", "up")
        await pilot.pause()
        assert app._exception is None


async def test_what_is_typed_waits_until_a_slow_screen_has_every_widget(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Vertical._on_compose

    async def slow(box: Vertical, event: Any) -> None:
        await asyncio.sleep(0.1)
        await plain(box, event)

    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        monkeypatch.setattr(Vertical, "_on_compose", slow)
        app.action_settings()
        app.post_message(Key("escape", None))
        await waiting(pilot, lambda: app.screen is app.main)
        assert app._exception is None
        # Of one that does not open in time nothing is asked that it cannot do yet.
        monkeypatch.setattr(dialogs, "OPENING", 0.0)
        app.action_settings()
        app.post_message(Key("escape", None))
        await waiting(pilot, lambda: app.screen.is_mounted and bool(app.screen.query(Rows)))
        assert app._exception is None and isinstance(app.screen, SettingsScreen)


async def test_lists_of_the_settings_are_changed_faster_than_they_are_drawn(
    bench: Any, waiting: Any
) -> None:
    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("C")
        before, screen = app.theme, app.screen
        screen.action_tab("defaults")
        screen.query_one(Rows).action_edge(1)
        screen.action_tab("theme")
        await pilot.pause()
        assert app._exception is None and app.theme == before


async def test_what_the_palette_was_asked_of_a_screen_acts_on_no_other(
    bench: Any, waiting: Any
) -> None:
    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("question_mark")
        await pilot.pause()
        close = next(one for one in commands(app, app.screen) if one.title.startswith("close"))
        close.callback()
        app.screen.dismiss(None)
        await pilot.pause()
        assert app.screen is app.main and app._exception is None
