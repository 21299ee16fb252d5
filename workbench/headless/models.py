"""``memwb models [NAME]``: the models there are, and what one of them needs."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, NamedTuple

from memwb.engine.catalog import Model, resolve
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.gpus import target_of
from memwb.engine.plan import Plan, check, plan_data
from memwb.engine.presets import overridden
from memwb.engine.protocol import Device, Event, Predict, Predicted, Ready, Unpredicted
from memwb.workbench import units
from memwb.workbench.headless.burst import Forecast, engine, foretell, with_answer
from memwb.workbench.headless.output import narrate, print_json, progress, size, table
from memwb.workbench.headless.predict import remembered
from memwb.workbench.typical import ABOUT, TYPICAL, need_of, tokens, typical_plans

UNKNOWN = "unknown"


class Answer(NamedTuple):
    """What is known of one typical plan."""

    name: str
    plan: Plan
    forecast: Forecast


def models(arguments: argparse.Namespace) -> int:
    """List the catalogue and what else the local Hugging Face cache holds, or tell of one model."""
    if arguments.name:
        return _one(arguments)
    if arguments.target or arguments.overrides:
        raise MemwbError(
            "Which model?", "--target and -o tell of one", "memwb models NAME --target GPU"
        )
    from memwb.engine.catalog import models as all_models

    found = all_models()
    if arguments.json:
        print_json([_data(model) for model in found])
        return 0
    rows = [
        (
            model.name,
            "–" if model.parameters is None else units.parameters(model.parameters),
            units.count(model.vocabulary),
            units.count(model.context),
            model.weights,
            model.source,
            model.licence or UNKNOWN,
        )
        for model in found
    ]
    header = ("model", "parameters", "vocabulary", "context", "weights", "source", "licence")
    print(table(rows, header, right="123"))
    return 0


def _one(arguments: argparse.Namespace) -> int:
    """The facts of a model, then what it needs in each typical plan."""
    target_of(arguments.target)  # for its error
    model = resolve(arguments.name, allow_pickle=True, trust_remote_code=True)
    workload = overridden(Plan(model=arguments.name), arguments.overrides).workload
    plans = typical_plans(arguments.name, workload)
    for plan in plans.values():
        check(plan, model.config)
    device, answers = asyncio.run(_predicted(plans, arguments))
    progress("")
    told = next((a.forecast.result.target for a in answers if a.forecast.result), arguments.target)
    if arguments.json:
        found = [_plan_data(answer, device) for answer in answers]
        print_json(_data(model) | {"target": told, "workload": workload, "plans": found})
    else:
        print(_facts(model))
        print(f"\nwhat it needs for {told or 'this machine'}, with {tokens(workload)}")
        print(table([_row(answer, device) for answer in answers], right="1"))
        print(f"\n{ABOUT}")
    return 0 if any(answer.forecast.result for answer in answers) else 1


async def _predicted(
    plans: dict[str, Plan], arguments: argparse.Namespace
) -> tuple[Device, list[Answer]]:
    """Each plan's forecast: kept ones at once, the others by one engine, one after the other."""
    device = device_for("auto")
    forecasts: dict[str, Forecast] = {}
    questions = {
        name: Predict(
            plan_data(plan),
            target=arguments.target,
            prediction=name,
            trust_remote_code=arguments.trust_remote_code,
        )
        for name, plan in plans.items()
    }
    for name, question in questions.items():
        for event in remembered(question):
            forecasts[name] = with_answer(forecasts.get(name, Forecast(None, device)), event)
    unknown = {name: each for name, each in questions.items() if name not in forecasts}

    def hear(event: Event) -> None:
        nonlocal device
        if isinstance(event, Ready):
            device = event.device
        if isinstance(event, Predicted | Unpredicted):
            progress(f"{len(forecasts) + 1} of {len(plans)} predicted …")

    if unknown:
        narrate("starting the engine")
        async with engine() as running:
            for name, question in unknown.items():
                forecasts[name] = await foretell(running, question, hear)
                if not running.alive:
                    break
    nothing = Forecast(None, device)
    return device, [Answer(name, plans[name], forecasts.get(name, nothing)) for name in plans]


def _row(answer: Answer, device: Device) -> tuple[str, ...]:
    result, failure = answer.forecast.result, answer.forecast.failure
    if result is None:
        why = (failure.what or failure.title) if failure is not None else "the engine died"
        return f"  {answer.name}", "?", "not predicted", why
    need = need_of(result, device)
    if need.room is None:
        return f"  {answer.name}", size(need.allocated), "", ""
    free = need.room.free
    told = f"{size(free)} free" if free >= 0 else f"{size(-free)} too little"
    return f"  {answer.name}", size(need.allocated), need.room.verdict, told


def _plan_data(answer: Answer, device: Device) -> dict[str, Any]:
    result, failure = answer.forecast.result, answer.forecast.failure
    room = need_of(result, device).room if result is not None else None
    return {
        "name": answer.name,
        "preset": TYPICAL[answer.name],
        "techniques": list(answer.plan.techniques),
        "peak": result.peak if result is not None else None,
        "verdict": room.verdict if room is not None else None,
        "free": room.free if room is not None else None,
        "capacity": room.capacity if room is not None else None,
        "reason": (failure.what or failure.title) if failure is not None else "",
    }


def _facts(model: Model) -> str:
    where = "not on this machine, to be fetched" if model.source == "hub" else model.source
    known = model.parameters
    rows = (
        ("model", f"{model.name}" + (f"  ({model.location})" if model.location else "")),
        ("parameters", UNKNOWN if known is None else f"{units.parameters(known)}  ({known:,})"),
        ("vocabulary", UNKNOWN if model.vocabulary is None else units.count(model.vocabulary)),
        ("context", UNKNOWN if model.context is None else units.count(model.context)),
        ("weights", model.weights),
        ("source", where),
        ("licence", model.licence or UNKNOWN),
    )
    return table(rows)


def _data(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__struct_fields__ if name != "config"}
