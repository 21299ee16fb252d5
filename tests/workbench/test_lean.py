from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from textual.app import App, ComposeResult
from textual.drivers.headless_driver import HeadlessDriver
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from memwb.workbench.lean import LeanCompositor
from memwb.workbench.panels.titled import Titled

SIZE = (60, 12)
MOVED = re.compile(r"\x1b\[(\d+);(\d+)H")
STYLED = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def driver(written: list[str]) -> type[HeadlessDriver]:
    """A driver that keeps what goes to the terminal."""

    class Keeping(HeadlessDriver):
        @property
        def is_headless(self) -> bool:
            return False

        def write(self, data: str) -> None:
            written.append(data)

    return Keeping


def cells(written: list[str]) -> dict[tuple[int, int], str]:
    """What stands where, as a terminal reads it: later writes win."""
    found: dict[tuple[int, int], str] = {}
    for part in re.split(r"(?=\x1b\[\d+;\d+H)", "".join(written)):
        if at := MOVED.match(part):
            y, x = (int(one) - 1 for one in at.groups())
            text = STYLED.sub("", part[at.end() :])
            found |= {(x + i, y): character for i, character in enumerate(text)}
    return found


class Numbers(Widget):
    """Draws the same text in every line; the text can change."""

    text = "abcdefghij" * 6

    def render_line(self, y: int) -> Strip:
        from rich.segment import Segment

        return Strip([Segment(self.text[: self.size.width])])


class Lean(Screen[None]):
    def __init__(self) -> None:
        super().__init__()
        self._compositor = LeanCompositor()

    def compose(self) -> ComposeResult:
        yield Numbers()


class Bare(App[None]):
    def get_default_screen(self) -> Screen[None]:
        return Lean()


async def test_of_a_line_no_more_is_written_than_what_has_changed() -> None:
    written: list[str] = []
    app = Bare()
    app.driver_class = driver(written)
    app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    async with app.run_test(headless=False, size=SIZE) as pilot:
        await pilot.pause()
        written.clear()
        widget = app.screen.query_one(Numbers)
        widget.text = "0123456789" * 6
        widget.refresh(Region(33, 4, 5, 2), Region(50, 9, 10, 1))
        await pilot.pause()
    shown = cells([part for part in written if len(part) > 16])
    wanted = [(x, y) for y in (4, 5) for x in range(33, 38)] + [(x, 9) for x in range(50, 60)]
    assert sorted(at for at in shown if at[1] > 0) == sorted(wanted)
    assert all(shown[x, y] == str(x % 10) for x, y in wanted)


# The second has as many characters as cells: an accent makes up for a character of two cells.
@pytest.mark.parametrize("text", ["a模型", "e\u0301模"])
async def test_a_character_of_two_cells_is_never_cut_in_half(text: str) -> None:
    written: list[str] = []
    app = Bare()
    app.driver_class = driver(written)
    app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    async with app.run_test(headless=False, size=SIZE) as pilot:
        widget = app.screen.query_one(Numbers)
        widget.text = text * 20
        widget.refresh(layout=True)
        await pilot.pause()
        written.clear()
        widget.refresh(Region(32, 4, 5, 1))
        await pilot.pause()
    shown = STYLED.sub("", "".join(part for part in written if len(part) > 16))
    assert shown.startswith(text) and " " not in shown


async def test_the_main_screen_writes_so(bench: Any) -> None:
    app = bench("full")
    async with app.run_test(size=(80, 24)):
        assert isinstance(app.main._compositor, LeanCompositor)


@pytest.mark.parametrize("title", ["2 Memory · step 1 · backward", ""])
async def test_another_title_is_written_without_what_it_stands_over(title: str) -> None:
    class Framed(Titled):
        DEFAULT_CSS = "Framed { border: round white; }"

        def compose(self) -> ComposeResult:
            yield Numbers()

    class Panel(App[None]):
        def compose(self) -> ComposeResult:
            yield Framed()

    written: list[str] = []
    app = Panel()
    app.driver_class = driver(written)
    app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    async with app.run_test(headless=False, size=SIZE) as pilot:
        panel = app.query_one(Framed)
        panel.entitle("2 Memory", "below")
        await pilot.pause()
        written.clear()
        panel.entitle("2 Memory", "below")
        await pilot.pause()
        assert not any(len(part) > 16 for part in written), "the same title is no other"
        panel.entitle(title, "elsewhere")
        await pilot.pause()
    text = STYLED.sub("", "".join(written))
    assert "abc" not in text
    assert title in text and "elsewhere" in text and ("2 Memory" in text) == bool(title)
