"""The command palette."""

from __future__ import annotations

from textual import events
from textual.command import CommandList, CommandPalette, SearchIcon


class Palette(CommandPalette):
    """Textual's, which passes keys on to a list that may have no room, or not yet."""

    DEFAULT_CSS = """
    Palette SearchIcon { color: $text-accent; }
    """

    def on_mount(self, event: events.Mount) -> None:
        """A mark that every terminal's font has, where Textual has a picture."""
        if not self.children:  # the workbench was left meanwhile: nor is there a list to fill
            event.prevent_default()
            return
        self.query_one(SearchIcon).icon = "›"

    def _action_command_list(self, action: str) -> None:
        # Textual counts no lines where there is no room for one.
        if self.query_one(CommandList).scrollable_content_region:
            super()._action_command_list(action)
