"""The plan at the size of a small terminal: what a key brings about is seen, and in place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from textual.widgets import Input, Static

from memwb.engine.plan import Plan, override
from memwb.engine.technique import GROUPS, techniques
from memwb.workbench import library
from memwb.workbench.panels import plan_rows, texts, values
from memwb.workbench.panels.rows import SAID

SMALL, MIDDLE, LARGE = (80, 24), (120, 40), (200, 50)


def rows(app: Any) -> Any:
    return app.main.plan_panel.rows


def text(row: Any) -> str:
    return "".join(piece for piece, _ in row.left)


def plan_of(*names: str) -> Plan:
    plan = Plan(model="tiny")
    for name in names:
        plan = override(plan, f"{name}=on")
    return plan


def seen(app: Any) -> list[str]:
    top = int(rows(app).scroll_offset.y)
    return [row.id for row in rows(app).rows[top : top + rows(app).size.height]]


MANY = ("attention", "quantize_4bit", "lora", "gradient_clipping")


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_a_value_is_edited_on_its_own_row_with_its_hint(bench: Any, size: Any) -> None:
    app = bench(plan=plan_of(*MANY))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        panel = app.main.plan_panel
        found = [row.id for row in rows(app).rows if row.id.startswith("value:")]
        rows(app).select(found[0])
        await pilot.press("enter")
        for value in found:
            await pilot.pause()
            editor = panel.query_one("Editor")
            assert value == f"value:{editor.path}"
            field = editor.query_one(Input).region
            line = rows(app).line_of(value)
            assert 0 <= line < rows(app).size.height
            assert field.y == rows(app).region.y + line, value
            assert panel.content_region.contains_region(editor.region), value
            told = [line for row, line in on_screen(app) if row == SAID]
            hint = "".join("".join(told).split())
            whole = "".join(values.hint(panel.plan, editor.path, panel.device).split())
            assert hint and (hint == whole or hint.endswith("…"))
            assert len(told) <= 5, "as wide as the panel: 9 under the field"
            await pilot.press("tab")


def on_screen(app: Any) -> list[tuple[str, str]]:
    """The id and the text of each line of the list that is seen."""
    top = int(rows(app).scroll_offset.y)
    lines = rows(app).rows[top : top + rows(app).size.height]
    return [(row.id, text(row)) for row in lines]


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE, (60, 12), (36, 9)])
async def test_what_is_said_of_a_value_hides_no_row(bench: Any, size: Any) -> None:
    app = bench(plan=plan_of(*MANY))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        found = [row.id for row in rows(app).rows if row.id.startswith("value:")]
        for value in (found[0], found[len(found) // 2], found[-1]):
            rows(app).select(value)
            await pilot.pause()
            before, all_before = on_screen(app), list(rows(app).rows)
            await pilot.press("enter")
            await pilot.pause()
            editor = app.main.query_one("Editor")
            for typed in ("", "x"):
                await pilot.press(*typed)
                await pilot.pause()
                first = editor.query_one(Input).region.y - rows(app).region.y
                seen_now = on_screen(app)
                assert seen_now[first][0] == value
                said = [row for row in rows(app).rows if row.id == SAID]
                last = first + 1 + len(said)
                assert said and last <= rows(app).size.height, "all of it is in sight"
                assert seen_now[first + 1 : last] == [(SAID, text(row)) for row in said]
                assert [row for row in rows(app).rows if row.id != SAID] == all_before
            await pilot.press("escape")
            await pilot.pause()
            assert on_screen(app) == before and rows(app).rows == all_before


@pytest.mark.parametrize("name", ["lora", "galore", "quantize_4bit", "gradient_clipping"])
async def test_what_a_toggle_brings_about_is_in_view(bench: Any, name: str) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        rows(app).select(f"technique:{name}")
        await pilot.press("space")
        await pilot.pause()
        mine = [r.id for r in rows(app).rows if name in re.split(r"[:.]", r.id)]
        assert len(mine) > 1 and [each for each in seen(app) if each in mine] == mine


async def test_the_footer_offers_to_mend_and_says_what_was_done(bench: Any) -> None:
    app = bench(plan=plan_of("quantize_4bit"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        footer = app.main.query_one("#footer")
        assert " f mend " in footer.render().plain
        await pilot.press("f")
        await pilot.pause()
        assert "lora" in app.session.plan.techniques
        assert any("Turned LoRA on" in str(told.message) for told in app._notifications)
        while app.main.plan_panel.found:
            await pilot.press("f")
        await pilot.pause()
        assert "mend" not in footer.render().plain


async def test_a_refusal_speaks_as_the_plan_does_and_goes_with_an_edit(bench: Any) -> None:
    app = bench(plan=plan_of("quantize_4bit"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        await pilot.press("r")
        await pilot.pause()
        notice = app.main.notice
        told = notice.render().plain
        assert "4-bit base: needs LoRA" in told and "f  Turn LoRA on." in told
        assert "$." not in told and "-o" not in told
        await pilot.press("f")
        await pilot.pause()
        assert not notice.display
        app.main.tell("error", "Out of memory")
        await pilot.press("u")
        assert notice.display, "only what was said of the plan goes with it"


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE, (60, 12)])
async def test_a_toast_covers_no_tab_no_row_no_notice(bench: Any, waiting: Any, size: Any) -> None:
    app = bench(plan=plan_of("quantize_4bit"))
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.pause()
        await pilot.press("r")
        app.notify("There is nothing to be undone.")
        await waiting(pilot, lambda: app.screen.query("Toast"))
        await waiting(pilot, lambda: app.screen.query_one("Toast").region.area)
        toast = app.screen.query_one("Toast").region
        assert toast.right >= size[0] - 2 and toast.height == 1
        for part in ("#header", "#tabs", "#notice", "#footer", "#plan-rows"):
            assert not toast.overlaps(app.main.query_one(part).region), part


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_notes_are_wrapped_to_what_is_seen_of_them(bench: Any, size: Any) -> None:
    app = bench(plan=plan_of("lora", "adamw_8bit", "optimizer_in_backward", "tf32"))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        # Short enough for no scrollbar, then long enough for one.
        for _ in range(2):
            for group in GROUPS:
                app.fold(group.name)
            await pilot.pause()
        assert rows(app).show_vertical_scrollbar
        width, notes = rows(app).scrollable_content_region.width, 0
        for row in rows(app).rows:
            if row.id.startswith("note:technique:"):
                notes += 1
                assert len(text(row)) <= width
        assert notes > 1


async def test_all_groups_fold_and_unfold(bench: Any) -> None:
    app = bench(plan=plan_of("lora", "quantize_4bit", "amp_bf16"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        rows(app).select("value:techniques.lora.alpha")
        await pilot.press("z")
        await pilot.pause()
        shown = {row.id: text(row) for row in rows(app).rows}
        assert len(shown) == len(GROUPS) + 2
        assert rows(app).current.id == "group:adapters" and "LoRA" in shown["group:adapters"]
        app.change_plan(plan_of("quantize_4bit"))
        await pilot.pause()
        assert any("✗ 4-bit" in text(row) for row in rows(app).rows)
        await pilot.press("z")
        assert len(rows(app).rows) > 40 and app.session.folded == ()
        await pilot.press("?")
        await pilot.pause()


async def test_the_cursor_goes_to_the_technique_of_a_parameter_that_is_gone(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        rows(app).select("technique:lora")
        await pilot.press("space", "down", "down", "u")
        assert rows(app).current.id == "technique:lora"


def test_every_row_says_what_it_means() -> None:
    plan = plan_of(*MANY)
    for row in plan_rows.plan_rows(plan, {}):
        if row.selectable and not row.id.startswith(("technique:", "value:techniques.")):
            assert len(texts.about_row(row.id, {}, None).plain.split()) > 1, row.id


def filtered(wanted: str, *names: str) -> list[str]:
    found = plan_rows.plan_rows(plan_of(*names), {}, wanted=wanted)
    assert not any(row.selectable for row in found if row.id.startswith("group:")), "nothing folds"
    return [row.id for row in found if row.id and not row.id.startswith("note:")]


def test_a_filter_keeps_what_contains_the_text_and_nothing_else() -> None:
    assert filtered("output", "lora") == [
        "group:adapters",
        "technique:lora",
        "value:techniques.lora.output_layer",
    ]
    assert filtered("tech") == []
    params = techniques()["lora"].params.__struct_fields__
    assert [r for r in filtered("lora", "lora") if r.startswith("value:")] == [
        f"value:techniques.lora.{name}" for name in params
    ]
    assert "technique:chunked_cross_entropy" in filtered("cross_ent"), "its name in a plan"
    assert filtered("batch_size") == ["group:workload", "value:workload.batch_size"]
    assert {"technique:lora", "technique:ia3"} <= set(filtered("adapters")), "a group's title"


async def test_a_kept_filter_says_how_it_is_cleared(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press(*"adam", "enter")
        await pilot.pause()
        line = app.main.query_one("#kept")
        assert line.region.area
        assert "/adam" in line.render().plain and "esc clears" in line.render().plain
        await pilot.press("escape")
        await pilot.pause()
        assert not line.display and len(rows(app).rows) > 40


async def test_the_device_is_known_before_the_engine_answers(bench: Any, waiting: Any) -> None:
    app = bench(plan=Plan(model="tiny"), ready=False)
    async with app.run_test(size=SMALL) as pilot:
        await waiting(pilot, lambda: app.main.plan_panel.device)
        assert app.engine_state == "starting"
        assert app.main.plan_panel.device == library.assumed_device()
        app.change_plan(plan_of("lora"))
        assert app.main.plan_panel.device is not None


async def test_what_is_filled_in_above_does_not_push_the_list_away(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        rows(app).select("technique:gradient_clipping")
        before = rows(app).line_of("technique:gradient_clipping")
        app.change_plan(plan_of("lora"))
        await pilot.pause()
        assert rows(app).line_of("technique:gradient_clipping") == before


async def test_enter_edits_and_never_switches_what_has_no_parameters(bench: Any) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        before = app.session.plan
        rows(app).select("technique:checkpoint_offload")
        await pilot.press("enter")
        await pilot.pause()
        assert app.session.plan == before
        assert any("no parameters" in str(told.message) for told in app._notifications)


@pytest.mark.parametrize(
    "path,typed,told",
    [
        ("workload.learning_rate", "", "give a number"),
        ("workload.steps", "1.5", "give a whole number"),
        ("techniques.lora.dora", "perhaps", "give true or false"),
    ],
)
async def test_a_value_of_another_kind_is_told_in_words(
    bench: Any, path: str, typed: str, told: str
) -> None:
    app = bench(plan=plan_of("lora"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        assert values.wrong(app.session.plan, path, typed) == told


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("name", ["lora", "galore", "paged_adamw_8bit"])
async def test_help_keeps_labels_in_a_column_and_bytes_before_parameters(
    bench: Any, waiting: Any, name: str, size: Any
) -> None:
    app = bench(plan=plan_of("quantize_4bit"))
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.main.plan_panel.config)
        rows(app).select(f"technique:{name}")
        await pilot.press("question_mark")
        await pilot.pause(0.1)
        page = app.screen.query_one("Page")
        lines = str(page.render()).splitlines()
        assert page.size.height == len(lines), "nothing is wrapped a second time"
        labels = [item for item in techniques()[name].params.__struct_fields__]
        starts = {
            line.index(line[len(label) :].split()[0], len(label))
            for label in labels
            for line in lines
            if line.startswith(f"{label} ")
        }
        assert len(starts) == 1
        box = app.screen.query_one(".dialog").region
        assert (box.height == size[1]) == (size == SMALL), "every line counts there"
        heads = [line for line in lines if line.startswith(("Bytes by", "Parameters ("))]
        assert [head[:5] for head in heads] == ["Bytes", "Param"]


@pytest.mark.parametrize("names,merges", [(("lora",), True), ((), False)])
async def test_export_names_its_keys_in_a_small_terminal(
    bench: Any, waiting: Any, names: tuple[str, ...], merges: bool
) -> None:
    app = bench(plan=plan_of(*names))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("e")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._script)
        keys = app.screen.query_one("#export-keys").render().plain
        assert "esc leave" in keys and ("merge" in keys) == merges
        assert "--output" in str(app.screen.query_one("#launch").render())


@pytest.mark.parametrize("size", [(120, 40), (120, 46), (200, 50)])
async def test_what_is_told_of_a_technique_is_told_whole(
    bench: Any, waiting: Any, forecast: Any, size: tuple[int, int]
) -> None:
    app = bench(plan=Plan(model="tiny"), forecast=forecast())
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        about = app.main.plan_panel.query_one("#about", Static)
        for name in techniques():
            rows(app).select(f"technique:{name}")
            await pilot.pause()
            needed = about.visual.get_height(about.styles, about.content_size.width)
            assert needed <= about.content_size.height, name
