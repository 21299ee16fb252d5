"""Opening the screens beside the main one, and what becomes of their answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from textual import events
from textual.await_complete import AwaitComplete
from textual.errors import NoWidget

from memwb.engine.keeping import given_name
from memwb.engine.plan import Plan
from memwb.workbench import history, library, state, workers
from memwb.workbench.panels.history_rows import titles
from memwb.workbench.units import place, printable

if TYPE_CHECKING:
    from textual.screen import Screen

    from memwb.workbench.app import Workbench

RUN_QUESTION, QUIT_QUESTION = "run-anyway", "quit"
OPENING = 5.0
"""Seconds that what is typed waits for a screen to open; then it is meant for nobody."""
PATIENCE = 4.0
"""Seconds that a burst has to stop in before the workbench is left without waiting for it."""


async def opened(screen: Screen[object]) -> bool:
    """Wait for a screen that has just been opened to have all its widgets, and say if it has.

    One that opens while the workbench is left gets none.
    """
    end = time.monotonic() + OPENING
    while not screen.is_mounted and time.monotonic() < end:
        await asyncio.sleep(0.002)
    return screen.is_mounted and bool(screen.children)


def gone(screen: Screen[object], event: events.Event) -> bool:
    """Whether the mouse is pressed on a widget that was taken away since it was drawn.

    Textual would begin to mark text in its container, and it has none any more.
    """
    if not isinstance(event, events.MouseDown):
        return False
    with contextlib.suppress(NoWidget):
        widget, _ = screen.get_widget_at(event.x, event.y)
        return widget is not screen and widget.parent is None
    return False


def once(screen: Screen[object]) -> Screen[object]:
    """A screen that can be left only while it is in front.

    Textual's own would take the next one away, or answer twice.
    """
    plain = screen.dismiss

    def dismiss(result: object = None) -> AwaitComplete:
        return plain(result) if screen.is_active else AwaitComplete()

    screen.dismiss = dismiss  # type: ignore[method-assign]
    return screen


def choose_model(app: Workbench) -> None:
    """Another model for the plan."""
    from memwb.workbench.screens.models import ModelScreen

    session, predictor = app.session, app.predictor
    plans = (session.plan, *reversed(session.undo))
    used = dict.fromkeys([plan.model for plan in plans] + [run.model for run in app.recorded])
    screen = ModelScreen(
        session.plan, app.settings, predictor.asides, predictor.where, predictor.here, tuple(used)
    )
    app.push_screen(screen, _changing(app))


def choose_target(app: Workbench) -> None:
    """What the plan is predicted for."""
    from memwb.workbench.screens.targets import TargetScreen

    def chosen(target: str | None) -> None:
        if target is not None:
            app.aim(target)

    predictor, plan = app.predictor, app.session.plan
    screen = TargetScreen(
        plan, lambda: predictor.outlook, app.target, predictor.here, predictor.asides
    )
    app.push_screen(screen, chosen)


def inspect_peak(app: Workbench) -> None:
    """What is alive at the peak, of the plan and of the run that is shown."""
    from memwb.workbench.screens.peak import PeakScreen, Shown

    def look() -> Shown:
        trace = app.main.peak.trace
        label = trace.label if trace is not None else ""
        folder = next((run.folder for run in app.recorded if f"#{run.run}" == label), "")
        return Shown(app.predictor.outlook, trace, folder, app.predictor.here)

    def left(wanted: str | None) -> None:
        if wanted == "target":
            choose_target(app)

    app.push_screen(PeakScreen(look), left)


def change_settings(app: Workbench) -> None:
    """Colours, keys, and what memwb starts with."""
    from memwb.workbench.screens.settings import SettingsScreen

    app.push_screen(SettingsScreen())


def ask_run(app: Workbench, title: str, text: str) -> None:
    """Whether to run a plan that will probably not fit."""
    from memwb.workbench.screens.ask import AskScreen

    def answered(sure: bool | None) -> None:
        if sure:
            app.bursts.run_now()
        else:
            app.predictor.not_run()

    question = AskScreen(title, text, "run anyway", "leave it", careful=True)
    question.id = RUN_QUESTION
    app.push_screen(question, answered)


def ask_run_again(app: Workbench) -> None:
    """More is known of the plan: the question whether to run it, if it is open, says so."""
    from memwb.workbench.screens.ask import AskScreen

    question = app.screen
    if isinstance(question, AskScreen) and question.id == RUN_QUESTION and question.is_mounted:
        question.put(*(app.predictor.doubt(asked=True)))


def load_preset(app: Workbench) -> None:
    """The plan of a preset in the place of this one."""
    from memwb.workbench.screens.presets import PresetScreen

    def chosen(plan: Plan | None) -> None:
        if plan is not None:
            app.begin_with(plan)

    app.push_screen(PresetScreen(app.session.plan), chosen)


def edit_text(app: Workbench) -> None:
    """The plan as TOML text."""
    from memwb.workbench.screens.plan_text import PlanTextScreen, Written

    def applied(found: Written | None) -> None:
        if found is not None:
            app.take_plan(found.plan, "as TOML")
            app.keep(state.written(app.session, found.text))

    app.push_screen(PlanTextScreen(app.session.plan, app.session.text), applied)


def save_preset(app: Workbench) -> None:
    """The plan among the user's presets."""
    from memwb.workbench.screens.presets import SaveScreen

    def saved(path: str | None) -> None:
        if path:
            app.main.tell("information", "Saved", path)

    app.push_screen(SaveScreen(app.session.plan), saved)


def describe_run(app: Workbench, doing: str, first: str) -> None:
    """The name and the note of the run at the cursor; ``first`` is what is typed into at once."""
    from memwb.workbench.screens.remarks import RemarksScreen

    run = history.chosen(app, doing)
    if run is None:
        return

    def said(changed: bool | None) -> None:
        if changed:
            workers.start(app, "history", history.load, app)

    app.push_screen(RemarksScreen(run, first), said)


def ask_delete(app: Workbench) -> None:
    """Whether to delete the run at the cursor for good."""
    from memwb.workbench.screens.ask import AskScreen

    run = history.chosen(app, "$delete_run deletes")
    if run is None:
        return

    def answered(sure: bool | None) -> None:
        if sure:
            workers.start(app, "delete", history.delete, app, run)

    name = run.outcome if not run.name else given_name(run) or titles(run)
    text = f"#{run.run} {printable(name)}\nIts folder goes for good: {place(run.folder)}"
    app.push_screen(AskScreen("Delete this run?", text, "delete", "keep", careful=True), answered)


def export(app: Workbench) -> None:
    """The script of the plan, if there can be one."""
    from memwb.workbench.screens.export import ExportScreen

    if app.bursts.refused():
        return

    def exported(written: tuple[str, str] | None) -> None:
        if written:
            target, line = written
            app.keep(state.exported(app.session, target))
            app.main.tell("information", f"Exported to {Path(target) / 'train.py'}", line)

    session = app.session
    lack = library.not_here(session.plan, app.main.plan_panel.device)
    known = app.predictor.outlook
    told = known.result if known.current and known.plan == session.plan else None
    predicted = (told.target, told.peak) if told is not None else None
    app.push_screen(
        ExportScreen(session.plan, app.settings, session.target, lack, predicted), exported
    )


def copy(app: Workbench) -> None:
    """What the panel with the focus shows, to the clipboard."""
    from memwb.workbench.copying import copied

    what, text = copied(app.main, app.session)
    if not text:
        app.notify(f"Nothing to copy: {what}")
        return
    # OSC 52: the terminal that a person sits at takes it, however far away this runs.
    app.copy_to_clipboard(text)
    lines = text.count("\n") + 1
    app.notify(f"Copied {what}" + (f" ({lines} lines)." if lines > 1 else "."), markup=False)


def search(app: Workbench) -> None:
    """Every action of the screen in front by its name."""
    from memwb.workbench.screens.palette import Palette

    if not isinstance(app.screen, Palette):
        # Without Textual's id for it: the one before may be on its way out still.
        app.push_screen(Palette())


def jump(app: Workbench) -> None:
    """Letters over the screen in front; the one that is typed leads there."""
    from memwb.workbench.panels.rows import Rows
    from memwb.workbench.screens.jump import JumpScreen, Target, tabs, targets

    screen = app.screen
    found = targets(screen)
    if screen is app.main:
        found = [*tabs(app.main), *found]
    if isinstance(screen, JumpScreen) or not found:
        return

    def chosen(target: Target | None) -> None:
        if target is None or not target.widget.is_mounted:
            return
        if target.panel:
            app.main.action_jump(target.panel)
            return
        screen.set_focus(target.widget)
        if target.row and isinstance(target.widget, Rows):
            target.widget.select(target.row)

    app.push_screen(JumpScreen(found), chosen)


def restart(app: Workbench) -> None:
    """Another process for the engine; a burst that is heard of is asked about."""
    from memwb.workbench.screens.ask import AskScreen

    def answered(sure: bool | None) -> None:
        if sure:
            app.bursts.restart()

    if not app.busy or app.bursts.silent:
        app.bursts.restart()
        return
    text = "End it and start the engine again?"
    app.push_screen(AskScreen("A burst is running", text, "restart", "leave it"), answered)


def ask_quit(app: Workbench) -> None:
    """Whether to leave a burst that runs, or waits to."""
    from memwb.workbench.screens.ask import AskScreen

    if isinstance(app.screen, AskScreen) and app.screen.id == QUIT_QUESTION:
        return

    def answered(sure: bool | None) -> None:
        if sure:
            workers.displace(app, "quit", _stop_and_quit, app)

    question = AskScreen(*_leaving(app), "quit", "stay")
    question.id = QUIT_QUESTION
    app.push_screen(question, answered)


def ask_quit_again(app: Workbench) -> None:
    """The burst that waited runs: the question whether to leave it, if it is open, says so."""
    from memwb.workbench.screens.ask import AskScreen

    question = app.screen
    if isinstance(question, AskScreen) and question.id == QUIT_QUESTION and question.is_mounted:
        question.put(*_leaving(app))


def _leaving(app: Workbench) -> tuple[str, str]:
    if app.bursts.wanted:
        return "A run waits to begin", "Drop it and quit?"
    return "A burst is running", "Stop it and quit?"


async def _stop_and_quit(app: Workbench) -> None:
    """Let the burst end as stopped and be recorded so, but wait for that no longer than PATIENCE.

    Closing the engine then ends the burst as stopped, too.
    """
    app.action_stop()
    await _until_idle(app, PATIENCE)
    if app.busy:
        await app.bursts.close_engine()
        await _until_idle(app, 1.0)
    app.exit()


async def _until_idle(app: Workbench, seconds: float) -> None:
    end = time.monotonic() + seconds
    while app.busy and time.monotonic() < end:
        await asyncio.sleep(0.02)


def _changing(app: Workbench) -> Callable[[Plan | None], None]:
    def chosen(plan: Plan | None) -> None:
        if plan is not None:
            app.change_plan(plan)

    return chosen
