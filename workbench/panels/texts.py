"""The words of the header, the peak and the notices: pure functions from data to content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from memwb.engine.plan import Plan, Problem, Workload, active
from memwb.engine.protocol import Device, Ended
from memwb.engine.technique import GROUPS, Parameter, techniques
from memwb.workbench.commands import COMMANDS, key_for, keyed, shown_key
from memwb.workbench.deviation import titles, verdict_forms, verdict_line
from memwb.workbench.explained import change
from memwb.workbench.layout import PANELS
from memwb.workbench.panels import plan_rows
from memwb.workbench.trace import Trace
from memwb.workbench.units import gib, loss, name, parameters, rate
from memwb.workbench.waste import waste

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.explain import Explanation
    from memwb.engine.guard import Verdict

MUTED = "$foreground 60%"
ROOMY = 50
"""Columns from which the tabs stand apart."""
LEAST = (
    *("tab", "↵", "palette", "pin", "maximise", "edit", "export", "freeze", "peak"),
    *("compare", "toggle", "fix", "run", "stop"),
)
"""What goes from the footer first where it is too long."""

ENGINE = {
    "starting": ("engine starting…", "$text-warning"),
    "ready": ("engine ready", "$text-success"),
    "running": ("running", "$text-accent"),
    "stopping": ("stopping…", "$text-warning"),
    "silent": ("not responding", "$text-error"),
    "restarting": ("ending the engine…", "$text-warning"),
    "dead": ("engine gone", "$text-error"),
}
"""What the header says of each state of the engine, and in which colour."""


def header_left(plan: Plan, model: Model | None) -> Content:
    """What is being trained: name, size and precision."""
    known = techniques()
    precision = [each for each in active(plan) if known[each].group == "precision"]
    parts = [Content.styled(name(plan.model), "bold")]
    if model is not None and model.parameters is not None:
        parts.append(Content(parameters(model.parameters)))
    parts += [Content(known[each].title) for each in precision]
    if model is not None and model.weights == "random":
        parts.append(Content.styled("random weights", "$text-warning"))
    return Content.assemble(
        Content.styled(" memwb ", "bold $text-primary"), "  ", Content(" · ").join(parts)
    )


def header_right(device: Device | None, engine: str, doing: str = "") -> list[Content]:
    """Where it runs and what the engine is at; then shorter forms, the device given up first."""
    words, style = ENGINE[engine]
    state = Content.styled(doing or words, style)
    forms = [
        [state],
        [Content.styled((doing or words).rpartition(" · ")[0] or doing or words, style)],
    ]
    if device is not None:
        room = gib(device.capacity)
        forms[:0] = [[Content(f"{name} {room}"), state] for name in (device.name, _kind(device))]
    return [Content(" · ").join(parts) + " " for parts in forms]


def _kind(device: Device) -> str:
    return "GPU" if device.kind == "cuda" else device.kind.upper()


def progress(trace: Trace | None, stop: str) -> str:
    """How far a burst is, and the key that stops it."""
    if trace is None or trace.started is None:
        return f"starting the burst… · {stop} stops"
    if trace.loaded is None:
        return f"loading the model… · {stop} stops"
    return f"running · step {trace.steps}/{trace.planned} · {stop} stops"


def model_facts(model: Model | None, error: str = "") -> str:
    """One line about a model under its name."""
    if error:
        return f"✗ {error}"
    if model is None:
        return ""
    if model.weights == "random":
        return "random weights"
    return "to be fetched from the hub" if model.source == "hub" else f"pretrained, {model.source}"


def about_row(
    row: str, keymap: dict[str, str], explanation: Explanation | None, predicted: str = ""
) -> Content:
    """A few words on a row of the plan: a technique, or the value under the cursor.

    Under either the technique's first effect on the plan's bytes, as it changes with its values,
    and what is predicted of toggling it.
    """
    lines: list[Content] = []
    if predicted:
        # First, since the rest, which is the same for every plan, may be cut.
        lines.append(Content.assemble(("predicted  ", "$text-accent"), predicted))
    field = plan_rows.field(row.removeprefix("value:")) if row.startswith("value:") else None
    if field is not None:
        kind = " | ".join(map(str, field.choices)) or field.type
        lines.append(Content.assemble((field.name.replace("_", " "), "bold"), f"  {kind}"))
        lines.append(Content.styled(field.description, MUTED))
    elif explanation is None and (told := _about(row, keymap)):
        lines += [Content.styled(told[0], "bold"), Content.styled(told[1], MUTED)]
    elif explanation is not None:
        technique = techniques()[explanation.name]
        for label, text in (("saves", technique.saves), ("costs", technique.costs)):
            lines.append(Content.assemble((f"{label}  ", "$text-accent"), text))
    for effect in explanation.effects[:1] if explanation is not None else ():
        label = f"{effect.category}  "
        lines.append(Content.assemble((label, "$text-accent"), change(effect)))
    return Content("\n").join(lines)


def brief_row(row: str, keymap: dict[str, str], technique: str) -> Content:
    """A sentence on a row of the plan: what a technique saves, what a value is."""
    field = plan_rows.field(row.removeprefix("value:")) if row.startswith("value:") else None
    if field is not None:
        return Content.styled(field.description, MUTED)
    if technique:
        return Content.assemble(("saves  ", "$text-accent"), techniques()[technique].saves)
    return Content.styled(": ".join(part for part in _about(row, keymap) if part), MUTED)


def _about(row: str, keymap: dict[str, str]) -> tuple[str, str]:
    """A title and a sentence on the model's row or that of a group; nothing on others."""
    if row in ("model", "group:model"):
        field = plan_rows.field("model")
        how = keyed("$model searches what there is", keymap)
        return "model", f"{field.description if field else ''}; {how}"
    if row == "group:workload":
        return "workload", " ".join((Workload.__doc__ or "").split())
    for group in GROUPS:
        if row == f"group:{group.name}":
            members = [each.title for each in techniques().values() if each.group == group.name]
            how = ", one of them at a time" if group.exclusive else ", any of them together"
            return f"{group.title}{how if len(members) > 1 else ''}", ", ".join(members)
    return "", ""


def refusal(found: Sequence[Problem], keymap: dict[str, str]) -> tuple[str, str]:
    """Why a plan of these problems cannot run and the key that mends it; empty without any."""
    if not found:
        return "", ""
    first, key = found[0], key_for("fix", keymap)
    more = f"\n{len(found) - 1} more to mend" if len(found) > 1 else ""
    text = f"{title_of(first.technique)}: {first.reason}\n{key}  {first.fix}{more}"
    return "This plan cannot run as it stands", text


def mended(problem: Problem, left: int) -> str:
    """What the edit of a problem has done, and how many are left."""
    name, _, value = problem.override.partition("=")
    done = f"Set {name} to {value}."
    if value in ("on", "off"):
        done = f"Turned {title_of(name)} {value}."
    why = f"{title_of(problem.technique)}: {problem.reason}"
    return f"{done} {why}" + (f"\n{left} more to mend" if left else "")


def nothing_to_edit(technique: str, on: bool, keymap: dict[str, str]) -> str:
    """Said where Enter finds no parameter to edit."""
    how = keyed("$toggle turns it", keymap)
    return f"{title_of(technique)} has no parameters; {how} {'off' if on else 'on'}."


def nothing_to_reset(row: str, plan: Plan, keymap: dict[str, str]) -> str:
    """Said where a row is as it usually is."""
    kind, _, rest = row.partition(":")
    if row == "model":
        return keyed("A model has no usual value; $model chooses another.", keymap)
    if kind == "technique":
        on = rest in plan.techniques
        return (
            f"{title_of(rest)} is {'as it usually is' if on else 'off: there is nothing to reset'}."
        )
    return "That is as it usually is."


def expected(field: Parameter | None, reason: str) -> str:
    """What is wrong with a typed value, in words instead of the names of types."""
    words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}
    kinds = field.type.split(" | ") if field is not None else []
    kind = next((kind for kind in words if kind in kinds), "")
    if not kind or not reason.startswith("expected "):
        return reason
    if ", got " in reason:
        return f"give {words[kind]}"
    return reason.replace(f"expected {kind}", f"give {words[kind]}")


def title_of(name: str) -> str:
    """What people call a technique or a value of the workload that is at fault."""
    if name in techniques():
        return techniques()[name].title
    return name.removeprefix("$.workload.").replace("_", " ")


def loss_line(trace: Trace, verdict: Verdict | None = None, room: int = 0) -> Content:
    """First and last loss, the speed, and how far the losses are from the baseline's.

    In so many columns as there is room for: the verdict is shortened first. What is outside comes
    first, since a narrow panel cuts the end off.
    """
    losses = trace.losses
    if not losses:
        over = "no step was finished" if trace.ended else "no step yet"
        return Content(over if trace.started else "")
    span = loss(losses[0]) if len(losses) == 1 else f"{loss(losses[0])} → {loss(losses[-1])}"
    told = (span, rate(trace.tokens_per_second), _waste(trace))
    line = Content("   ".join(part for part in told if part))
    if verdict is None:
        return line
    forms = [_with_verdict(line, form, verdict.within) for form in verdict_forms(verdict)]
    fits = (form for form in forms if not room or form.cell_length <= room)
    return next(fits, forms[-1])


def _with_verdict(line: Content, form: str, within: bool) -> Content:
    parts = [line, Content(form)] if within else [Content.styled(form, "bold $text-error"), line]
    return Content("   ").join(parts)


def _waste(trace: Trace) -> str:
    return waste(trace.ended.padding, trace.techniques) if trace.ended else ""


def loss_behind(trace: Trace) -> str:
    """The end of the curve's title: the name of the baseline that is drawn behind it."""
    baseline = trace.baseline
    if baseline is None:
        return ""
    # As the history and the plan call them.
    name = " + ".join(map(title_of, baseline.name.split(" + ")))
    return f" · {trace.label}, dotted #{baseline.run} {name}"


def outcome(ended: Ended, label: str, keymap: dict[str, str]) -> tuple[str, str, str]:
    """What to tell of an ended burst: the kind of notice, a title and a text."""
    # What the command line has an override for has a key here.
    fix = re.sub(r" \(-o [^)]*\)", "", ended.fix)
    if fix != ended.fix and ended.outcome == "oom":
        fix += keyed(" $filter finds one in the plan, $toggle turns it on.", keymap)
    text = "\n".join(part for part in (ended.what, fix) if part)
    if ended.outcome == "stopped" and not text:
        text = keyed("What it measured is kept; $run runs the plan again.", keymap)
    titles = {
        "oom": "Out of memory",
        "failed": "The burst failed",
        "refused": "The plan was refused",
        "stopped": "Stopped",
    }
    title = ended.title or titles.get(ended.outcome, ended.outcome)
    # Who has stopped it knows; the rest has to be read.
    kind = "information" if ended.outcome == "stopped" else "error"
    return kind, f"{label} {title}".strip(), text


def flagged(verdict: Verdict, label: str) -> tuple[str, str]:
    """What to tell of losses outside what their techniques allow: a title and a text."""
    line = verdict_line(verdict).removeprefix("✗ ")
    names = ", ".join(titles(verdict.differing))
    why = "It is the same plan, run again: seek what else has changed."
    if names:
        why = f"Here {names} did not keep to it: run without before you trust these losses."
    text = f"{line}. {why}"
    return f"{label} does not follow #{verdict.run} {verdict.name}", text[0].upper() + text[1:]


def first_steps(keymap: dict[str, str]) -> Content:
    """What an empty chart says on a first start."""
    # Where there is little room, the first alone are seen.
    steps = {
        "run": "run a burst of this plan and watch its memory",
        "toggle": "switch a technique on or off",
        "model": "choose a model",
        "help": "explain what the cursor is on",
    }
    keys = {command: key_for(command, keymap) for command in steps}
    column = max(map(len, keys.values())) + 2
    lines = [
        Content.assemble((f"{keys[command]:<{column}}", "bold"), does)
        for command, does in steps.items()
    ]
    return Content("\n").join([Content("Nothing has run yet."), Content(), *lines])


def tabs(current: str, maximised: bool, keymap: dict[str, str], width: int = 80) -> Content:
    """The bar of panels where only one is visible; the keys before them go there."""
    room = " " if width >= ROOMY else ""
    parts = [
        Content.from_markup(
            f"[@click=screen.jump('{name}')][{'reverse b' if name == current else MUTED}]"
            f" $key {title}{room}[/][/]",
            key=key_for(f"jump_{name}", keymap),
        )
        for name, title in PANELS.items()
    ]
    if maximised:
        parts.append(Content.styled(keyed("  $maximise gives all panels back", keymap), MUTED))
    return Content(room).join(parts)


def footer(
    panel: str,
    running: bool,
    typing: bool,
    keymap: dict[str, str],
    broken: bool = False,
    filtering: bool = False,
    width: int = 80,
) -> Content:
    """At most six keys: those that matter in the focused panel and in this state.

    Where there is no room for all of them the LEAST important go, but never the one for help.
    """
    if typing:
        keys = [("↵", "take it"), ("tab", "take it, next value"), ("esc", "leave")]
        if filtering:
            keys = [("↵", "keep"), ("esc", "show all")]
        told = {key: Content.assemble((f" {key}", "bold"), f" {word} ") for key, word in keys}
        return _whole(told, width)
    known = {command.id: command for command in COMMANDS}
    first = [("edit", "show"), ("compare", "compare"), ("pin", "pin")] if panel == "runs" else []
    if panel == "plan":
        first = [("toggle", "toggle"), ("edit", "edit")]
    if panel == "peak":
        first = [("peak", "tensors"), ("maximise", "maximise")]
    if panel in ("memory", "loss"):
        first = [("freeze", "freeze"), ("maximise", "maximise")]
    go = ("stop", "stop") if running else ("run", "run")
    # A plan that cannot run cannot be exported either.
    third = ("fix", "mend") if broken else ("export", "export")
    # Of the history there is more to know than of the plan's script.
    rest = [go] if panel == "runs" else [go, third]
    pairs = [*first, *rest, ("help", "help"), ("palette", "commands")]
    told = {
        name: Content.from_markup(
            f"[@click={_clickable(known[name].action)}] [b $text-accent]$key[/] {word} [/]",
            key=shown_key(known[name], keymap),
        )
        for name, word in pairs
    }
    return _whole(told, width)


def _whole(told: dict[str, Content], width: int) -> Content:
    """As many of the keys as there is room for, none of them cut."""
    for least in filter(told.__contains__, LEAST):
        if sum(part.cell_length + 1 for part in told.values()) <= width:
            break
        del told[least]
    return Content(" ").join(told.values())


def _clickable(action: str) -> str:
    return action if "." in action else f"screen.{action}"
