"""TOML as text: which part of a line is what, and on which line a path stands."""

from __future__ import annotations

import re

from memwb.engine.errors import MemwbError

PART = re.compile(
    r"""(?P<table>^\s*\[[^"'#=]*\]\s*(?=\#|$))
    |(?P<key>^\s*[\w.\-"]+(?=\s*=))
    |(?P<text>"(?:[^"\\]|\\.)*"?|'[^']*'?)
    |(?P<comment>\#.*)
    |(?P<value>\b(?:true|false|inf|nan)\b|[+-]?\b\d[\w.+\-:]*)""",
    re.VERBOSE,
)
PLACE = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")
TABLE = re.compile(r"^\s*\[([\w.\-]+)\]")
KEY = re.compile(r"^\s*([\w.\-]+)\s*=")


def parts(line: str) -> list[tuple[int, int, str]]:
    """The parts of a line: where each begins and ends, and table, key, text, value or comment."""
    return [(*match.span(), str(match.lastgroup)) for match in PART.finditer(line)]


def place(text: str, error: MemwbError) -> tuple[int, int] | None:
    """The line and column, from 0, of what an error is about; None where that is not known."""
    if told := PLACE.search(error.what):
        last = max(0, len(text.splitlines()) - 1)
        return (int(told[1]) - 1, int(told[2]) - 1) if told[1] else (last, 0)
    path = error.what.partition(":")[0].partition(" ")[0]
    return find(text, path.removeprefix("$."))


def mistake(text: str, error: MemwbError) -> str:
    """What is wrong and where, then what to do about it."""
    found = place(text, error)
    line = f"line {found[0] + 1}: " if found else ""
    return f"{line}{PLACE.sub('', error.what).strip()}\n{error.fix}".strip()


def find(text: str, path: str) -> tuple[int, int] | None:
    """Where a dotted path is written; of one that is not, the table that it belongs to."""
    table, best, found = "", "", None
    for number, line in enumerate(text.splitlines()):
        head, key = TABLE.match(line), KEY.match(line)
        if head:
            table = head[1]
        match = head or key
        if match is None:
            continue
        own = table if head else f"{table}.{match[1]}".strip(".")
        if (path == own or path.startswith(f"{own}.")) and len(own) > len(best):
            best, found = own, (number, match.start(1))
    return found
