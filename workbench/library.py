"""What the workbench asks of the engine's light face, imported when it is first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, check
from memwb.workbench.trace import Trace, trace_of

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.runs import Summary
    from memwb.workbench.pump import Engine
    from memwb.workbench.settings import Settings


def engine() -> Engine:
    """A new engine process, not yet started."""
    from memwb.engine import paths
    from memwb.engine.client import Engine as Client

    return Client(log=paths.home() / "engine.log")


def resolve(plan: Plan, settings: Settings) -> Model:
    """The plan's model as this machine has it. Raises MemwbError."""
    from memwb.engine import catalog

    return catalog.resolve(
        plan.model, plan.weights, settings.allow_pickle, settings.trust_remote_code
    )


def models() -> list[Model]:
    """Every model that is known here."""
    from memwb.engine import catalog

    return catalog.models()


def runs() -> list[Summary]:
    """The recorded runs, newest first."""
    from memwb.engine.runs import list_runs

    return list_runs()


def trace(folder: str, label: str) -> Trace:
    """A recorded run as its events tell it; what of them can be read."""
    from memwb.engine.runs import read_events

    try:
        return trace_of(read_events(Path(folder)), label)
    except (MemwbError, OSError):
        return Trace(label)


def why_not(plan: Plan) -> MemwbError | None:
    """Why the plan cannot run as it stands, or None."""
    try:
        check(plan)
    except MemwbError as error:
        return MemwbError(error.title, error.what, f"{error.fix.partition(' (-o')[0]} Or press f.")
    return None


def script(plan: Plan, settings: Settings, merge: bool = False) -> str:
    """The text of the plan's train.py, with what was measured of it. Raises MemwbError."""
    from memwb.engine.script import script as text
    from memwb.workbench.headless.export import measured

    model = resolve(plan, settings)
    return text(plan, model, measured(plan, model), merge)


def export(plan: Plan, settings: Settings, folder: str, replace: bool, merge: bool = False) -> Path:
    """Write the script and the plan into a folder and return it. Raises MemwbError."""
    from memwb.workbench.headless.export import write

    return write(plan, resolve(plan, settings), Path(folder), replace, merge)


def first_plan(preset: str, model: str) -> Plan:
    """The plan of a first start. A preset that is gone gives a plain plan."""
    from memwb.engine.presets import load_plan

    overrides = (f"model={model}",) if model else ()
    try:
        return load_plan(preset, overrides)
    except MemwbError:
        return Plan(model=model or "tiny")
