"""The runs of the history: read beside the screen, compared, laid into the charts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memwb.workbench import library
from memwb.workbench.panels import texts
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench


async def load(app: Workbench) -> None:
    """Read the recorded runs; show the chosen ones unless a live burst is being watched."""
    app.recorded = await asyncio.to_thread(library.runs)
    app.main.show_runs(app.recorded, app.session.shown, app.session.marks)
    if app.live is None or not app.bursts.followed:
        await show(app)


async def look_again(app: Workbench) -> None:
    """Another workbench or the command line may have made runs meanwhile."""
    if await asyncio.to_thread(library.runs) != app.recorded:
        await load(app)


async def show(app: Workbench) -> None:
    """The chosen run, or the marked two, in the charts."""
    known = [run.folder for run in app.recorded]
    folders = [folder for folder in app.session.marks if folder in known]
    if len(folders) < 2:
        folders = [folder for folder in (app.session.shown,) if folder in known]
    if not folders:
        folders = known[:1]
    traces = [await _trace_of(app, folder) for folder in folders]
    if len(traces) > 1:
        verdict = await asyncio.to_thread(library.verdict_between, folders[1], folders[0])
        app.main.show_trace(traces[0], traces[1], verdict)
    elif traces:
        app.main.show_trace(traces[0])
    else:
        app.main.memory.empty(texts.first_steps(texts.no_gpu(app.device)))


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
    return await asyncio.to_thread(library.trace, folder, f"#{number}")
