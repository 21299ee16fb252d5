"""The screens that choose: models with what they need, GPUs with what fits, presets, settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.widgets import Input

from memwb.engine.memory import Alive, Large
from memwb.engine.plan import Plan, override, plan_from
from memwb.engine.presets import load_plan, presets, save_preset
from memwb.engine.protocol import AllPredicted, Event, Predict, Predicted, Unpredicted
from memwb.workbench import library
from memwb.workbench.foresight import Room
from memwb.workbench.preset_texts import differences
from memwb.workbench.screens import gpu_rows, peak_tensors, settings_keys
from memwb.workbench.settings import clashes, read_settings
from memwb.workbench.typical import TYPICAL, typical_plans

SIZE = (120, 40)
GIB = 2**30


def said(app: Any) -> str:
    return str(app.screen.query_one(".said").render())


def text_of(app: Any, query: str) -> str:
    return str(app.screen.query_one(query).render())


@pytest.fixture
def answers(forecast: Any) -> Any:
    """Any plan is predicted: LoRA small, 4-bit not at all, each for its own target."""

    def answer(question: Predict) -> Sequence[Event]:
        name, plan = question.prediction, plan_from(question.plan)
        target = question.target or "cpu"
        if "quantize_4bit" in plan.techniques and "chunked_cross_entropy" in plan.techniques:
            return [Unpredicted(name, "No prediction", "too small"), AllPredicted(name, 0.1)]
        base = 0 if "lora" in plan.techniques else 20 * GIB
        result = forecast(target, base=base)
        if target != "cpu":
            known = {one.id: one for one in library.targets()}
            arch = known[target].arch
            fits = tuple(
                msgspec.structs.replace(fit, same_kernels=known[fit.gpu].arch == arch)
                for fit in result.fits
            )
            result = msgspec.structs.replace(result, fits=fits)
        return [Predicted(name, result), AllPredicted(name, 0.1)]

    return answer


def test_the_four_typical_plans_go_from_most_to_least() -> None:
    plans = typical_plans("gpt2", load_plan("qlora").workload)
    assert list(plans) == list(TYPICAL)
    assert all(plan.model == "gpt2" for plan in plans.values())
    assert len({plan.workload for plan in plans.values()}) == 1
    assert "lora" not in plans["full bf16"].techniques
    assert {"quantize_4bit", "activation_checkpointing"} <= set(plans["QLoRA + ckpt"].techniques)


async def test_a_model_tells_what_it_needs_and_moving_on_asks_for_the_next(
    bench: Any, waiting: Any, answers: Any
) -> None:
    app = bench(plan=Plan(model="tiny"), forecast=answers)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        before = len(app.scripted.questions)
        await pilot.press("o")
        await waiting(pilot, lambda: "20.1 GiB" in text_of(app, "#needs"))
        await waiting(pilot, lambda: "too small" in text_of(app, "#needs"))
        needs = text_of(app, "#needs")
        assert "tiny  needs for this machine, 16.0 GiB, with 1 × 1,024 tokens" in needs
        assert "✗ exceeds" in needs and "✓ fits" in needs
        asked = [plan_from(each.plan) for each in app.scripted.questions[before:]]
        assert asked == list(typical_plans("tiny", Plan(model="tiny").workload).values())
        assert not any(each.changes for each in app.scripted.questions[before:])
        # The cursor rests on none but the last: of those between nothing is asked.
        await pilot.press("down", "down", "down")
        await waiting(pilot, lambda: "smollm2-360m" in text_of(app, "#needs"))
        await waiting(pilot, lambda: "too small" in text_of(app, "#needs"))
        asked = {str(each.plan["model"]) for each in app.scripted.questions[before:]}
        assert asked == {"tiny", "smollm2-360m"}
        # What is known is marked in the list; nothing is asked twice.
        count = len(app.scripted.questions)
        await pilot.press("up", "down")
        await pilot.pause(0.5)
        assert len(app.scripted.questions) == count
        beside = app.screen.query_one("Rows")._beside["tiny"]
        assert "".join(text for text, _ in beside).strip() == "✗✓✓?"
        await pilot.press("f1")
        await waiting(pilot, lambda: "four typical plans" in " ".join(text_of(app, "Page").split()))
        await pilot.press("escape", "escape")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.predictor.outlook.complete


async def test_models_are_chosen_by_source_and_folders_by_typing(
    bench: Any, waiting: Any, tmp_path: Path
) -> None:
    for name in ("models", "models/one", "models/two", "other"):
        (tmp_path / name).mkdir()
    config = msgspec.json.encode(library.resolve(Plan(model="tiny"), read_settings()).config)
    (tmp_path / "models/two/config.json").write_bytes(config)
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("o")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._models)
        rows = app.screen.query_one("Rows")
        await pilot.press("tab", "tab", "tab")
        assert "type a folder" in rows.rows[0].left[0][0]
        app.screen.query_one(Input).value = str(tmp_path / "mod")
        await waiting(pilot, lambda: [row.id for row in rows.rows] == [f"{tmp_path}/models/"])
        await pilot.press("enter")
        await waiting(pilot, lambda: len(rows.rows) == 2)
        await pilot.press("down", "enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.session.plan.model == str(tmp_path / "models/two")
        await pilot.press("o")
        await waiting(pilot, lambda: app.screen is not app.main and app.screen._models)
        app.screen.query_one(Input).value = "someone/some-model"
        rows = app.screen.query_one("Rows")
        await waiting(pilot, lambda: rows.rows[0].id == "someone/some-model")
        assert "fetched from the hub" in said(app)
        # A folder that was used is among the models, and found by its name.
        app.screen.query_one(Input).value = "modelstwo"
        await waiting(pilot, lambda: rows.current.id == str(tmp_path / "models/two"))


async def test_gpus_are_sorted_narrowed_and_predicted_for(
    bench: Any, waiting: Any, answers: Any
) -> None:
    app = bench(plan=Plan(model="tiny"), forecast=answers)
    async with app.run_test(size=SIZE) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("t")
        await waiting(pilot, lambda: "every verdict" in said(app))
        # Each architecture was asked about once.
        targets = [each.target for each in app.scripted.questions if each.target]
        archs = [one.arch for one in library.targets() if one.id in targets]
        assert len(archs) == len(set(archs)) == len({one.arch for one in library.targets()})
        rows = app.screen.query_one("Rows")
        await pilot.press("shift+tab", "shift+tab", "shift+tab")
        assert [row.id for row in rows.rows] == ["rtx-2060-6gb", "rtx-4070", "rtx-4080"]
        assert "short" in str(rows.rows[0].left)
        await pilot.press("shift+tab", "tab")
        sizes = {one.id: one.capacity for one in library.targets()}
        order = [sizes[row.id] for row in rows.rows]
        assert order == sorted(order, reverse=True)
        head = app.screen.query_one("#columns").render().plain
        assert head.count("▼") == 1 and "▼usable " in head
        chips = app.screen.query_one("#verdicts").render().plain
        fits = len(app.screen._fits)
        counted = [int(word) for word in re.findall(r"(?:fits|tight|exceeds|…) (\d+)", chips)]
        assert f"all {len(sizes)} GPUs:" in chips and sum(counted) == len(sizes)
        assert counted[-1] == len(sizes) - fits > 0, "the made-up prediction knows seven cards"
        await pilot.click("#verdicts", offset=(chips.index("fits"), 0))
        assert {"a100-40gb", "h200"} <= {row.id for row in rows.rows} < set(sizes)
        await pilot.press(*"h200", "enter")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.target == "h200"


def test_what_matters_most_in_a_row_is_not_cut() -> None:
    room = Room("exceeds", -1023 * 2**20, 2**34)
    # The heads end a column earlier than the rows.
    assert gpu_rows.columns(gpu_rows.WIDE, "").cell_length < gpu_rows.WIDE
    for target in library.targets():
        left = gpu_rows.row(target, True, gpu_rows.room_spans(room, "~"), gpu_rows.WIDE).left
        assert sum(len(text) for text, _ in left) <= gpu_rows.WIDE, target.name
    module, op = (
        "model.layers.*.self_attn.q_proj",
        "aten._scaled_dot_product_flash_attention",
    )
    large = Large(2**20, "activations", module, op, (2, 8, 256, 64), "float32", 16)
    alive = Alive(step=2, phase="loss", allocated=2**22, largest=(large,))
    rows = peak_tensors.paired((), alive.largest)
    found = peak_tensors.listed(rows, None, alive, peak_tensors.WIDE, {})
    lines = [line.plain for line in found]
    assert lines[1].endswith("  layers.*.self_attn.q_proj") and "_scaled_dot_product…" in lines[1]


def test_a_difference_is_told_value_by_value() -> None:
    before = override(override(Plan(model="tiny"), "sgd=on"), "lora.rank=8")
    after = override(override(Plan(model="gpt2"), "bf16=on"), "lora.rank=16")
    found = {path: (mark, text) for mark, path, text in differences(before, after)}
    assert found["model"] == ("~", "tiny → gpt2")
    assert found["techniques.lora.rank"] == ("~", "8 → 16")
    assert found["techniques.bf16"] == ("+", "")
    assert found["techniques.sgd"][0] == "\N{MINUS SIGN}"
    assert len(found) == 4 and differences(before, before) == []


async def test_own_presets_are_saved_and_deleted(bench: Any, waiting: Any) -> None:
    save_preset("lora", Plan(model="gpt2"))
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("l")
        await waiting(pilot, lambda: app.screen is not app.main)
        rows = app.screen.query_one("Rows")
        assert [row.id for row in rows.rows[:3]] == ["", "lora", ""]
        await pilot.press("w", *"mine", "enter")
        await waiting(pilot, lambda: "saved" in said(app))
        assert rows.current.id == "mine" and "This is the plan" in text_of(app, "Page")
        rows.select("lora")
        await pilot.press("d", "y")
        await waiting(pilot, lambda: "deleted" in said(app))
        assert "lora" in presets() and load_plan("lora").model == "qwen2.5-1.5b"
        rows.select("qlora")
        await pilot.press("d")
        assert "comes with memwb" in said(app)


def test_the_name_of_every_command_is_shown_whole() -> None:
    for row in settings_keys.rows({}):
        title = settings_keys.command_of(row.id).title
        assert f"{title} " in row.left[2][0], row.id


def test_a_key_that_is_taken_is_swapped_or_refused() -> None:
    swap = settings_keys.proposed({}, "compare", "s")
    assert swap.swap and swap.keymap == {"compare": "s", "stop": "c"}
    assert clashes(swap.keymap) == clashes({})
    assert settings_keys.proposed({}, "compare", "escape").keymap is None
    assert settings_keys.proposed({}, "compare", "f5").keymap == {"compare": "f5"}
    assert settings_keys.proposed({}, "compare", "f5", more=True).keymap == {"compare": "c,f5"}
    # Back to its default, which another has by now.
    assert settings_keys.reset(swap.keymap, "compare").keymap is None
    assert settings_keys.reset({"undo": "f6"}, "undo").keymap == {}


async def test_settings_act_at_once_and_keep_the_comments(
    bench: Any, waiting: Any, home: Path
) -> None:
    home.mkdir(exist_ok=True)
    file = home / "settings.toml"
    file.write_text('# mine\ndevice = "auto"  # either\n')
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.1)
        before = app.theme
        await pilot.press("C")
        await waiting(pilot, lambda: app.screen is not app.main)
        # A theme is shown as the cursor moves, and gone again unless it is kept.
        await pilot.press("down")
        await waiting(pilot, lambda: app.theme != before)
        assert read_settings().theme == ""
        await pilot.press("escape")
        await waiting(pilot, lambda: app.screen is app.main)
        assert app.theme == before
        await pilot.press("C", "down", "enter")
        await waiting(pilot, lambda: read_settings().theme == app.theme != before)
        # A key is pressed, and swapped with the command that has it.
        await pilot.press("tab")
        rows = app.screen.query_one("Rows")
        rows.select("maximise")
        await pilot.press("enter", "p")
        await waiting(pilot, lambda: "↵ takes it" in said(app))
        await pilot.press("enter")
        await waiting(pilot, lambda: read_settings().keymap == {"maximise": "p", "freeze": "m"})
        # Defaults: a choice, a typed one that is checked, one that is warned of first.
        await pilot.press("tab")
        rows.select("device")
        await pilot.press("space")
        await waiting(pilot, lambda: app.settings.device == "cpu")
        rows.select("target")
        await pilot.press("enter", *"rtx-409")
        await waiting(pilot, lambda: "did you mean 'rtx-4090'" in said(app))
        await pilot.press("enter", "0", "enter")
        await waiting(pilot, lambda: app.target == "rtx-4090")
        rows.select("trust_remote_code")
        await pilot.pause()
        await pilot.press("space")
        assert "your rights" in said(app) and not app.settings.trust_remote_code
        await pilot.press("space")
        await waiting(pilot, lambda: read_settings().trust_remote_code)
        await pilot.press("x", "escape")
        await waiting(pilot, lambda: app.screen is app.main)
        await pilot.press("2", "p")
        await waiting(pilot, lambda: app.session.maximised)
    text = file.read_text()
    assert text.startswith("# mine\n") and "# either" in text
    assert "trust_remote_code" not in text


@pytest.mark.parametrize("key", ["o", "t"])
async def test_where_a_question_mark_is_text_help_is_said_to_be_f1(bench: Any, key: str) -> None:
    app = bench(plan=Plan(model="tiny"))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(key, "question_mark")
        assert app.screen.query_one(Input).value == "?"
        assert "· f1 help ·" in str(app.screen.query_one(".dialog").border_subtitle)
