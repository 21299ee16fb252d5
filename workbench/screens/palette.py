"""The command palette."""

from __future__ import annotations

from textual.command import CommandList, CommandPalette


class Palette(CommandPalette):
    """Textual's, which passes keys on to a list that may not be laid out yet."""

    def _action_command_list(self, action: str) -> None:
        if self.query_one(CommandList).virtual_size.height:
            super()._action_command_list(action)
