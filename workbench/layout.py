"""Which panels are seen, by the size of the terminal and the one in front."""

from __future__ import annotations

from memwb.workbench.state import Session

PANELS = {"plan": "Plan", "memory": "Memory", "loss": "Loss", "peak": "Peak", "runs": "Runs"}
"""The panels in their order, and their titles."""
NARROW = 100
"""Below this width, or below SHORT lines, one panel is shown at a time."""
SHORT = 30
WIDE = 160
HIGH, TALL = 36, 46
"""From this height on the plan says in a sentence what the row at the cursor is; and in some."""


def classes(width: int, height: int, session: Session) -> dict[str, bool]:
    """The classes of the main screen, and whether it has each."""
    narrow = width < NARROW or height < SHORT
    return {
        "-narrow": narrow,
        "-single": narrow or session.maximised,
        "-wide": width >= WIDE,
        "-tall": height >= TALL,
        "-high": HIGH <= height < TALL and not narrow and not session.maximised,
        **{f"tab-{name}": session.tab == name for name in PANELS},
    }
