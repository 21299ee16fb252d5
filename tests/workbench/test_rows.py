"""Lists of rows: what a line shows, and the cursor without colours of our own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult

from memwb.engine import presets as stored
from memwb.engine.plan import Plan, override
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.preset_texts import goal
from memwb.workbench.units import name, parameters


class Listed(App[None]):
    """Two rows and nothing else."""

    def compose(self) -> ComposeResult:
        spans = ((" on ", "on"), ("two\nlines\tand \x1b[31m more", "muted"), (" now", "accent"))
        yield Rows([Row("a", spans, ((" 1 ", "value"),)), Row("b", spans)])


def lines(app: App[None]) -> list[Any]:
    return app.screen._compositor.render_strips()


async def test_a_row_is_one_line_whatever_it_holds() -> None:
    app = Listed()
    async with app.run_test(size=(60, 4)) as pilot:
        await pilot.pause()
        for line in lines(app):
            assert line.text.isprintable() and len(line.text) == 60
        assert "two lines and  [31m more now" in lines(app)[0].text


@pytest.mark.parametrize("how", ["ansi-dark", "ansi-light", "NO_COLOR"])
async def test_without_blended_colours_the_cursor_is_one_reversed_bar(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    app = Listed()
    async with app.run_test(size=(60, 4)) as pilot:
        if how != "NO_COLOR":
            app.theme = how
        app.query_one(Rows).focus()
        await pilot.pause()
        here, other = ([piece for piece in line if piece.text] for line in lines(app)[:2])
        assert len({piece.style for piece in here}) == 1
        assert here[0].style.reverse
        assert len({piece.style for piece in other}) > 1


@pytest.mark.parametrize("model", ["tiny", "/a/folder" * 5, "/模型/" * 9, "模" * 24])
def test_a_model_s_name_fills_no_more_columns_than_it_has(model: str) -> None:
    told = name(model, 24)
    assert cell_len(told) <= 24 and (told == model or (cell_len(told) > 22 and told[0] == "…"))


def test_a_preset_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '# Goal: hold a run\n# against another.\n#\n# Change first: it.\nmodel = "tiny"\n'
    )
    assert goal(file) == "hold a run against another."
    for file in stored.presets().values():
        assert goal(file).isprintable() and not goal(file).startswith("Goal")


def test_a_preset_without_a_comment_is_told_by_what_it_holds() -> None:
    plan = override(override(Plan(model="tiny"), "lora=on"), "sgd=on")
    assert goal(stored.save_preset("mine", plan)) == "tiny: lora + sgd"


def test_a_preset_is_readable_as_the_umask_says() -> None:
    before = os.umask(0o022)
    try:
        file = stored.save_preset("mine", Plan(model="tiny"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "count,told",
    [
        (2_460_096, "2.5 M"),
        (99_960_000, "100 M"),
        (134_515_008, "135 M"),
        (999_499_999, "999 M"),
        (999_885_952, "1.00 B"),
        (1_543_714_304, "1.54 B"),
    ],
)
def test_a_model_size_is_never_a_thousand_of_its_unit(count: int, told: str) -> None:
    assert parameters(count) == told
