"""The plan: which model, which workload, which techniques. Pure data, TOML in and out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.mistakes import explain_mistake
from memwb.engine.protocol import Device
from memwb.engine.technique import (
    GROUPS,
    Technique,
    group_of,
    mend_of,
    module_of,
    techniques,
    unavailable,
)

# Beyond these a number is a slip of the hand, and the lists that batches are drawn from would
# fill the machine before a meter could see it.
MOST = 2**16
MOST_TOKENS = 2**24
MOST_STEPS = 10**7


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one burst trains on and for how long."""

    batch_size: Annotated[int, Meta(ge=1, le=MOST, description="sequences in one forward pass")] = 1
    sequence_length: Annotated[
        int, Meta(ge=2, le=MOST_TOKENS, description="tokens in one sequence")
    ] = 1024
    gradient_accumulation: Annotated[
        int,
        Meta(ge=1, le=MOST, description="forward and backward passes before one optimizer step"),
    ] = 1
    steps: Annotated[int, Meta(ge=1, le=MOST_STEPS, description="optimizer steps")] = 8
    learning_rate: Annotated[float, Meta(gt=0, lt=10, description="peak learning rate")] = 2e-4
    schedule: Annotated[
        Literal["constant", "cosine", "linear"],
        Meta(description="learning rate after the warm-up"),
    ] = "constant"
    warmup_steps: Annotated[
        int, Meta(ge=0, le=MOST_STEPS, description="steps of linear warm-up")
    ] = 0
    seed: Annotated[int, Meta(ge=0, lt=2**32, description="seed of weights, data and dropout")] = 0
    data: Annotated[
        str,
        Meta(
            min_length=1,
            description="builtin, or a .jsonl, .parquet or .txt file (blank lines end documents)",
        ),
    ] = "builtin"
    text_field: Annotated[
        str, Meta(min_length=1, description="the field that holds the text in jsonl and parquet")
    ] = "text"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole plan. ``techniques`` maps a name to its parameters; presence means on.

    Treat the mapping as frozen too: an edit makes a new plan.
    """

    model: Annotated[str, Meta(min_length=1, description="catalogue name, folder or hub id")]
    weights: Annotated[
        Literal["auto", "pretrained", "random"],
        Meta(description="auto takes local weights where there are some, else random ones"),
    ] = "auto"
    workload: Workload = Workload()
    techniques: dict[str, Any] = {}


class Problem(msgspec.Struct, frozen=True):
    """Why a plan cannot run as it stands: where, the reason, and the edit that mends it."""

    path: str
    reason: str
    fix: str
    override: str = ""
    """The edit that mends it: ``NAME=on|off`` or ``KEY=VALUE``."""
    here: bool = False
    """True where only this device is in the way: elsewhere it may run."""

    @property
    def technique(self) -> str:
        """The technique at fault."""
        return self.path.removeprefix("$.techniques.")


def parse_plan(text: str, origin: str = "the plan") -> Plan:
    """A plan from TOML text. Raises MemwbError with the path of what is wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MemwbError(f"{origin} is not TOML", str(error), "Mend the line it names.") from None
    return plan_from(data, origin)


def plan_from(data: Mapping[str, Any], origin: str = "the plan") -> Plan:
    """A plan from plain data (of TOML or JSON). Raises MemwbError with the path."""
    data = dict(data)
    if "model" not in data:
        raise MemwbError(
            f"{origin} names no model",
            "$.model is missing",
            'Add model = "tiny", or another name of `memwb models`.',
        )
    chosen = data.pop("techniques", {})
    if not isinstance(chosen, Mapping):
        raise _wrong(origin, "$.techniques: expected a table", "Write [techniques.NAME].")
    plan: Plan = _convert(data, Plan, "$", origin)
    return msgspec.structs.replace(
        plan, techniques={name: _params(name, value, origin) for name, value in chosen.items()}
    )


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, every value written out, techniques in their usual order."""
    data: dict[str, Any] = msgspec.to_builtins(plan)
    known = list(techniques())
    data["techniques"] = {
        name: data["techniques"][name] for name in sorted(plan.techniques, key=known.index)
    }
    return data


def plan_toml(plan: Plan, template: str = "") -> str:
    """The plan as TOML text; comments and order of ``template`` (a TOML text) are kept."""
    import tomlkit

    data = plan_data(plan)
    if not template:
        return tomlkit.dumps(data)
    document = tomlkit.parse(template)
    _merge(document, data)
    return tomlkit.dumps(document)


def override(plan: Plan, text: str) -> Plan:
    """A plan with one value changed: ``dotted.key=value``, or ``NAME=on|off`` for a technique."""
    key, equals, raw = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise MemwbError(
            f"{text!r} is not an override",
            "an override is KEY=VALUE",
            "For example -o workload.steps=4, or -o lora=on.",
        )
    if key in techniques() and raw in ("on", "off"):
        return toggle(plan, key, raw == "on")
    if key in techniques():
        raise _wrong(
            f"-o {text}", f"$.techniques.{key}: {raw!r} is neither on nor off", f"Say {key}=on."
        )
    data = plan_data(plan)
    path = key.split(".")
    if path[0] in techniques():
        path.insert(0, "techniques")
    elif len(path) == 1 and path[0] in Workload.__struct_fields__:
        path.insert(0, "workload")
    elif path[0] not in Plan.__struct_fields__:
        known = [*techniques(), *Plan.__struct_fields__, *Workload.__struct_fields__]
        raise _wrong(f"-o {text}", f"$.{key}: there is no such key", nearest(path[0], known))
    table = data
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise _wrong(text, f"$.{key}: {part} holds a value, not a table", _unknown(key))
    table[path[-1]] = _value(raw, table.get(path[-1]))
    return in_order(plan_from(data, f"-o {text}"), plan)


def in_order(plan: Plan, before: Plan) -> Plan:
    """The plan with its techniques in the order in which an earlier one named them, new ones last.

    Which technique was named last is known by their order.
    """
    names = [name for name in (*before.techniques, *plan.techniques) if name in plan.techniques]
    return msgspec.structs.replace(plan, techniques={name: plan.techniques[name] for name in names})


def toggle(plan: Plan, name: str, on: bool) -> Plan:
    """The technique switched on or off; others of its exclusive group make room for it."""
    known = techniques()
    if name not in known:
        raise MemwbError(
            f"There is no technique {name!r}", nearest(name, known), "See `memwb techniques`."
        )
    kept = {key: value for key, value in plan.techniques.items() if key != name}
    if on:
        group = group_of(known[name].group)
        if group.exclusive:
            kept = {key: value for key, value in kept.items() if known[key].group != group.name}
        kept[name] = plan.techniques.get(name, known[name].params())
    return msgspec.structs.replace(plan, techniques=kept)


def active(plan: Plan) -> dict[str, msgspec.Struct]:
    """The techniques that act, in order: those named, and the default of a group left empty."""
    known = techniques()
    chosen = dict(plan.techniques)
    taken = {known[name].group for name in chosen}
    for group in GROUPS:
        if group.default and group.name not in taken:
            chosen[group.default] = known[group.default].params()
    return {name: chosen[name] for name in known if name in chosen}


def problems(
    plan: Plan, config: Mapping[str, Any] | None = None, device: Device | None = None
) -> list[Problem]:
    """Every conflict and unmet need among the plan's techniques; empty when it can run.

    With the model's config (the content of its config.json) also what does not fit the model;
    with the device also what cannot run on it, of each technique first.
    """
    known = techniques()
    found = _too_long(plan, config or {})
    for name, params in plan.techniques.items():
        path = f"$.techniques.{name}"
        if device is not None and (lack := unavailable(known[name], params, device)):
            mend = mend_of(known[name], params, device)
            found.append(Problem(path, lack, _how(mend), mend, here=True))
        found += _problems_of(known[name], plan, device)
        refuse = getattr(module_of(name), "refuse", None)
        if refuse and (refusal := refuse(params, plan, config or {})):
            reason, mend = refusal
            mend = _newest_stays(name, mend, plan)
            found.append(Problem(path, reason, _how(mend), mend))
    return found


def check(
    plan: Plan, config: Mapping[str, Any] | None = None, device: Device | None = None
) -> Plan:
    """The plan itself if its techniques go together, else MemwbError with the first reason.

    With the model's config also if they fit the model, with the device also if it can run them.
    """
    for problem in problems(plan, config, device):
        raise MemwbError(
            "A technique cannot run on this machine"
            if problem.here
            else "This plan cannot run as it stands",
            f"{problem.path}: {problem.reason}",
            f"{problem.fix} (-o {problem.override})",
        )
    return plan


def read_plan(path: Path) -> Plan:
    """A plan from a TOML file. Raises MemwbError if it cannot be read or is wrong."""
    return parse_plan(plan_text(path), str(path))


def plan_text(path: Path) -> str:
    """The text of a plan's file as it stands. Raises MemwbError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MemwbError(
            f"There is no file {path}", "", "Give a plan or a preset's name."
        ) from None
    except OSError as error:
        what = error.strerror or str(error)
    except ValueError:
        what = "it is not UTF-8 text"
    raise MemwbError(f"{path} cannot be read", what, "A plan is a TOML file.")


def _too_long(plan: Plan, config: Mapping[str, Any]) -> list[Problem]:
    """A model that learned its positions knows no more of them than it learned."""
    most = config.get("n_positions")
    if not isinstance(most, int) or plan.workload.sequence_length <= most:
        return []
    path = "$.workload.sequence_length"
    reason = f"the model has learned {most} positions, not {plan.workload.sequence_length}"
    mend = f"workload.sequence_length={most}"
    return [Problem(path, reason, _how(mend), mend)]


def _how(mend: str) -> str:
    name, _, value = mend.partition("=")
    if value in ("on", "off"):
        return f"Turn {techniques()[name].title} {value}."
    return f"Set {name} to {value}."


def _problems_of(technique: Technique, plan: Plan, device: Device | None) -> list[Problem]:
    path = f"$.techniques.{technique.name}"
    found: list[Problem] = []
    group = group_of(technique.group)
    known = techniques()
    chosen = list(plan.techniques)

    def clash(other: str, reason: str) -> None:
        # What was switched on later is what is wanted: it stays.
        mend = f"{min(other, technique.name, key=chosen.index)}=off"
        found.append(Problem(path, reason, _how(mend), mend))

    for other in chosen[: chosen.index(technique.name)]:
        # Told once, at the technique that was named later.
        if group.exclusive and known[other].group == group.name:
            clash(other, f"{known[other].title} is on, and only one of {group.title} can act")
    for conflict in technique.conflicts:
        for other in conflict.names:
            if other in plan.techniques:
                clash(other, f"conflicts with {known[other].title}: {conflict.reason}")
    for need in technique.needs:
        if not any(name in plan.techniques for name in need.names):
            titles = " or ".join(known[name].title for name in need.names)
            reason = f"needs {titles}: {need.reason}"
            # One that cannot run here would be the next thing to mend, and mending it this again.
            able = [name for name in need.names if not _lacking(name, device)]
            mend = f"{able[0]}=on" if able else f"{technique.name}=off"
            mend = _newest_stays(technique.name, mend, plan)
            found.append(Problem(path, reason, _how(mend), mend))
    return found


def _newest_stays(name: str, mend: str, plan: Plan) -> str:
    """The mend, or the technique off where the mend would put out one that was named later."""
    other, _, value = mend.partition("=")
    if value == "on":
        chosen = list(plan.techniques)
        left = toggle(plan, other, True).techniques
        if any(later not in left for later in chosen[chosen.index(name) + 1 :]):
            return f"{name}=off"
    return mend


def _lacking(name: str, device: Device | None) -> bool:
    return device is not None and bool(unavailable(techniques()[name], None, device))


def _params(name: str, value: Any, origin: str) -> Any:
    known = techniques()
    path = f"$.techniques.{name}"
    if name not in known:
        raise _wrong(
            origin,
            f"{path}: there is no such technique",
            f"{nearest(name, known)} See `memwb techniques`.".strip(),
        )
    if not isinstance(value, Mapping):
        raise _wrong(origin, f"{path}: expected a table", f"Write [techniques.{name}].")
    return _convert(dict(value), known[name].params, path, origin)


def _convert(data: dict[str, Any], kind: type[Any], path: str, origin: str) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        what, fix = explain_mistake(str(error), kind, path)
        raise _wrong(origin, what, fix) from None


def _wrong(origin: str, what: str, fix: str) -> MemwbError:
    return MemwbError(f"Something is wrong in {origin}", what, fix)


def _unknown(key: str) -> str:
    return f"See `memwb techniques` and the workload's keys; {key} is neither."


def _value(raw: str, current: Any) -> Any:
    """The text of an override as a TOML value; bare words are strings."""
    if isinstance(current, str) and not raw.startswith(('"', "'", "[")):
        return raw
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        # A shell takes quotes away: [q_proj,v_proj] is meant as a list all the same.
        bare = re.fullmatch(r"\[\s*([\w.\-]+(?:\s*,\s*[\w.\-]+)*)\s*,?\s*\]", raw)
        return [word.strip() for word in bare[1].split(",")] if bare else raw


def _merge(table: Any, data: Mapping[str, Any]) -> None:
    """Bring a tomlkit table to hold exactly ``data``, touching only what differs."""
    for key in [key for key in table if key not in data]:
        del table[key]
    for key, value in data.items():
        if isinstance(value, Mapping) and key in table and isinstance(table[key], Mapping):
            _merge(table[key], value)
        elif key not in table or table[key] != value:
            table[key] = value
