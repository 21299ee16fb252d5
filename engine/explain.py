"""A technique explained, for a plan: the one text that the command line and the workbench show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from memwb.engine.arithmetic import Effect, effects_of, facts_of, has_arithmetic, no_arithmetic
from memwb.engine.plan import Plan, active, problems, toggle
from memwb.engine.protocol import Device
from memwb.engine.technique import (
    Parameter,
    Relation,
    Technique,
    closed,
    group_of,
    mend_of,
    parameters_of,
    techniques,
    unavailable,
)


class Section(msgspec.Struct, frozen=True):
    """A part of the text: a title, and rows of a label and what is said of it."""

    title: str
    rows: tuple[tuple[str, str], ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of a technique; its arithmetic in bytes, for surfaces to write out."""

    name: str
    title: str
    group: str
    sections: tuple[Section, ...]
    setting: str
    """What the arithmetic is reckoned for: model, batch, precision, adapters. Nothing else of a
    plan is in it: each technique is reckoned as if it alone were added to these."""
    effects: tuple[Effect, ...]
    unknown: str
    """Why there is no arithmetic: there never is without the one or the other."""


def explain(
    name: str, plan: Plan, config: Mapping[str, Any] | None = None, device: Device | None = None
) -> Explanation:
    """The technique explained with the plan's values, its own where the plan has it off.

    ``config`` is the content of the model's config.json, ``device`` where the plan would run;
    without them what depends on them is left out.
    """
    technique = techniques()[name]
    # Parameters that the plan holds, or the defaults; a default technique acts without a name.
    chosen = plan if name in active(plan) else toggle(plan, name, True)
    params = active(chosen)[name]
    here = unavailable(technique, params, device)
    if here and device and name in plan.techniques:
        here += f" (mended by -o {mend_of(technique, params, device)})"
    sections = [Section("", tuple(_facts(technique, chosen, config, params, device, here)))]
    rows = tuple(
        (item.name, _parameter(item, getattr(params, item.name)))
        for item in parameters_of(technique)
    )
    if rows:
        sections.append(Section(f"Parameters (-o {name}.NAME=VALUE)", rows))
    effects, setting, unknown = _arithmetic(name, chosen, config, params, device)
    return Explanation(
        name=name,
        title=technique.title,
        group=group_of(technique.group).title,
        sections=tuple(sections),
        setting=setting,
        effects=effects,
        unknown=unknown,
    )


def exactness(technique: Technique, params: msgspec.Struct) -> str:
    """What a technique promises of the losses with these parameters."""
    if technique.exact and technique.group == "optimizer" and params != technique.params():
        return "its own: with other parameters than the defaults it takes other steps"
    if technique.exact:
        return "identical to those without it: the tests hold it to that"
    if technique.tolerance is not None:
        return f"within {technique.tolerance:.2g} (relative) of those without it"
    return "its own: it trains another model or takes other steps"


def _facts(
    technique: Technique,
    plan: Plan,
    config: Mapping[str, Any] | None,
    params: msgspec.Struct,
    device: Device | None,
    here: str,
) -> list[tuple[str, str]]:
    told = [
        ("saves", technique.saves),
        ("costs", technique.costs),
        ("not when", technique.not_when),
        ("losses", exactness(technique, params)),
    ]
    told += [("conflicts", _relation(each, ", ")) for each in technique.conflicts]
    told += [("needs", _relation(each, " or ")) for each in technique.needs]
    for problem in problems(plan, config):
        if problem.technique == technique.name:
            told.append(("in this plan", f"{problem.reason}. {problem.fix}"))
    told.append(("source", technique.source))
    told.append(("available", here or "yes"))
    place = f"on {device.kind}" if device else "here"
    for item in parameters_of(technique):
        for choice, why in closed(technique, item, params, device).items():
            told.append(("not here", f"{item.name} {choice} not {place}: {why}"))
    told.append(("switch", f"-o {technique.name}=on"))
    return told


def _arithmetic(
    name: str,
    plan: Plan,
    config: Mapping[str, Any] | None,
    params: msgspec.Struct,
    device: Device | None,
) -> tuple[tuple[Effect, ...], str, str]:
    """The effects, what they are reckoned for, and why there are none where there are none."""
    plan = _with_needs(plan, name)
    known = techniques()
    acting = [each for each in active(plan) if known[each].group in ("precision", "adapters")]
    work = plan.workload
    batch = f"{work.batch_size:,} × {work.sequence_length:,} tokens"
    setting = ", ".join([plan.model, batch, *acting])
    others = [each for each in plan.techniques if each not in (*acting, name)]
    setting += f" ({', '.join(others)} left out)" if others else ""
    if not has_arithmetic(name):
        return (), setting, no_arithmetic(name)
    if not config:
        return (), setting, "the model's config.json is not on this machine"
    for problem in problems(plan, config):
        # Of the technique itself, and only on this model: then no plan has these bytes.
        if problem.technique == name and problem not in problems(plan):
            return (), setting, f"{problem.reason}: it does not run on this model"
    facts = facts_of(plan, config, device)
    if facts is None:
        kind = config.get("model_type", "this")
        return (), setting, f"the tensors of a {kind} model are not known without loading it"
    effects = tuple(effects_of(name, params, facts))
    return effects, setting, "" if effects else no_arithmetic(name)


def _with_needs(plan: Plan, name: str) -> Plan:
    """The plan with what the technique cannot do without, so that there is something to reckon."""
    for need in techniques()[name].needs:
        if not any(other in plan.techniques for other in need.names):
            plan = toggle(plan, need.names[0], True)
    return plan


def _relation(relation: Relation, between: str) -> str:
    return f"{between.join(techniques()[name].title for name in relation.names)}: {relation.reason}"


def _parameter(item: Parameter, value: Any) -> str:
    kind = " | ".join(map(_text, item.choices)) or item.type
    now = "default" if value == item.default else f"now {_text(value)}, default"
    return f"{item.description} ({kind}; {now} {_text(item.default)})"


def _text(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)
