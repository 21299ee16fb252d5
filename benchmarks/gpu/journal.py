"""What was measured so far, row by row, and lines of a process that may hang.

A machine may be taken away in the middle of a section, whose files are written at its end: what it
had measured by then is in ``journal.jsonl``, a line of JSON for each row.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_at: list[tuple[Path, str]] = []


def begin(path: Path, section: str) -> None:
    """From here on rows are of that section, and go to that file."""
    _at[:] = [(path, section)]


def note(row: dict[str, Any]) -> None:
    """Keep a row; nothing where no journal was begun."""
    for path, section in _at:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": section, "row": row}) + "\n")


def lines(stream: IO[Any], end: float, silence: float) -> Iterator[Any]:
    """Lines as they come, until the stream, the time or ``silence`` seconds without one are over.

    ``end`` is a time of ``time.monotonic``. Whoever reads on must ask the process why it ended.
    """
    waiting: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in stream:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=max(0.0, min(end - time.monotonic(), silence)))
        except queue.Empty:
            return
        if line is None:
            return
        yield line
