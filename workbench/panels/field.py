"""A line to type in that hands on what was typed after it was closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from textual import events
from textual.widgets import Input

Special = Callable[[str], Awaitable[bool]]
"""Takes a key; says whether it was one that the field's owner handles."""


class Field(Input):
    """An input whose owner takes its special keys, in the order in which they were typed.

    Keys that were on their way when one of them closed the field go to the new focus.
    """

    def __init__(self, special: Special, *, placeholder: str = "", id: str | None = None) -> None:
        super().__init__(
            placeholder=placeholder, compact=True, select_on_focus=True, id=id, classes="field"
        )
        self._special = special

    async def on_key(self, event: events.Key) -> None:
        """Before the input itself sees the key."""
        if self.screen.focused is not self:
            event.stop()
            event.prevent_default()
            self.app.post_message(events.Key(event.key, event.character))
        elif await self._special(event.key):
            event.stop()
            event.prevent_default()
