"""The runs of the history: read beside the screen, compared, laid into the charts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memwb.engine.errors import MemwbError
from memwb.workbench import library, state, workers
from memwb.workbench.commands import keyed
from memwb.workbench.panels import texts
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.runs import Summary
    from memwb.workbench.app import Workbench

OFTEN = 3.0
"""Seconds between two looks at runs of others that are not over."""


async def load(app: Workbench) -> None:
    """Read the recorded runs; show the chosen ones unless a live burst is being watched."""
    app.recorded = await _read(app)
    app.main.show_runs(app.recorded, app.session)
    if not app.replay.folder and (app.live is None or not app.bursts.followed):
        await show(app)


async def look_again(app: Workbench) -> None:
    """Another workbench or the command line may have made runs meanwhile."""
    if await _read(app) != app.recorded:
        await load(app)


def follow(app: Workbench) -> None:
    """A run of another workbench that is not over is looked at until it is."""
    others = (run for run in app.recorded if run.folder != app.bursts.folder)
    if any(run.outcome == "running" for run in others):
        workers.start(app, "history", look_again, app)


async def _read(app: Workbench) -> list[Summary]:
    """The recorded runs; those known before where they cannot be listed, which is told."""
    try:
        return await asyncio.to_thread(library.runs)
    except MemwbError as error:
        app.tell_error(error)
        return app.recorded


async def show(app: Workbench) -> None:
    """The chosen run, or the marked ones, in the charts."""
    app.replay.leave()
    known = {run.folder: run for run in app.recorded}
    folders = [folder for folder in app.session.marks if folder in known][: state.MARKS]
    if len(folders) < 2:
        folders = [folder for folder in (app.session.shown,) if folder in known]
    if not folders:
        folders = list(known)[:1]
    traces = [await _trace_of(app, folder) for folder in folders]
    if len(traces) > 1:
        runs = [known[folder] for folder in folders]
        compared = await asyncio.to_thread(library.compared, runs, traces)
        app.main.show_trace(traces[0], traces[1:], compared)
    elif traces:
        app.main.show_trace(traces[0])
    else:
        app.main.memory.empty(texts.first_steps(app.settings.keymap))


def chosen(app: Workbench, doing: str) -> Summary | None:
    """The run at the cursor of the history; without the history in front, that comes first.

    ``doing`` says what is done with it, its key by the command's id as in ``keyed``.
    """
    if app.main.panel != "runs":
        app.main.action_jump("runs")
        told = f"{doing} the run at the cursor of the history."
        app.notify(keyed(told, app.settings.keymap), markup=False)
        return None
    if app.main.runs.run is None:
        app.main.runs.say_none()
    return app.main.runs.run


def mark(app: Workbench) -> None:
    """Mark the run at the cursor of the history, or take its mark away."""
    run = chosen(app, "$compare marks")
    if run is None:
        return
    before = state.known(app.session, [each.folder for each in app.recorded])
    session = state.marked(before, run.folder)
    if session == before:
        told = "Four are marked; $compare on one of them takes its mark away."
        app.notify(keyed(told, app.settings.keymap), markup=False)
        return
    app.keep(session)
    app.show_runs()


async def pin(app: Workbench, run: Summary) -> None:
    """Make a run the baseline, or no longer; what is shown is held against it."""
    try:
        await asyncio.to_thread(library.pin, run)
    except MemwbError as error:
        app.tell_error(error)
    folder, live = app.bursts.folder, app.live
    if live is not None and folder:
        # A recorded run is read anew when it is shown; the live one is not.
        live.baseline = app.bursts.baseline = await asyncio.to_thread(library.baseline, folder)
        if app.bursts.followed:
            app.main.loss.show(live)
    await load(app)


async def delete(app: Workbench, run: Summary) -> None:
    """Delete a run for good."""
    try:
        await asyncio.to_thread(library.delete, run)
    except MemwbError as error:
        app.tell_error(error)
    else:
        app.keep(state.without_run(app.session, run.folder))
    await load(app)


def replay(app: Workbench) -> None:
    """Tell the run at the cursor of the history again, or else the one in the charts."""
    if app.main.panel == "runs":
        run = chosen(app, "$replay replays")
    else:
        run = next((run for run in app.recorded if run.folder == app.session.shown), None)
        run = run or next(iter(app.recorded), None)
        if run is None:
            app.notify("Nothing has run yet: there is nothing to replay.")
    if app.replay.folder and app.main.panel != "runs":
        run = next((run for run in app.recorded if run.folder == app.replay.folder), run)
    if run is not None:
        app.replay.press(run)


async def find_baseline(app: Workbench, folder: str) -> None:
    """The run behind the live curve; found beside the burst, which does not wait for it."""
    found = await asyncio.to_thread(library.baseline, folder)
    if folder != app.bursts.folder:
        return
    app.bursts.baseline = found
    if app.live is not None and found is not None:
        app.live.baseline = found
        judge(app, app.live)
        if app.bursts.followed:
            app.main.loss.show(app.live)


def judge(app: Workbench, trace: Trace) -> None:
    """Say so when a burst is over whose losses were not those that it owed."""
    verdict = library.verdict(trace) if trace.ended is not None else None
    if verdict is not None and not verdict.within:
        app.main.tell("warning", *texts.flagged(verdict, trace.label))


async def _trace_of(app: Workbench, folder: str) -> Trace:
    if app.live is not None and folder == app.bursts.folder:
        return app.live
    number = next(run.run for run in app.recorded if run.folder == folder)
    return await asyncio.to_thread(library.trace, folder, f"#{number}", app.recorded)
