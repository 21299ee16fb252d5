"""What a preset says of itself: on the screen of presets and on the command line."""

from __future__ import annotations

from pathlib import Path

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, read_plan
from memwb.workbench.comparing import value_text, values_of


def comment(path: Path) -> str:
    """The comment at the head of a preset's file."""
    lines: list[str] = []
    try:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} cannot be read: {error}"
    # Lines of one paragraph flow together: the screen has its own width.
    return "\n\n".join(" ".join(part.split()) for part in "\n".join(lines).split("\n\n"))


def goal(path: Path) -> str:
    """One line on a preset: the first paragraph of its comment, else what it holds."""
    first = comment(path).partition("\n\n")[0].removeprefix("Goal: ").strip()
    return " ".join(first.split()) or contents(path)


def contents(path: Path) -> str:
    """What a preset's plan holds, for one that has no comment."""
    try:
        plan = read_plan(path)
    except MemwbError as error:
        return f"✗ {error.title}"
    return f"{plan.model}: {' + '.join(plan.techniques) or 'plain'}"


def differences(before: Plan, after: Plan) -> list[tuple[str, str, str]]:
    """What loading a preset would change: a mark (+ − ~), a dotted path, and what of it.

    A technique that comes or goes is one line, with its values.
    """
    one, other = values_of(before), values_of(after)
    found: dict[str, tuple[str, str, str]] = {}
    for path in [*one, *(path for path in other if path not in one)]:
        if one.get(path) == other.get(path):
            continue
        head, _, rest = path.partition(".")
        name = rest.partition(".")[0]
        whole = f"{head}.{name}"
        if head == "techniques" and (name in before.techniques) != (name in after.techniques):
            came = name in after.techniques
            found[whole] = ("+" if came else "\N{MINUS SIGN}", whole, _values(after, name, came))
        else:
            told = f"{value_text(one.get(path))} → {value_text(other.get(path))}"
            found[path] = ("~", path, told)
    return list(found.values())


def _values(plan: Plan, name: str, came: bool) -> str:
    if not came:
        return ""
    start = f"techniques.{name}."
    values = {
        path.removeprefix(start): value
        for path, value in values_of(plan).items()
        if path.startswith(start)
    }
    return ", ".join(f"{key} {value_text(value)}" for key, value in values.items())
