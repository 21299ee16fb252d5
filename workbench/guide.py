"""The guided first session: four steps in one line above the keys, each done by doing it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from msgspec.structs import replace
from textual.content import Content

from memwb.workbench.commands import COMMANDS, shown_key
from memwb.workbench.state import GUIDE, Session

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench

PLACES = {"run": 1, "toggle": 2, "again": 3, "compare": 3, "export": 4}
"""To run again and to compare are two deeds and one step."""
STEPS = 4
RIGHT = (
    "[@click=app.guide][b $text-accent]$guide[/] ends the guide[/] ",
    "[@click=app.guide][b $text-accent]$guide[/] ends it[/] ",
)
LEAST = 14
"""In a terminal of fewer lines nobody is guided: its lines are needed."""


def line(
    session: Session,
    engine: str,
    keymap: dict[str, str],
    width: int,
    height: int,
    *,
    broken: bool = False,
    ran: Collection[str] | None = None,
) -> tuple[Content, ...]:
    """The one thing to do next, in the longest form that there is room for, and how to be rid of
    it; nothing where nobody is guided.

    A ``broken`` plan is mended first. ``ran`` are the techniques of the run that is shown: where
    the plan has the same again, there is nothing to measure.
    """
    if session.guide not in GUIDE or height < LEAST:
        return ()
    if session.guide == "again" and ran is not None and set(ran) == set(session.plan.techniques):
        session = replace(session, guide="toggle")
    place = PLACES.get(session.guide)
    done = Content.styled(" ✓ ", "bold $text-success")
    head = Content.styled(f" {place}/{STEPS} ", "bold reverse") if place else done
    rights = [_keyed(form, keymap) for form in RIGHT]
    forms = [
        Content(" ").join((head, _keyed(form, keymap))) for form in _told(session, engine, broken)
    ]
    for form in forms:
        for right in rights:
            # Two sentences without a gap are read as one.
            if form.cell_length + 2 + right.cell_length < width:
                return form, right
    return forms[-1], rights[-1]


def greet(app: Workbench, gpu: bool) -> None:
    """Said once, on the first start on a machine without a GPU: what works all the same."""
    # What is wrong comes first: this waits for the next start.
    if app.session.greeted or app.main.notice.display:
        return
    if not gpu and app.settings.device == "auto":
        title = "No GPU here, and none is needed to begin"
        text = "Bursts run on the CPU, exact to the byte; $target predicts for dozens of GPUs; "
        text += "what $export writes runs on them."
        # In a few lines the rest of it would hide what it speaks of.
        told = _keyed(text, app.settings.keymap).plain if app.size.height >= LEAST else ""
        app.main.tell("information", title, told, passing=True)
    app.keep(replace(app.session, greeted=True))


def _told(session: Session, engine: str, broken: bool) -> tuple[str, ...]:
    """What to do, long and short; a command's id after a dollar stands for its key."""
    running, tab = engine in ("running", "stopping"), session.tab
    steps = session.plan.workload.steps
    if running and session.guide in ("run", "again"):
        return (
            "It trains: memory by category fills the chart, dotted is what was predicted",
            "It trains; dotted is what was predicted of it",
        )
    if engine == "waiting":
        return (f"It begins by itself as soon as it can; {_key('stop')} takes it back",)
    if engine == "silent":
        return (f"Wait, and it goes on by itself; {_key('restart')} restarts the engine",)
    if engine == "dead" and session.guide in ("run", "again"):
        return (f"Press {_key('run')}: the engine starts again; nothing is lost",)
    if broken and session.guide in ("run", "toggle", "again"):
        return (
            f"This plan cannot run: its row says why, {_key('fix')} mends it",
            f"This plan cannot run: {_key('fix')} mends it",
        )
    if session.guide == "run":
        early = " as soon as the engine is ready" if engine == "starting" else ""
        return (
            f"Press {_key('run')}: the plan runs for {steps} steps{early}, and every byte is seen",
            f"Press {_key('run')}: {steps} steps run, every byte is seen",
        )
    if session.guide == "toggle":
        there = "" if tab == "plan" else f"{_key('jump_plan')} to the plan, "
        return (
            f"Save memory: {there}[b]↓[/] to a technique, {_key('toggle')} switches it; "
            "beside it stands what the peak would change by",
            f"{there}[b]↓[/] to a technique; {_key('toggle')} makes the change shown beside it",
            f"{there}[b]↓[/], {_key('toggle')} makes the change told beside it",
        )
    if session.guide == "again":
        return (
            f"Press {_key('run')} again: what was predicted of the change is measured",
            f"Press {_key('run')} again, and the change is measured",
        )
    if session.guide == "compare":
        if tab != "runs":
            return (f"Compare the two: {_key('jump_runs')} goes to the runs",)
        if not session.marks:
            return (f"{_key('compare')} marks the run at the cursor",)
        return (f"[b]↓[/] to the other run, {_key('compare')} lays it over the first",)
    if session.guide == "export":
        return (
            f"{_key('export')} shows the script that ran; [b $text-accent]w[/] there writes it, "
            "and it runs without memwb",
            f"{_key('export')} shows the script; [b $text-accent]w[/] there writes it",
        )
    return (
        f"That was all of it. {_key('help')} explains what the cursor is on, "
        f"{_key('palette')} finds every command",
        f"All done. {_key('help')} explains, {_key('palette')} finds every command",
    )


def _key(command: str) -> str:
    return f"[b $text-accent]${command}[/]"


def _keyed(form: str, keymap: dict[str, str]) -> Content:
    keys = {command.id: shown_key(command, keymap) for command in COMMANDS}
    return Content.from_markup(form, **keys)
