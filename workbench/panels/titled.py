"""A panel whose titles change while a burst streams into it."""

from __future__ import annotations

from typing import Any, Self

from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region

Title = Content | str


class Titled(Vertical):
    """Textual draws all of a panel again when a title is set, whatever is in it: of this one only
    the edges, where the titles stand."""

    _entitling = False
    _titles: tuple[Title, Title] | None = None

    def entitle(self, title: Title, subtitle: Title) -> None:
        """Put these on the upper and on the lower edge, unless they stand there."""
        if self._titles == (title, subtitle):
            return
        self._titles, self._entitling = (title, subtitle), True
        self.border_title, self.border_subtitle = title, subtitle
        self._entitling = False

    def refresh(self, *regions: Region, **how: Any) -> Self:
        """Draw all of it again, or parts."""
        if self._entitling:
            width, height = self.outer_size
            x, y = self.content_offset
            regions = (Region(-x, -y, width, 1), Region(-x, height - 1 - y, width, 1))
        return super().refresh(*regions, **how)
