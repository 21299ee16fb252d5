"""``memwb techniques|models|presets|locate``: what there is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from memwb.engine import paths
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.protocol import Device
from memwb.engine.technique import (
    GROUPS,
    Technique,
    closed,
    group_of,
    parameters_of,
    unavailable,
)
from memwb.engine.technique import techniques as all_techniques
from memwb.workbench import units
from memwb.workbench.headless.devices import assumed
from memwb.workbench.headless.output import print_json, table


def techniques(arguments: argparse.Namespace) -> int:
    """List the techniques by group, or tell one in full."""
    known = all_techniques()
    if arguments.name is not None and arguments.name not in known:
        raise MemwbError(
            f"There is no technique {arguments.name!r}",
            nearest(arguments.name, known),
            "See `memwb techniques`.",
        )
    chosen = [known[arguments.name]] if arguments.name else list(known.values())
    device = assumed(arguments.device)
    if arguments.json:
        found = [_technique_data(technique, device) for technique in chosen]
        print_json(found[0] if arguments.name else found)
    elif arguments.name:
        print(_technique_text(chosen[0], device))
    else:
        groups = (_group_text(group.title, group.name, chosen, device) for group in GROUPS)
        print("\n\n".join((*groups, _assumption(device))))
    return 0


def _assumption(device: Device) -> str:
    other = "cuda" if device.kind == "cpu" else "cpu"
    return f"Told for {device.name} ({device.kind}); --device {other} asks for another."


def _group_text(title: str, name: str, known: list[Technique], device: Device) -> str:
    rows = []
    for technique in known:
        if technique.group == name:
            lack = unavailable(technique, None, device)
            rows += [
                (f"  {technique.name}", f"saves  {technique.saves}"),
                ("", f"costs  {technique.costs}"),
            ]
            rows += [("", f"not available here: {lack}")] if lack else []
    group = group_of(name)
    note = " (one of them)" if group.exclusive else ""
    note = f" (one of them; {group.default} unless named)" if group.default else note
    return f"{title}{note}\n" + table(rows)


def _technique_text(technique: Technique, device: Device) -> str:
    rows: list[tuple[str, str]] = [
        ("saves", technique.saves),
        ("costs", technique.costs),
        ("not when", technique.not_when),
        ("losses", _exactness(technique)),
        *(("conflicts", f"{', '.join(c.names)}: {c.reason}") for c in technique.conflicts),
        *(("needs", f"{' or '.join(need.names)}: {need.reason}") for need in technique.needs),
        ("source", technique.source),
        ("available", f"{unavailable(technique, None, device) or 'yes'} ({device.kind})"),
    ]
    lines = [f"{technique.title} ({technique.name}, {group_of(technique.group).title})"]
    lines.append(table(rows))
    parameters = parameters_of(technique)
    if parameters:
        lines += ["", f"Parameters (-o {technique.name}.NAME=VALUE)"]
        lines.append(
            table(
                [
                    (
                        f"  {parameter.name}",
                        " | ".join(map(str, parameter.choices)) or parameter.type,
                        f"[{parameter.default}]",
                        parameter.description,
                    )
                    for parameter in parameters
                ]
            )
        )
    for parameter in parameters:
        reasons = closed(technique, parameter, None, device)
        lines += [f"  {choice} not on {device.kind}: {why}" for choice, why in reasons.items()]
    return "\n".join(lines)


def _exactness(technique: Technique) -> str:
    if technique.exact:
        return "identical to those without it"
    if technique.tolerance is not None:
        return f"within {technique.tolerance:g} (relative) of those without it"
    return "its own: it trains another model or takes other steps"


def _technique_data(technique: Technique, device: Device) -> dict[str, Any]:
    fields = {
        name: getattr(technique, name)
        for name in technique.__struct_fields__
        if name not in ("params", "packages")
    }
    lack = unavailable(technique, None, device)
    return {
        **fields,
        "parameters": parameters_of(technique),
        "available": not lack,
        "unavailable": lack,
        "device": device.kind,
    }


def models(arguments: argparse.Namespace) -> int:
    """List the catalogue, then what else the local Hugging Face cache holds."""
    from memwb.engine.catalog import models as all_models

    found = all_models()
    if arguments.json:
        print_json(
            [
                {name: getattr(model, name) for name in model.__struct_fields__ if name != "config"}
                for model in found
            ]
        )
        return 0
    rows = [
        (
            model.name,
            _count(model.parameters),
            f"{model.vocabulary or 0:,}" if model.vocabulary else "–",
            f"{model.context or 0:,}" if model.context else "–",
            model.weights,
            model.source,
            model.licence,
        )
        for model in found
    ]
    header = ("model", "parameters", "vocabulary", "context", "weights", "source", "licence")
    print(table(rows, header, right="123"))
    return 0


def _count(parameters: int | None) -> str:
    return "–" if parameters is None else units.parameters(parameters)


def presets(arguments: argparse.Namespace) -> int:
    """List the presets with the first sentence of each, or show one as it stands in its file."""
    from memwb.engine.presets import presets as all_presets

    known = all_presets()
    words = [word for word in (arguments.action, arguments.name) if word]
    if words == ["list"]:
        return _list_presets(known, arguments.json)
    name = words[-1]
    if words == ["show"]:
        raise MemwbError(
            "Which preset?", "", "memwb presets show NAME; `memwb presets` lists them."
        )
    if name not in known or words[:-1] not in ([], ["show"]):
        raise MemwbError(
            f"There is no preset {name!r}", nearest(name, known), "See `memwb presets`."
        )
    text = known[name].read_text(encoding="utf-8")
    if arguments.json:
        from memwb.engine.plan import parse_plan, plan_data

        plan = plan_data(parse_plan(text, str(known[name])))
        print_json({"name": name, "file": str(known[name]), "plan": plan})
    else:
        print(text, end="")
    return 0


def _list_presets(known: dict[str, Path], as_json: bool) -> int:
    from memwb.workbench.preset_texts import goal

    found = [
        {"name": name, "file": str(file), "goal": goal(file).partition(". ")[0].rstrip(".")}
        for name, file in known.items()
    ]
    if as_json:
        print_json(found)
    else:
        print(table([(preset["name"], preset["goal"]) for preset in found]))
    return 0


def locate(arguments: argparse.Namespace) -> int:
    """Tell where settings, runs, presets and the log are kept."""
    from memwb.engine.catalog import cache_folder

    places = {
        "home": paths.home(),
        "settings": paths.settings_file(),
        "runs": paths.runs_folder(),
        "presets": paths.presets_folder(),
        "log": paths.log_file(),
        "models": cache_folder(),
    }
    if arguments.json:
        print_json({name: str(path) for name, path in places.items()})
    else:
        rows = [
            (name, path, "" if path.exists() else "(not there yet)")
            for name, path in places.items()
        ]
        print(table(rows))
    return 0
