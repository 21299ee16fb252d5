"""The history in the workbench: every key and click that sorts, filters, names, pins, replays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual import events
from textual.widgets import Input, TextArea

from memwb.engine import keeping, remarks, runs
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Ended, Event, Started
from memwb.workbench import replaying
from memwb.workbench.panels import history_rows
from memwb.workbench.panels.line import Line
from memwb.workbench.screens.ask import AskScreen
from memwb.workbench.screens.remarks import RemarksScreen

SIZE = (120, 44)
Play = Callable[[str], list[Event]]


@pytest.fixture
def history(home: Path, play: Play) -> list[runs.Summary]:
    """Four runs: plain, LoRA (small, slow), bf16 (fast), one out of memory."""
    plain = Plan(model="tiny")
    record(play("full"), plain)
    record(play("lora"), override(plain, "lora.rank=4"), speed=1000.0)
    record(play("full"), override(plain, "bf16=on"), speed=9000.0)
    record(play("oom"), override(plain, "batch_size=64"))
    return runs.list_runs()


def record(events: list[Event], plan: Plan, speed: float | None = None) -> None:
    started = next(event for event in events if isinstance(event, Started))
    recorder = runs.record(plan, started)
    for event in events:
        if isinstance(event, Ended) and speed:
            event = replace(event, tokens_per_second=speed)
        if event is not started:
            recorder.event(event)


def panel(app: Any) -> Any:
    return app.main.runs


def order(app: Any) -> list[int]:
    return [int(Path(row.id).name) for row in panel(app).rows.rows if row.id]


def line(app: Any, number: int) -> str:
    row = next(row for row in panel(app).rows.rows if row.id.endswith(f"{number:04}"))
    return "".join(text for text, _ in (*row.left, *row.right))


def click(app: Any, wanted: str) -> tuple[int, int]:
    """Where a word of the list's head is."""
    text = app.query_one("#runs-head", Line).render().plain
    return text.index(wanted), 0


@pytest.fixture
def opened(bench: Any, history: list[runs.Summary], waiting: Any) -> Any:
    """Starts the workbench with the history in front, and gives it all it takes."""

    async def ready(app: Any, pilot: Any) -> None:
        await waiting(pilot, lambda: len(app.recorded) == len(history) and panel(app).rows.rows)
        await pilot.press("5")
        await pilot.pause()

    app = bench()
    app.ready = ready
    return app


async def test_s_and_i_sort_and_a_click_on_a_column_does(opened: Any, bench: Any) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        assert order(app) == [4, 3, 2, 1]
        await pilot.press("S")
        assert order(app) == [2, 3, 1, 4] and "smallest peak" in panel(app).border_subtitle
        await pilot.press("I")
        assert order(app) == [4, 3, 1, 2] and "largest peak" in panel(app).border_subtitle
        await pilot.press("S")
        assert order(app)[:2] == [3, 1], "fastest first"
        await pilot.press("m")
        await pilot.pause()
        await pilot.click("#runs-head", offset=click(app, "loss"))
        await pilot.pause()
        assert app.session.sort == "loss" and order(app)[-1] == 4
        straight = order(app)
        await pilot.click("#runs-head", offset=click(app, "loss"))
        await pilot.pause()
        assert order(app)[0] == straight[2] and order(app)[-1] == 4, "without a loss: last"
        await pilot.press("S")
        assert app.session.sort == "name" and order(app)[0] == 3, "bf16 comes first"
        left = app.session
    again = bench()
    async with again.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert (again.session.sort, again.session.turned) == (left.sort, left.turned)


async def test_slash_narrows_the_runs_and_escape_gives_all_back(opened: Any) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        await pilot.press("slash")
        await pilot.pause()
        assert isinstance(app.focused, Input)
        assert "esc show all" in app.query_one("#footer", Line).render().plain
        await pilot.press(*"bf16")
        await pilot.pause()
        assert order(app) == [3]
        panel(app).query_one("#runs-filter", Input).value = "rank 4"
        await pilot.pause()
        assert order(app) == [2], "what is seen in a row is found"
        panel(app).query_one("#runs-filter", Input).value = "bf16"
        await pilot.press("end", "space", "x")
        await pilot.pause()
        assert order(app) == [] and "esc" in line_of_nothing(app)
        await pilot.press("backspace", "backspace", "enter")
        await pilot.pause()
        assert order(app) == [3] and app.focused is panel(app).rows
        assert "/bf16" in app.query_one("#runs-kept", Line).render().plain
        await pilot.press("enter")
        assert app.session.shown.endswith("0003")
        await pilot.press("escape")
        await pilot.pause()
        assert order(app) == [4, 3, 2, 1]
        await pilot.press("slash", "l", "escape")
        await pilot.pause()
        assert order(app) == [4, 3, 2, 1] and app.focused is panel(app).rows


def line_of_nothing(app: Any) -> str:
    return "".join(text for text, _ in panel(app).rows.rows[0].left)


async def test_n_names_and_shift_n_notes(opened: Any, waiting: Any, home: Path) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        panel(app).rows.select(app.recorded[2].folder)
        await pilot.press("n")
        await pilot.pause()
        assert isinstance(app.screen, RemarksScreen) and isinstance(app.focused, Input)
        await pilot.press(*"rank 4", "enter")
        await waiting(pilot, lambda: "rank 4" in line(app, 2))
        assert runs.find_run("2").name == "rank 4" and "LoRA" in line(app, 2)
        # Another workbench notes something while this one renames: both stay.
        await pilot.press("n")
        await pilot.pause()
        remarks.annotate(home / "runs/0002", "from elsewhere")
        await pilot.press(*"!", "ctrl+s")
        await waiting(pilot, lambda: "✎" in line(app, 2))
        found = runs.find_run("2")
        assert (found.name, found.note) == ("rank 4!", "from elsewhere")
        await pilot.press("N")
        await pilot.pause()
        assert isinstance(app.focused, TextArea)
        await pilot.press("enter", *"more", "ctrl+s")
        await waiting(pilot, lambda: app.screen is app.main and "more" in app.recorded[2].note)
        assert runs.find_run("2").note == "from elsewhere\nmore"
        await pilot.press("N", "x", "escape")
        await pilot.pause()
        assert isinstance(app.screen, RemarksScreen), "what was typed is asked about once"
        assert "esc again" in str(app.screen.query_one(".said").render())
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is app.main
        assert runs.find_run("2").note == "from elsewhere\nmore"
        file = home / "runs/0002/remarks.json"
        file.write_text("{")
        await pilot.press("n", "y", "enter")
        await pilot.pause()
        said = app.screen.query_one(".said")
        assert said.display and "cannot be read" in str(said.render()), "told where it is typed"


async def test_b_pins_the_baseline_and_all_are_held_against_it(
    opened: Any, waiting: Any, home: Path
) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        assert "◆" not in line(app, 1)
        panel(app).rows.select(app.recorded[3].folder)
        await pilot.press("b")
        await waiting(pilot, lambda: "◆" in line(app, 1))
        assert "baseline" in line(app, 1) and "−" in line(app, 2) and "±0 B" in line(app, 3)
        assert json.loads((home / "runs/0001/remarks.json").read_text())["pinned"]
        panel(app).rows.select(app.recorded[1].folder)
        await pilot.press("enter")
        await waiting(pilot, lambda: "◆ to #1" in app.main.peak.text)
        await pilot.press("b")
        await waiting(pilot, lambda: "◆" in line(app, 3))
        assert "◆" not in line(app, 1) and "◆" not in app.main.peak.text
        await pilot.press("b")
        await waiting(pilot, lambda: "◆" not in line(app, 3))
        assert runs.pinned(runs.list_runs()) is None
        # Pinned elsewhere: seen as soon as the history is looked at again.
        keeping.pin_run(runs.find_run("2"))
        await pilot.press("1", "5")
        await waiting(pilot, lambda: "◆" in line(app, 2))
        remarks.rename(home / "runs/0002", "from elsewhere")
        app.post_message(events.AppFocus())
        await waiting(pilot, lambda: "from elsewhere" in line(app, 2))


async def test_a_run_of_another_workbench_is_followed_to_its_end(
    opened: Any, waiting: Any, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memwb.workbench.history.OFTEN", 0.05)
    app = opened
    told = play("full")
    started = next(event for event in told if isinstance(event, Started))
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        recorder = runs.record(Plan(model="tiny"), started)
        await pilot.press("1", "5")
        await waiting(pilot, lambda: len(app.recorded) == 5 and "running" in line(app, 5))
        recorder.event(told[-1])
        await waiting(pilot, lambda: "running" not in line(app, 5))


async def test_shift_l_takes_over_the_plan_of_a_run(opened: Any, waiting: Any) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        before = app.session.plan
        panel(app).rows.select(app.recorded[2].folder)
        await pilot.press("L")
        await waiting(pilot, lambda: app.session.plan != before)
        assert app.session.plan.techniques["lora"].rank == 4
        assert "from #2: " in str(app.main.plan_panel.border_title)
        await pilot.press("u")
        assert app.session.plan == before
        (Path(app.recorded[3].folder) / "plan.toml").unlink()
        panel(app).rows.select(app.recorded[3].folder)
        await pilot.press("L")
        await waiting(
            pilot, lambda: any("cannot be read" in str(n.message) for n in app._notifications)
        )
        assert app.session.plan == before


async def test_d_deletes_what_is_meant(opened: Any, waiting: Any, home: Path) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        panel(app).rows.select(app.recorded[1].folder)
        await pilot.press("enter", "c", "d")
        await pilot.pause()
        assert isinstance(app.screen, AskScreen)
        told = " ".join(str(each.render()) for each in app.screen.query("Static"))
        assert f"#3 {history_rows.titles(app.recorded[1])}" in told, "as the list calls it"
        await pilot.press("enter")
        await pilot.pause()
        assert len(runs.list_runs()) == 4, "Enter leaves a careful question"
        await pilot.press("d", "y")
        await waiting(pilot, lambda: len(app.recorded) == 3)
        assert sorted(os.listdir(home / "runs")) == ["0001", "0002", "0004"]
        assert app.session.marks == () and not app.session.shown.endswith("0003")
        assert order(app) == [4, 2, 1]


async def test_the_mouse_does_what_the_border_says(opened: Any) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        region = panel(app).region
        for word in ("name", "note", "delete"):
            edge = panel(app).render_lines(region.reset_offset)[region.height - 1].text
            await pilot.click(offset=(region.x + edge.index(f" {word}") + 1, region.bottom - 1))
            await pilot.pause()
            assert app.screen is not app.main, word
            await pilot.press("escape")
            await pilot.pause()


async def test_c_compares_up_to_four(opened: Any, waiting: Any) -> None:
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        await pilot.press("c", "down", "c", "down", "c", "down", "c")
        await waiting(pilot, lambda: "D #1" in app.main.peak.text)
        assert app.main.memory.border_title.endswith("#4, outlines #3 #2 #1")
        assert [one.label for one in app.main.memory.chart._others] == ["#3", "#2", "#1"]
        assert app.main.peak.border_title == "4 Peak · difference"
        for words in ("batch size", "LoRA", "bf16", "peak activations", "time", "largest loss gap"):
            assert words in app.main.peak.text
        shown = app.main.loss.query_one("#loss-chart")._shown
        assert {"#3", "#2", "#1"} <= set(shown)
        assert "A filled · B C D outlined" in panel(app).border_subtitle
        record([e for e in runs.read_events(app.recorded[0].folder)], Plan(model="tiny"))
        await pilot.press("1", "5")
        await waiting(pilot, lambda: len(app.recorded) == 5)
        panel(app).rows.select(app.recorded[0].folder)
        await pilot.press("c")
        assert len(app.session.marks) == 4, "a fifth is not taken"
        # Another workbench deletes the one that was marked first: its letter and its place go.
        keeping.delete_run(runs.find_run("4"))
        await pilot.press("1", "5")
        await waiting(pilot, lambda: len(app.recorded) == 4)
        assert "A filled · B C outlined" in panel(app).border_subtitle
        panel(app).rows.select(app.recorded[0].folder)
        await pilot.press("c")
        await waiting(pilot, lambda: "D #5" in app.main.peak.text)
        # A filter of the plan is further away than what the runs' own border says.
        await pilot.press("1", "slash", *"lora", "enter", "5", "escape")
        await waiting(pilot, lambda: "difference" not in app.main.peak.border_title)
        assert app.main.plan_panel.wanted == "lora" and app.main.panel == "runs"
        assert app.session.marks == () and not app.main.memory.chart._others


async def test_shift_r_replays_faster_then_at_once(
    opened: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PACES", (0.02, 0.1))
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        panel(app).rows.select(app.recorded[3].folder)
        await pilot.press("R")
        header = app.main.query_one("#header", Line)
        await waiting(pilot, lambda: "replaying #1 at 0.02×" in header.render().plain)
        assert app.session.shown.endswith("0001")
        await waiting(pilot, lambda: app.main.memory.chart.cursor is None and partly(app))
        assert app.main.loss._trace.ended is None, "as it was then, not as it is known now"
        await pilot.press("R")
        await pilot.pause()
        assert "at 0.1×" in header.render().plain
        await pilot.press("R")
        await waiting(pilot, lambda: app.main.loss._trace.ended is not None)
        assert not app.replay.folder and "replaying" not in header.render().plain
        await pilot.press("R", "s")
        await waiting(pilot, lambda: not app.replay.folder and app.main.loss._trace.ended)
        await pilot.press("2", "R")
        await pilot.pause()
        assert app.replay.number == 1, "from another panel: the run in the charts"
        await pilot.press("5", "up", "enter")
        await waiting(pilot, lambda: "#2" in app.main.memory.border_title)
        assert not app.replay.folder, "another run is shown instead"


def partly(app: Any) -> bool:
    return len(list(app.main.memory.chart.columns)) > 0 and bool(app.replay.folder)


async def test_a_replay_comes_to_its_end(
    opened: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PACES", (200.0,))
    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await app.ready(app, pilot)
        panel(app).rows.select(app.recorded[3].folder)
        await pilot.press("R")
        await waiting(pilot, lambda: not app.replay.folder)
        trace = app.main.loss._trace
        assert trace.label == "#1" and trace.ended is not None
        (Path(app.recorded[2].folder) / "events.jsonl").unlink()
        panel(app).rows.select(app.recorded[2].folder)
        await pilot.press("R")
        await waiting(pilot, lambda: app.main.notice.display)
        assert "cannot be replayed" in str(app.main.notice.render()) and not app.replay.folder


async def test_runs_that_cannot_be_listed_any_more_are_told_of(
    opened: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked() -> list[runs.Summary]:
        raise MemwbError("The runs cannot be listed", "no permission", "Make the folder readable.")

    app = opened
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: len(app.recorded) == 4)
        monkeypatch.setattr(runs, "list_runs", locked)
        await pilot.press("1", "5")
        await waiting(pilot, lambda: "cannot be listed" in app.main.notice.render().plain)
        assert len(app.recorded) == 4


async def test_from_another_panel_the_history_comes_first(opened: Any) -> None:
    app = opened
    async with app.run_test(size=(80, 24)) as pilot:
        await app.ready(app, pilot)
        for key in ("n", "N", "b", "d", "c"):
            await pilot.press("1", key)
            await pilot.pause()
            assert app.main.panel == "runs" and app.screen is app.main
        assert app.session.marks == () and runs.pinned(app.recorded) is None


async def test_a_name_is_text_wherever_it_stands(opened: Any, waiting: Any, home: Path) -> None:
    """Markup and control characters of a name are shown, not obeyed."""
    summary = home / "runs/0003/summary.json"
    told = json.loads(summary.read_text()) | {"name": "[bold]x\x1b[2J\ny[/]"}
    summary.write_text(json.dumps(told))
    app = opened
    async with app.run_test(size=(200, 50)) as pilot:
        await app.ready(app, pilot)
        keeping.pin_run(runs.find_run("3"))
        await pilot.press("1", "5")
        await waiting(pilot, lambda: "◆" in line(app, 3))
        await pilot.press("enter")
        await waiting(pilot, lambda: "[bold]x [2J y[/]" in app.main.peak.text)
        for row in range(len(panel(app).rows.rows)):
            strip = panel(app).rows.render_line(row)
            assert "\x1b" not in strip.text and "\n" not in strip.text
        for key in ("n", "escape", "d", "escape"):
            panel(app).rows.select(app.recorded[1].folder)
            await pilot.press(key)
            await pilot.pause()


async def test_a_live_run_is_held_against_the_pin_as_soon_as_it_is_there(
    bench: Any, history: list[runs.Summary], waiting: Any
) -> None:
    keeping.pin_run(runs.find_run("2"))
    app = bench("full", plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: len(app.recorded) == 5 and app.recorded[0].outcome == "done")
        await waiting(pilot, lambda: "dotted #2" in app.main.loss.border_title)
        await pilot.press("5")
        panel(app).rows.select(app.recorded[3].folder)
        await pilot.press("b")
        await waiting(pilot, lambda: "◆" not in line(app, 2))
        await waiting(pilot, lambda: "dotted #2" not in app.main.loss.border_title)
        assert "◆ to" not in app.main.peak.text


async def test_a_key_makes_no_row_anew_that_says_what_it_said(
    history: Any, bench: Any, waiting: Any
) -> None:
    app = bench()
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.recorded)
        await waiting(pilot, lambda: len(panel(app)._view.called) == len(app.recorded))
        await pilot.press("5")
        before = {row.id: row for row in panel(app).rows.rows}
        await pilot.press("S")
        turned = panel(app).rows.rows
        assert [row.id for row in turned] != [*before]
        assert all(row is before[row.id] for row in turned), "of thousands each takes its time"
        panel(app).rows.select(app.recorded[1].folder)
        await pilot.press("c")
        await pilot.pause()
        other = [row.id for row in panel(app).rows.rows if row is not before[row.id]]
        assert app.recorded[1].folder in other and "A" in line(app, app.recorded[1].run)
        assert len(other) < len(before), "the others say what they said"


async def test_a_long_history_makes_the_rows_in_sight_and_is_listed_once(
    history: Any, bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, made, listed = bench(), [], []
    many = [replace(history[0], folder=f"{history[0].folder}{at:04}") for at in range(2000)]
    draw = history_rows._row
    monkeypatch.setattr(history_rows, "_row", lambda run, *of: made.append(run) or draw(run, *of))
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: len(panel(app)._view.called) == len(history))
        await waiting(pilot, lambda: app.main.peak.trace is not None)
        app.recorded = [*history, *many]
        app.main.show_runs(app.recorded, app.session)
        await pilot.press("5", "m", "S", "S")
        await pilot.pause()
        assert len(panel(app).rows.rows) == len(app.recorded)
        # A few keys, each of another order or width: of thousands only those that were seen.
        assert len({run.folder for run in made}) < 400
        monkeypatch.setattr(runs, "list_runs", lambda: listed.append(1) or app.recorded)
        chosen = app.recorded[1]
        panel(app).rows.select(chosen.folder)
        await pilot.press("space")
        await waiting(pilot, lambda: app.main.peak.trace.label == f"#{chosen.run}")
        assert not listed, "the folders are not looked through for a run that is shown"
