"""Folders that are read again only when one of their files is another by now."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_read: dict[str, tuple[object, Any]] = {}


def reread(
    folders: Sequence[str],
    files: Sequence[str],
    read: Callable[[str], T],
    stands: Callable[[T], bool],
) -> list[T]:
    """What ``read`` makes of each folder, in their order.

    What ``stands`` is taken as it was the last time while ``files`` are the same; all else is
    read, and what is of none of these folders is forgotten.
    """
    global _read
    before, found, kept = _read, [], {}
    for folder in folders:
        # Looked at before they are read: what changes meanwhile is seen the next time.
        state = [_state(f"{folder}/{file}") for file in files]
        known = before.get(folder)
        if known is None or known[0] != state:
            known = (state, read(folder))
        if stands(known[1]):
            kept[folder] = known
        found.append(known[1])
    _read = kept
    return found


def _state(file: str) -> tuple[int, int, int] | None:
    """What tells a file from one that takes its place; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
