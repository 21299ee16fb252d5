"""What a key or the palette can reach: one action."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True):
    """One action: its id in a keymap, its keys, its name and what it does."""

    id: str
    keys: str
    action: str
    title: str
    help: str
    palette: bool = True
    where: tuple[str, ...] = ()
    """The panels in which its keys act; empty: in all of them."""
