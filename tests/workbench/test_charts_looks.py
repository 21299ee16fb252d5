"""The lines and words of charts can be read in every theme."""

from __future__ import annotations

import pytest
from rich.style import Style
from textual.app import App, ComposeResult
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from memwb.workbench.charts.canvas import STYLES
from memwb.workbench.charts.lines import ROLES, LineChart
from memwb.workbench.charts.looks import FAINT, RULE, TEXT, contrast, legible, looks
from memwb.workbench.charts.plot import OVERLAYS
from memwb.workbench.charts.stacked import StackedChart

THEMES = sorted(name for name, theme in BUILTIN_THEMES.items() if not theme.ansi)


class Charts(App[None]):
    """Both charts and nothing else."""

    def compose(self) -> ComposeResult:
        yield StackedChart()
        yield LineChart()


def test_contrast_is_that_of_wcag() -> None:
    black, white = Color(0, 0, 0), Color(255, 255, 255)
    assert contrast(black, white) == contrast(white, black) == 21
    assert contrast(white, white) == 1
    # The grey that is just dark enough for text on white.
    assert contrast(Color.parse("#767676"), white) >= 4.5 > contrast(Color.parse("#777777"), white)


def test_what_can_be_read_keeps_its_colour_and_what_cannot_its_other_looks() -> None:
    ground = Style(bgcolor="#ffffff")
    fine = Style(color="#005500", bold=True)
    assert legible(fine, ground, TEXT) is fine
    pale = legible(Style(color="#ffa62b", bold=True), ground, TEXT)
    assert pale.bold and pale.color is not None and pale.color.triplet is not None
    red, green, blue = pale.color.triplet
    assert red > green > blue, "still orange"
    own = Style(color="yellow")
    assert legible(own, ground, TEXT) is own, "the terminal's own"


async def test_lines_and_words_can_be_read_and_told_apart_in_every_theme() -> None:
    app = Charts()
    async with app.run_test() as pilot:
        for theme in THEMES:
            app.theme = theme
            await pilot.pause()
            for kind, prefix, roles, told in (
                (StackedChart, "stacked-chart", STYLES, ("overlay", "overlay-2", "overlay-3")),
                (LineChart, "line-chart", ROLES, ("line", *OVERLAYS[:3])),
            ):
                chart = app.query_one(kind)
                ground = chart.rich_style.bgcolor
                assert ground is not None and ground.triplet is not None
                found = {}
                for role, style in looks(chart, prefix, roles).items():
                    assert style.color is not None and style.color.triplet is not None
                    found[role] = Color(*style.color.triplet)
                    reached = contrast(found[role], Color(*ground.triplet))
                    # To the nearest of 256 levels of each colour.
                    least = RULE if role in FAINT else TEXT
                    assert reached >= least - 0.05, f"{theme}: {prefix}--{role} {reached:.2f}"
                colours = [found[role] for role in told]
                assert len(set(colours)) == len(colours), f"{theme}: {prefix} {colours}"


@pytest.mark.parametrize("theme", THEMES)
def test_there_is_a_colour_to_read_on_every_ground(theme: str) -> None:
    background = BUILTIN_THEMES[theme].to_color_system().generate()["background"]
    ground = Style(bgcolor=background)
    for level in range(0, 256, 51):
        style = legible(Style(color=Color(level, level, level).rich_color), ground, TEXT)
        assert style.color is not None and style.color.triplet is not None
        reached = contrast(Color(*style.color.triplet), Color.parse(background))
        assert reached >= TEXT - 0.05
