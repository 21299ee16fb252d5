"""Colours of a chart's lines and words: a theme's own, as far as they can be read on its ground."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from rich.style import Style
from textual.color import Color
from textual.widget import Widget

from memwb.workbench.charts.palette import BANDS, Palette, palette

TEXT = 4.5
"""The least contrast of words to their ground, and of lines that have to be told apart.

WCAG 2.2, success criterion 1.4.3 (AA).
"""
RULE = 3.0
"""That of an axis and of what is of an earlier plan: 1.4.11, of graphics."""
FAINT = ("axis", "stale")
STEPS = 50


def looks(widget: Widget, prefix: str, roles: Iterable[str]) -> dict[str, Style]:
    """The styles of a widget's component classes by role, legible on the widget's ground."""
    ground = widget.rich_style
    return {
        role: legible(
            widget.get_component_rich_style(f"{prefix}--{role}"),
            ground,
            RULE if role in FAINT else TEXT,
        )
        for role in roles
    }


def bands(widget: Widget, faint: bool) -> Palette:
    """The looks of the bands in the app's theme, on the widget's ground."""
    app, ground = widget.app, widget.rich_style.bgcolor
    return palette(
        dark=app.current_theme.dark,
        ansi=app.native_ansi_color,
        colours=not app.no_color,
        ground=ground.name if ground else "default",
        faint=faint,
    )


def band_colours(widget: Widget) -> dict[str, str]:
    """The colours of the categories as markup has them; empty without colours."""
    found = zip(BANDS, bands(widget, False).colours, strict=False)
    return {name: one if one.startswith("#") else f"ansi_{one}" for name, one in found}


@functools.cache
def legible(style: Style, ground: Style, least: float) -> Style:
    """The style with its colour moved towards black or white until it has that contrast.

    A terminal's own colours, of which nothing is known, stay what they are.
    """
    front, back = style.color, ground.bgcolor
    if front is None or back is None or front.triplet is None or back.triplet is None:
        return style
    here, there = Color(*front.triplet), Color(*back.triplet)
    end = max((Color(0, 0, 0), Color(255, 255, 255)), key=lambda each: contrast(each, there))
    tried = (here.blend(end, step / STEPS) for step in range(STEPS + 1))
    found = next((each for each in tried if contrast(each, there) >= least), end)
    return style if found == here else style + Style(color=found.rich_color)


def contrast(one: Color, other: Color) -> float:
    """The contrast of two colours, from 1 to 21, as WCAG 2.2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: Color) -> float:
    """How bright a colour is, from 0 to 1: WCAG 2.2's relative luminance."""
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4
        for each in colour.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
