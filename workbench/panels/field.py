"""A line to type in whose closing keys wait for the letters typed before them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

PATIENCE = 0.5


class Field(Input):
    """An input within a panel. Its owner binds the keys that close it, with priority.

    Keys with priority are acted on at once and in order, letters when the field gets to them;
    so the owner awaits ``settled`` before it reads the value.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+u", "empty", "empty", show=False, priority=True),
        Binding("f1", "explain", "help", show=False, priority=True),
    ]

    def __init__(self, value: str = "", *, placeholder: str = "", id: str | None = None) -> None:
        super().__init__(
            value,
            placeholder=placeholder,
            compact=True,
            select_on_focus=True,
            id=id,
            classes="field",
        )

    async def action_empty(self) -> None:
        """Delete what stands left of the cursor, the letters on their way included."""
        await self.settled()
        self.action_delete_left_all()

    def action_explain(self) -> None:
        """The help on what is typed: that of the screen, in which a question mark is text."""
        screen: Any = self.screen
        screen.action_explain()

    async def settled(self) -> None:
        """Until every letter that was typed so far is in the value."""
        done = asyncio.Event()
        self.call_later(done.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), PATIENCE)
