"""Opening the workbench: settings, the last session, then the screen."""

from __future__ import annotations

import gc
from collections.abc import Callable

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.workbench import library
from memwb.workbench.app import Workbench
from memwb.workbench.pump import Engine
from memwb.workbench.settings import Settings, read_session, read_settings
from memwb.workbench.state import GUIDE, Session, begun, guided, newcomer

COLLECT = (20_000, 20, 20)
"""When garbage is looked for: a frame makes thousands of short-lived things, next to none of them
in cycles, and to look through them after every seven hundred takes a fifth of it."""


def start(plan: Plan | None = None) -> int:
    """Run the workbench until it is left and return its exit code.

    A plan takes the place of the last one.
    """
    # Nothing of what is built until the first paint is garbage; the app collects from then on.
    gc.disable()
    gc.set_threshold(*COLLECT)
    app = open_workbench(plan)
    app.run()
    return app.return_code or 0


def open_workbench(
    plan: Plan | None = None, engine: Callable[[], Engine] | None = None, guide: bool = True
) -> Workbench:
    """The app as it was left, with another plan if one is given, and on another engine.

    Whoever starts it for the first time is guided, if ``guide``.
    """
    warning: MemwbError | None = None
    try:
        settings = read_settings()
    except MemwbError as error:
        settings, warning = Settings(), error
    session = read_session()
    if session is None:
        plan = plan or library.first_plan(settings.preset, settings.model)
        session = Session(plan, base=plan)
        session = newcomer(session) if guide else session
    else:
        session = guided(session, GUIDE[-1])
        session = begun(session, plan) if plan is not None else session
    return Workbench(session, settings, engine, warning)
