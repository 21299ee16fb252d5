"""What a person says of a run: its name, a note, and whether it is the pinned baseline.

It stands in a small file of its own in the run's folder, so that the summary stays the burst's
alone, and is read, changed and replaced under a lock on the folder: two workbenches on one folder
of runs lose nothing of each other's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.errors import MemwbError

REMARKS = "remarks.json"
LONGEST = {"name": 100, "note": 10_000}
"""Characters that a name and a note may have."""
LIST = "See `memwb runs list`."


class Remarks(msgspec.Struct, frozen=True):
    """What was said of a run; empty where nothing was."""

    name: str = ""
    note: str = ""
    pinned: str = ""
    """When it was made the baseline: ISO 8601, UTC. The one pinned last is the baseline."""


def read_remarks(folder: Path | str) -> Remarks:
    """The remarks in a run's folder. One that cannot be read says nothing."""
    try:
        return msgspec.json.decode((Path(folder) / REMARKS).read_bytes(), type=Remarks)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Remarks()


def rename(folder: Path | str, name: str) -> None:
    """Give a run a name; an empty one gives back the name that it was recorded with.

    Raises MemwbError when that is no name, or when it cannot be kept.
    """
    _change(folder, name=checked_name(name))


def checked_name(name: str) -> str:
    """A name as it is kept: one line that a terminal can bear. Raises MemwbError."""
    return _checked("name", name.strip(" "))


def annotate(folder: Path | str, note: str) -> None:
    """Put a note down, of one line or many; an empty one takes it away. Raises MemwbError."""
    lines = note.replace("\r\n", "\n").rstrip()
    _change(folder, note=_checked("note", lines, but="\n\t"))


def pin(folder: Path | str) -> str:
    """Make a run the baseline and return from when on. Raises MemwbError when it cannot be kept."""
    moment = datetime.now(UTC).isoformat(timespec="microseconds")
    _change(folder, pinned=moment)
    return moment


def unpin(folder: Path | str) -> None:
    """It is the baseline no longer. Raises MemwbError when that cannot be kept."""
    _change(folder, pinned="")


def _checked(what: str, text: str, but: str = "") -> str:
    """The text, if a terminal and a file can bear it. Raises MemwbError."""
    import unicodedata

    # Cc moves cursors and rings bells, Cs is no text at all; what joins letters and emoji is Cf.
    wrong = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in but), "")
    if wrong:
        raise MemwbError(
            f"That cannot be a run's {what}",
            f"it contains the control character {wrong!a}",
            f"Give a {what} of printable characters"
            + (" and line ends." if "\n" in but else ", on one line."),
        )
    if len(text) > LONGEST[what]:
        raise MemwbError(
            f"The {what} is too long",
            f"{len(text):,} characters, and {LONGEST[what]:,} at most are kept",
            "Give a shorter one." if what == "note" else "Put the rest into a note.",
        )
    return text


def _change(folder: Path | str, **said: str) -> None:
    """Change some of the remarks and leave the others, and what a later version may have added."""
    file = Path(folder) / REMARKS
    part = file.with_name(f".{REMARKS}.{os.getpid()}.part")
    try:
        with _alone(file.parent):
            found = {**_raw(file), **said}
            if not any(found.values()):
                file.unlink(missing_ok=True)
                return
            part.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
            os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        gone = isinstance(error, FileNotFoundError)
        raise MemwbError(
            "The run is not there any more" if gone else "That cannot be kept with the run",
            f"{error.filename or folder}: {error.strerror}",
            LIST if gone else "Make room there, or make the folder writable.",
        ) from None


def _raw(file: Path) -> dict[str, Any]:
    try:
        msgspec.json.decode(content := file.read_bytes(), type=Remarks)
        found: dict[str, Any] = msgspec.json.decode(content)
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MemwbError(
            "What was said of the run cannot be read",
            f"{file}: {error}",
            "Mend or delete the file.",
        ) from None
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes the folder's remarks meanwhile; the system frees it if we die."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    # The folder itself is locked: a lock file beside it would be one more file to explain.
    held = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks (some network ones) still takes the remarks.
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
