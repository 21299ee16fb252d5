"""``memwb techniques|presets|locate``: what there is."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from memwb.engine import paths
from memwb.engine.devices import assumed
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.explain import Explanation
from memwb.engine.plan import Plan, override
from memwb.engine.presets import load_plan
from memwb.engine.protocol import Device
from memwb.engine.technique import GROUPS, Technique, group_of, parameters_of, unavailable
from memwb.engine.technique import techniques as all_techniques
from memwb.workbench.explained import sections
from memwb.workbench.headless.output import print_json, table


def techniques(arguments: argparse.Namespace) -> int:
    """List the techniques by group, or explain one, with its arithmetic for a plan."""
    known = all_techniques()
    if arguments.name is not None and arguments.name not in known:
        raise MemwbError(
            f"There is no technique {arguments.name!r}",
            nearest(arguments.name, known),
            "See `memwb techniques`.",
        )
    device = assumed(arguments.device)
    if arguments.name:
        explanation = _explanation(arguments.name, _plan(arguments), device)
        if arguments.json:
            print_json(_technique_data(known[arguments.name], device, explanation))
        else:
            print(_technique_text(explanation))
    elif arguments.overrides:
        raise MemwbError(
            "There is no technique to explain", "-o came without one", "memwb techniques NAME -o …"
        )
    elif arguments.json:
        print_json([_technique_data(technique, device) for technique in known.values()])
    else:
        chosen = list(known.values())
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


def _explanation(name: str, plan: Plan, device: Device) -> Explanation:
    """The technique on this plan's model, as far as it is on this machine."""
    from memwb.engine.catalog import resolve
    from memwb.engine.explain import explain

    # Nothing is loaded here: what a model's file may run is asked about when a burst starts.
    model = resolve(plan.model, plan.weights, allow_pickle=True, trust_remote_code=True)
    return explain(name, plan, model.config, device)


def _plan(arguments: argparse.Namespace) -> Plan:
    """The plan to reckon for, tiny's unless one is named; not checked: nothing will run."""
    plan = load_plan(arguments.plan) if arguments.plan else Plan(model="tiny")
    for text in arguments.overrides:
        plan = override(plan, text)
    return plan


def _technique_text(explanation: Explanation) -> str:
    told = sections(explanation)
    width = max(len(label) for section in told for label, _ in section.rows)
    lines = [f"{explanation.title} ({explanation.name}, {explanation.group})"]
    for section in told:
        lines += ["", section.title] if section.title else []
        lines.append(table([(f"  {label}".ljust(width + 2), text) for label, text in section.rows]))
    return "\n".join(lines)


def _technique_data(
    technique: Technique, device: Device, explanation: Explanation | None = None
) -> dict[str, Any]:
    fields = {
        name: getattr(technique, name)
        for name in technique.__struct_fields__
        if name not in ("params", "packages")
    }
    lack = unavailable(technique, None, device)
    found = {
        **fields,
        "parameters": parameters_of(technique),
        "available": not lack,
        "unavailable": lack,
        "device": device.kind,
    }
    if explanation is not None:
        found["arithmetic"] = {
            "setting": explanation.setting,
            "effects": explanation.effects,
            "unknown": explanation.unknown,
        }
    return found


def presets(arguments: argparse.Namespace) -> int:
    """List the presets, show one as it stands in its file, hold one against a plan, delete one."""
    from memwb.engine.presets import presets as all_presets

    known = all_presets()
    words = [word for word in (arguments.action, arguments.name, arguments.plan) if word]
    if words == ["list"]:
        return _list_presets(known, arguments.json)
    if words[0] == "diff" and len(words) == 3:
        return _differences(words[1], words[2], arguments.json)
    if words[0] == "delete" and len(words) == 2:
        return _delete(words[1], arguments.json)
    name = words[-1]
    if words in (["show"], ["diff"], ["delete"], ["diff", name]):
        how = "diff NAME PLAN" if words[0] == "diff" else f"{words[0]} NAME"
        which = "Which plan?" if len(words) == 2 else "Which preset?"
        raise MemwbError(which, "", f"memwb presets {how}; `memwb presets` lists them.")
    if name not in known or words[:-1] not in ([], ["show"]):
        raise MemwbError(
            f"There is no preset {name!r}", nearest(name, known), "See `memwb presets`."
        )
    from memwb.engine.plan import parse_plan, plan_data, plan_text

    text = plan_text(known[name])
    if arguments.json:
        plan = plan_data(parse_plan(text, str(known[name])))
        print_json({"name": name, "file": str(known[name]), "plan": plan})
    else:
        print(text, end="")
    return 0


def _differences(name: str, plan: str, as_json: bool) -> int:
    """What loading the preset would change of a plan."""
    from memwb.workbench.preset_texts import differences

    found = differences(load_plan(plan), load_plan(name))
    if as_json:
        print_json([{"mark": mark, "path": path, "change": text} for mark, path, text in found])
    elif found:
        print(table(found))
    return 0


def _delete(name: str, as_json: bool) -> int:
    from memwb.engine.presets import delete_preset

    delete_preset(name)
    if as_json:
        print_json({"deleted": name})
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
    """Tell where settings, runs, presets, predictions and the log are kept."""
    from memwb.engine.catalog import cache_folder

    places = {
        "home": paths.home(),
        "settings": paths.settings_file(),
        "runs": paths.runs_folder(),
        "presets": paths.presets_folder(),
        "log": paths.log_file(),
        "predictions": paths.predictions_folder(),
        "models": cache_folder(),
    }
    if arguments.json:
        print_json({name: str(path) for name, path in places.items()})
    else:
        rows = [
            (name, path, "" if os.path.exists(path) else "(not there yet)")
            for name, path in places.items()
        ]
        print(table(rows))
    return 0
