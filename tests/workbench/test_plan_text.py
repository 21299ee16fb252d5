"""The plan as TOML: it comes back as it went, and what is wrong is told where it stands."""

from __future__ import annotations

from typing import Any

import pytest
from textual.widgets import TextArea

from memwb.engine.plan import Plan, override, parse_plan, plan_toml
from memwb.workbench import toml_text
from memwb.workbench.screens import plan_text


def plan_of(*texts: str) -> Plan:
    plan = Plan(model="tiny")
    for text in texts:
        plan = override(plan, text)
    return plan


def said(app: Any) -> str:
    return str(app.screen.query_one(".said").render())


async def test_the_text_is_applied_once_it_is_a_plan_and_comes_back_with_its_comments(
    bench: Any,
) -> None:
    began = plan_of("lora=on", "quantize_4bit=on")
    app = bench(plan=began)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("v")
        await pilot.pause()
        area = app.screen.query_one(TextArea)
        assert area.text == plan_toml(began) and area.has_focus
        await pilot.press("ctrl+t")
        assert app.clipboard == area.text
        wrong = area.text.replace("rank = 16", "rank = 0")
        area.text = wrong
        await pilot.pause()
        line = next(at for at, one in enumerate(wrong.splitlines(), 1) if "rank" in one)
        assert said(app).startswith(f"✗ line {line}: $.techniques.lora.rank: expected")
        await pilot.press("ctrl+s")
        assert app.screen.query_one(TextArea).text == wrong
        assert area.cursor_location == (line - 1, 0) and app.session.plan == began
        await pilot.press("escape")
        assert "not applied" in said(app)
        area.text = "# mine\n" + wrong.replace("rank = 0", "rank = 4 # few") + "["
        await pilot.pause()
        last = len(area.text.splitlines())
        assert said(app).startswith(f"✗ line {last}: Invalid")
        area.text = area.text.removesuffix("[")
        await pilot.pause()
        assert said(app) == "✓ rank 16 → 4"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.session.plan == plan_of("lora.rank=4", "quantize_4bit=on")
        assert list(app.session.plan.techniques) == ["lora", "quantize_4bit"], "the order is kept"
        assert app.main.plan_panel.rows.current.id == "value:techniques.lora.rank"
        await pilot.press("u")
        assert app.session.plan == began
    app = bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("v")
        await pilot.pause()
        text = app.screen.query_one(TextArea).text
        assert "# mine" in text and "rank = 16 # few" in text and parse_plan(text) == began
        await pilot.press("escape")
        assert app.screen is app.main, "nothing was changed, so nothing is asked"


def test_a_text_that_is_the_plan_still_comes_back_as_it_was_typed() -> None:
    typed = 'model = "tiny" # short\ntechniques.lora = {}\n'
    assert plan_text.written(parse_plan(typed), typed) == typed
    changed = override(parse_plan(typed), "steps=3")
    assert parse_plan(plan_text.written(changed, typed)) == changed
    assert "# short" in plan_text.written(changed, typed)
    assert plan_text.written(changed, "[techniques.gone]") == plan_toml(changed)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("model", 0),
        ("workload.steps", 3),
        ("workload.none", 2),
        ("techniques.lora.rank", 6),
        ("techniques.lora.none", 5),
        ("none", None),
    ],
)
def test_a_path_is_found_where_it_is_written(path: str, line: int | None) -> None:
    text = 'model = "tiny"\n\n[workload]\nsteps = 2\n\n[techniques.lora]\nrank = 3 # steps = 4\n'
    found = toml_text.find(text, path)
    assert (found[0] if found else None) == line


def test_the_parts_of_a_line() -> None:
    def told(line: str) -> list[tuple[str, str]]:
        return [(line[start:end], part) for start, end, part in toml_text.parts(line)]

    assert told("[workload] # so") == [("[workload] ", "table"), ("# so", "comment")]
    assert told('data = "a # b" # c') == [
        ("data", "key"),
        ('"a # b"', "text"),
        ("# c", "comment"),
    ]
    assert told("x = [1e-3, true]") == [("x", "key"), ("1e-3", "value"), ("true", "value")]
