"""What every command prints with: tables, JSON, figures with their units, errors."""

from __future__ import annotations

import contextlib
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from memwb.engine import paths
from memwb.engine.errors import MemwbError
from memwb.workbench import units


def size(count: int | None) -> str:
    """Bytes with their unit as the workbench shows them; a dash for what is not known."""
    return "–" if count is None else units.gib(count)


def rate(value: float | None) -> str:
    """Tokens a second; a dash where no untraced step was timed."""
    return units.rate(value)


def loss(value: float) -> str:
    """A loss to four decimals: enough to see a step move."""
    return units.loss(value)


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = (), right: str = "") -> str:
    """Columns lined up by spaces; ``right`` holds the indices of those aligned to the right.

    Never cut to the terminal's width: what is piped on must be whole. What would move the
    terminal's cursor becomes a space: names and models are whatever somebody has written.
    """
    cells = [[units.printable(str(cell)) for cell in row] for row in rows]
    cells = [list(header), *cells] if header else cells
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if str(i) in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def columns() -> int:
    """How wide the terminal is that standard output goes to; 0 where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def print_json(value: Any) -> None:
    """One JSON document on standard output: in UTF-8, whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def narrate(text: str) -> None:
    """A line for whoever watches: standard error, so that standard output stays data."""
    print(text, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """A line that the next one replaces, on a terminal alone; empty text ends it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def on_terminal() -> bool:
    """Whether somebody reads what is narrated, and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def report_error(error: Exception, as_json: bool) -> int:
    """Tell what went wrong and return the exit code: 2 if the user can mend it, else 1."""
    if isinstance(error, MemwbError):
        known, code = error, 2
    else:
        known, code = _own_fault(error), 1
    print_error(known.title, known.what, known.fix)
    if as_json:
        with contextlib.suppress(OSError):  # it is told already
            print_json({"error": {"title": known.title, "what": known.what, "fix": known.fix}})
    return code


def print_error(title: str, what: str, fix: str) -> None:
    """An error on standard error: its title, then what happened and what to do, indented."""
    narrate(f"memwb: {title}")
    for part in (what, fix):
        for line in part.splitlines():
            narrate(f"  {line}")


def _own_fault(error: Exception) -> MemwbError:
    lines = str(error).splitlines() or [""]
    title = f"memwb has failed: {type(error).__name__}: {lines[0]}".rstrip(": ")
    text = "".join(traceback.format_exception(error))
    file = paths.log_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            log.write(text)
    except OSError:
        return MemwbError(title, "", "memwb --debug shows the traceback.")
    return MemwbError(title, "This is a fault in memwb.", f"The traceback is in {file}.")
