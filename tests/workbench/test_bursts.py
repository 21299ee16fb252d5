"""The engine's states as a person meets them, on a scripted engine."""

from __future__ import annotations

from typing import Any

import pytest

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Device, Problem, Start, Stop
from memwb.engine.runs import list_runs, record
from memwb.workbench import dialogs
from memwb.workbench.panels.history_rows import OUTCOME
from memwb.workbench.screens.ask import AskScreen
from memwb.workbench.start import open_workbench

pytestmark = pytest.mark.long

SIZE = (120, 40)


def header(app: Any) -> str:
    return str(app.main.query_one("#header").render())


def notice(app: Any) -> str:
    found = app.main.notice
    return str(found.render()) if found.display else ""


async def test_where_there_is_little_room_the_first_screen_says_how_to_run(bench: Any) -> None:
    app = bench("full", guide=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert "run a burst of this plan" in shown


async def test_a_burst_is_drawn_and_recorded(bench: Any, waiting: Any, play: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        assert "Nothing has run yet" in str(app.main.query_one("#first-steps").render())
        await pilot.press("2")
        assert app.main.memory.has_focus_within, "what stands in the chart's place"
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert app.main.memory.chart.display and app.main.memory.chart.has_focus
        assert any(app.main.memory.chart.columns)
        assert app.main.runs.rows.rows[0].id == app.recorded[0].folder == app.session.shown
        peak = play("full")[-1].peak
        assert app.recorded[0].peak == peak
        assert app.live.samples
        assert "engine ready" in header(app)


async def test_r_before_the_engine_is_ready_runs_when_it_is(bench: Any, waiting: Any) -> None:
    app = bench("full", ready=False)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.scripted.started)
        await pilot.press("r")
        assert "runs when the engine is ready" in header(app)
        assert not app.scripted.commands
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.recorded)
        assert isinstance(app.scripted.commands[0], Start)


async def test_s_stops(bench: Any, waiting: Any) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        assert "step" in header(app)
        await pilot.press("s")
        await waiting(pilot, lambda: app.engine_state == "ready")
        assert isinstance(app.scripted.commands[-1], Stop)
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "stopped")


async def test_out_of_memory_says_of_what(bench: Any, waiting: Any, play: Any) -> None:
    app = bench("oom", "full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: notice(app))
        told = notice(app)
        ended = play("oom")[-1]
        assert ended.title in told and "Turn on activation checkpointing, activation off" in told
        assert "-o activation_checkpointing=on" in ended.fix and "-o" not in told, "keys are here"
        assert "/ finds" in told and "space turns" in told
        for name in ("weights", "gradients", "optimizer", "temporary"):
            assert told.count(name) == 1, "the bytes of each are told, and told once"
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert not notice(app), "the next run works and puts the message away"


@pytest.mark.parametrize("outcome", ["failed", "refused"])
async def test_a_failure_says_what_to_do_and_the_next_run_works(
    bench: Any, waiting: Any, short: Any, outcome: str
) -> None:
    broken = short(outcome, "It broke", "in the middle", "Do otherwise.")
    app = bench(broken, "full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: notice(app))
        assert all(part in notice(app) for part in ("It broke", "in the middle", "Do otherwise."))
        runs = [] if outcome == "refused" else ["failed"]
        await waiting(pilot, lambda: [run.outcome for run in list_runs()] == runs)
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")


async def test_a_command_that_is_not_taken_leaves_the_engine_ready(
    bench: Any, waiting: Any
) -> None:
    app = bench([Problem("The engine is busy", "burst 1 runs", "Wait for it.")], "full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: "busy" in notice(app))
        assert app.engine_state == "ready"


async def test_a_dead_engine_is_started_again(bench: Any, waiting: Any) -> None:
    app = bench(None, "full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.engine_state == "dead")
        assert "Press r" in notice(app)
        await pilot.press("r")
        await waiting(pilot, lambda: app.engine_state == "ready")
        assert app.scripted.started == 2
        await pilot.press("r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")


async def test_an_engine_that_cannot_start_says_why(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = bench()

    async def refuse() -> None:
        raise MemwbError("The engine cannot be started", "no such file", "Check the command.")

    monkeypatch.setattr(app.scripted, "start", refuse)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "dead")
        assert "no such file" in notice(app)


async def test_a_run_that_cannot_be_recorded_goes_on(bench: Any, waiting: Any, home: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        home.mkdir(exist_ok=True)
        (home / "runs").write_text("a file where the folder should be")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended is not None)
        assert app.engine_state == "ready"


async def test_runs_are_shown_again_and_laid_over_each_other(
    bench: Any, waiting: Any, play: Any
) -> None:
    app = bench("full", "lora")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for count in (1, 2):
            await pilot.press("r")
            await waiting(
                pilot, lambda n=count: len(app.recorded) == n and app.recorded[0].outcome == "done"
            )
    again = bench()
    async with again.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: len(again.recorded) == 2)
        chart = again.main.memory.chart
        await waiting(pilot, lambda: "#2" in again.main.memory.border_title)
        await pilot.press("5")
        await pilot.pause()
        again.main.runs.rows.select(again.recorded[1].folder)
        await pilot.press("enter")
        await waiting(pilot, lambda: "#1" in again.main.memory.border_title)
        assert not chart.overlay
        await pilot.press("c")
        await waiting(pilot, lambda: len(again.session.marks) == 1)
        assert not chart.overlay, "one mark alone compares nothing"
        await pilot.press("up", "c")
        await waiting(pilot, lambda: chart.overlay)
        assert again.main.memory.border_title.endswith("#1, outline #2")
        table = again.main.peak.text
        assert "peak allocated" in table and "largest loss gap" in table
        await pilot.press("enter")
        await waiting(pilot, lambda: not chart.overlay)


async def test_q_asks_once_while_a_burst_runs(bench: Any, waiting: Any) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None)
        await pilot.press("q")
        await pilot.pause()
        assert app.screen is not app.main
        await pilot.press("n")
        await pilot.pause()
        assert app.is_running and app.screen is app.main
        await pilot.press("q", "y")
        await waiting(pilot, lambda: not app.is_running)
    assert app.scripted.closed


async def test_frozen_charts_catch_up(bench: Any, waiting: Any) -> None:
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("p", "r")
        await waiting(pilot, lambda: app.recorded and app.recorded[0].outcome == "done")
        assert not any(app.main.memory.chart.columns)
        await pilot.press("p")
        await pilot.pause()
        assert any(app.main.memory.chart.columns)


async def test_what_the_settings_allow_is_told_to_the_engine(
    bench: Any, waiting: Any, home: Any
) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('device = "cpu"\nallow_pickle = true\n')
    app = bench("full")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.scripted.commands)
        sent = app.scripted.commands[0]
        assert (sent.device, sent.allow_pickle, sent.trust_remote_code) == ("cpu", True, False)


async def test_a_theme_is_kept(bench: Any, waiting: Any) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        app.theme = "nord"
        await pilot.pause()
    again = bench()
    async with again.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert again.theme == "nord"


async def test_runs_of_another_workbench_are_found_on_the_way_to_the_list(
    bench: Any, waiting: Any, play: Any
) -> None:
    app = bench()
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        events = play("full")
        recorder = record(app.session.plan, events[0])
        await pilot.press("5")
        await waiting(pilot, lambda: [run.outcome for run in app.recorded] == ["running"])
        for event in events[1:]:
            recorder.event(event)
        await pilot.press("1", "5")
        await waiting(pilot, lambda: [run.outcome for run in app.recorded] == ["done"])


async def test_quitting_records_that_the_burst_was_stopped(bench: Any, waiting: Any) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        await pilot.press("q", "y")
        await waiting(pilot, lambda: not app.is_running)
    assert isinstance(app.scripted.commands[-1], Stop)
    assert [run.outcome for run in list_runs()] == ["stopped"]


async def test_quitting_does_not_wait_for_a_burst_that_does_not_stop(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogs, "PATIENCE", 0.1)
    app = bench("full", hold=True)
    monkeypatch.setattr(app.scripted, "emit", lambda *events: None)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r", "q", "y")
        await waiting(pilot, lambda: not app.is_running)
    assert app.scripted.closed


async def test_a_run_that_waits_is_not_dropped_without_a_word(bench: Any, waiting: Any) -> None:
    app = bench("full", ready=False, hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("r", "E")
        await waiting(pilot, lambda: app.scripted.started == 2)
        assert app.bursts.wanted, "the next engine runs it"
        await pilot.press("q")
        await pilot.pause()
        assert app.screen.query_one(".dialog").border_title == "A run waits to begin"
        app.scripted.become_ready()
        await waiting(pilot, lambda: app.live and app.live.steps)
        assert app.screen.query_one(".dialog").border_title == "A burst is running"
        await pilot.press("n")
        await pilot.pause()
        assert app.is_running and app.engine_state == "running"
    app = bench("full", ready=False)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("r", "q", "y")
        await waiting(pilot, lambda: not app.is_running)
    assert not app.scripted.commands


@pytest.mark.parametrize("before", [(), ("enter",), ("question_mark",)])
async def test_ctrl_q_asks_as_well(bench: Any, waiting: Any, before: tuple[str, ...]) -> None:
    app = bench("full", hold=True)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        app.main.plan_panel.rows.select("value:workload.steps")
        await pilot.press(*before, "ctrl+q", "ctrl+q")
        await pilot.pause()
        assert app.is_running and isinstance(app.screen, AskScreen)
        await pilot.press("n")
        await pilot.pause()
        assert app.is_running and not isinstance(app.screen, AskScreen)
    assert not [sent for sent in app.scripted.commands if isinstance(sent, Stop)]


@pytest.mark.parametrize(
    "outcome", ["done", "oom", "failed", "stopped", "running", "interrupted", "damaged"]
)
def test_every_outcome_has_a_sign(outcome: str) -> None:
    assert OUTCOME[outcome]


async def test_a_frozen_chart_lets_go_for_another_run(bench: Any, waiting: Any) -> None:
    app = bench("full", "lora")
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for count in (1, 2):
            await pilot.press("r")
            await waiting(
                pilot, lambda n=count: len(app.recorded) == n and app.recorded[0].outcome == "done"
            )
        panel = app.main.memory
        second = panel.chart.canvas.columns
        await pilot.press("p")
        await pilot.pause()
        assert panel.frozen and "#2" in panel.border_title
        await pilot.press("5", "down", "enter")
        await waiting(pilot, lambda: "#1" in panel.border_title)
        assert not panel.frozen and panel.chart.canvas.columns != second
        assert not app.main.loss.query_one("#loss-chart").frozen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_c_down_c_compares_the_last_two_runs(
    bench: Any, waiting: Any, size: tuple[int, int]
) -> None:
    app = bench("full", "lora")
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        for count in (1, 2):
            await pilot.press("1", "r")
            await waiting(
                pilot, lambda n=count: len(app.recorded) == n and app.recorded[0].outcome == "done"
            )
        await pilot.press("5")
        await pilot.pause()
        latest, first = (run.folder for run in app.recorded)
        assert app.main.runs.folder == latest
        await pilot.press("c")
        await pilot.pause()
        assert app.session.marks == (latest,) and "another" in app.main.runs.border_subtitle
        assert not app.main.memory.chart.overlay
        await pilot.press("down", "c")
        await waiting(pilot, lambda: app.main.memory.chart.overlay)
        assert app.session.marks == (latest, first)
        await pilot.press("c")
        await waiting(pilot, lambda: not app.main.memory.chart.overlay)
        assert app.session.marks == (latest,)


async def test_r_says_what_the_burst_is_at(
    bench: Any, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = bench([])
    monkeypatch.setattr(app.scripted, "emit", lambda *events: None)
    said: list[str] = []
    monkeypatch.setattr(app, "notify", said.append)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r", "r", "s", "r")
        await pilot.pause()
    assert len(said) == 2
    assert "running" in said[0] and "is stopping" in said[1]


async def test_the_header_gives_up_the_device_before_anything_else(
    bench: Any, waiting: Any
) -> None:
    gpu = Device(kind="cuda", name="NVIDIA GeForce RTX 4070 Ti SUPER", capacity=16 * 2**30)
    app = bench("full", plan=Plan(model="tiny"), hold=True, device=gpu)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "ready" and app.model)
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        assert gpu.name in header(app)
        for width, device in ((100, "GPU 16.0 GiB"), (80, "")):
            await pilot.resize_terminal(width, 24)
            await pilot.pause()
            shown = header(app)
            assert gpu.name not in shown and device in shown
            assert "random weights" in shown and "running · step" in shown


async def test_every_end_says_what_can_be_done(bench: Any, waiting: Any) -> None:
    app = bench("full", None, hold=True)
    async with app.run_test(size=SIZE) as pilot:
        notice = app.main.notice

        def said() -> str:
            return notice.render().plain if notice.display else ""

        await waiting(pilot, lambda: app.engine_state == "ready")
        await pilot.press("5", "c", "n", "L")
        assert [str(each.message) for each in app._notifications][-1].endswith("r runs the plan.")
        await pilot.press("r")
        await waiting(pilot, lambda: app.live and app.live.steps)
        await pilot.press("s")
        await waiting(pilot, lambda: "r runs the plan again" in said())
        app.scripted.die()
        await waiting(pilot, lambda: "Press r to start it again" in said())
        await pilot.press("r")
        await waiting(pilot, lambda: app.engine_state == "ready")
        assert said() == ""
        await pilot.press("1")
        app.change_plan(override(app.session.plan, "lora=on"))
        await pilot.press("X")
        assert "as it began (u undoes it): LoRA off" in str(app.main.plan_panel.border_title)


async def test_an_engine_that_is_no_command_is_told_with_the_way_on(
    waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMWB_ENGINE", "ssh 'host")
    app = open_workbench(Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.engine_state == "dead")
        told = app.main.notice.render().plain
        assert "MEMWB_ENGINE is no command" in told and "ssh 'host" in told
        assert "Press r to start it again" in told
        await pilot.press("r")
        await waiting(pilot, lambda: app.main.notice.display)
        assert app.engine_state == "dead"
