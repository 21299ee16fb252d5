"""What a preset says of itself: on the screen of presets and on the command line."""

from __future__ import annotations

from pathlib import Path

from memwb.engine.errors import MemwbError
from memwb.engine.plan import read_plan


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
