"""The actions of the charts: a part of the table of commands."""

from __future__ import annotations

from memwb.engine.memory import CATEGORIES
from memwb.workbench.command import Command

CHARTS = ("memory", "loss")

CHART_COMMANDS = (
    Command(
        "zoom_in",
        "plus,equals_sign",
        "zoom(2)",
        "zoom in",
        "See half as much of the chart, around its cursor. The wheel does it at the mouse.",
        where=CHARTS,
    ),
    Command(
        "zoom_out",
        "minus",
        "zoom(0.5)",
        "zoom out",
        "See twice as much of the chart, around its cursor.",
        where=CHARTS,
    ),
    Command(
        "zoom_off",
        "0",
        "show_all",
        "the whole chart",
        "See all of the chart; once that is seen, every band of it again.",
        where=CHARTS,
    ),
    Command(
        "pan_back",
        "less_than_sign",
        "pan(-1)",
        "pan to earlier",
        "Of a chart that is zoomed, see what is before. Dragging and shift with the wheel do it.",
        where=CHARTS,
    ),
    Command(
        "pan_on",
        "greater_than_sign",
        "pan(1)",
        "pan to later",
        "Of a chart that is zoomed, see what comes after.",
        where=CHARTS,
    ),
    *(
        Command(
            f"band_{category}",
            category[0].upper(),
            f"band('{category}')",
            f"hide or show {category}",
            f"Draw the memory chart without {category}, or with it; so does its name in the "
            "legend. What is left gets the whole height.",
            where=("memory",),
        )
        for category in CATEGORIES
    ),
    Command(
        "cursor_peak",
        "k",
        "travel('peak')",
        "cursor to the peak",
        "Of the memory chart, the moment of the most allocated bytes.",
        where=("memory",),
    ),
    *(
        Command(
            f"{place}_{side}",
            keys,
            f"travel('{place}', {way})",
            f"cursor to the {place} {side}",
            f"Of the memory chart, where the {place} {side} the cursor's begins.",
            where=("memory",),
        )
        for place, side, way, keys in (
            ("phase", "before", -1, "comma,shift+left"),
            ("phase", "after", 1, "full_stop,shift+right"),
            ("step", "before", -1, "left_square_bracket"),
            ("step", "after", 1, "right_square_bracket"),
        )
    ),
)
