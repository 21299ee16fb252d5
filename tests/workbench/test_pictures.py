"""Every screen and state as pictures, at three sizes and in two themes: see states.py.

They are kept in docs/gallery, where people look at them too. ``make pictures`` draws them anew.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from textual.color import Color
from textual.geometry import Region
from textual.pilot import Pilot

from memwb.engine import technique
from memwb.engine.catalog import Model
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Device
from memwb.engine.techniques import torch_compile
from memwb.workbench import library, watch
from memwb.workbench.charts.looks import TEXT, contrast
from memwb.workbench.legible import WORDS
from memwb.workbench.panels import forecast as forecast_panel
from memwb.workbench.panels import history_rows, notice, texts

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs/gallery"
NAMED = {"/": "slash", "?": "question_mark", "}": "right_curly_bracket", ")": "right_parenthesis"}
DRAWN_ANEW = os.environ.get("MEMWB_PICTURES") == "draw"


def loaded(path: Path) -> ModuleType:
    """A file as a module: neither docs nor tests are packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


drawing = loaded(ROOT / "docs/drawing.py")
states = loaded(Path(__file__).with_name("states.py"))

MODELS = [
    Model(
        name="tiny",
        source="catalogue",
        location="",
        weights="random",
        parameters=2_460_096,
        vocabulary=512,
        context=2048,
        licence="Apache-2.0",
    ),
    Model(
        name="smollm2-135m",
        source="catalogue",
        location="HuggingFaceTB/SmolLM2-135M",
        weights="pretrained",
        parameters=134_515_008,
        vocabulary=49_152,
        context=8192,
        licence="Apache-2.0",
    ),
    Model(
        name="qwen2.5-1.5b",
        source="catalogue",
        location="Qwen/Qwen2.5-1.5B",
        weights="random",
        parameters=1_543_714_304,
        vocabulary=151_936,
        context=131_072,
        licence="Apache-2.0",
    ),
]
SCRIPT = '''"""Fine-tune tiny."""

import torch


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    print("step 1  loss 6.177012")
'''


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that changes with the machine, its terminal, the time or the catalogue."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setattr(library, "models", lambda *_: MODELS)
    # Neither the packages nor the compiler that happen to be here.
    monkeypatch.setattr(technique, "_missing", lambda packages: [])
    monkeypatch.setattr(torch_compile, "unavailable", lambda params, device: "")
    monkeypatch.setattr(library, "script", lambda *args: SCRIPT)
    monkeypatch.setattr(
        library,
        "resolve",
        lambda plan, settings: next((m for m in MODELS if m.name == plan.model), MODELS[0]),
    )
    monkeypatch.setattr(library, "assumed_device", lambda: Device("cpu", "CPU", 16 * 2**30))
    monkeypatch.setattr(watch, "frame", lambda *_: watch.FRAMES[0] + " ")
    monkeypatch.setattr(watch, "waits", lambda *_: "")
    monkeypatch.setattr(history_rows, "moment", lambda created: "01-31 12:00")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/user"))


async def settled(pilot: Pilot[None], done: Callable[[], bool]) -> None:
    """Wait for the engine's state and for every worker, the engine's own excepted."""
    app: Any = pilot.app
    for _ in range(500):
        await pilot.pause(0.02)
        busy = [w for w in app.workers if w.group != "engine" and not w.is_finished]
        live = app.live is not None and app.live.ended is None and not app.scripted.hold
        if done() and not busy and not live:
            break
    await asyncio.sleep(0.05)
    await pilot.pause()


async def press(pilot: Pilot[None], keys: str) -> None:
    """Press keys, each once everything before it is drawn; ``@ID`` and ``=`` as State has them."""
    app: Any = pilot.app
    for key in keys.split():
        if key.startswith("@"):
            app.main.plan_panel.rows.select(key[1:])
        elif key == "=":
            await pilot.pause(0.3)
        else:
            await pilot.press(NAMED.get(key, key))
        await settled(pilot, lambda: app.engine_state != "starting" or not app.scripted.ready)


async def reach(pilot: Pilot[None], state: Any) -> None:
    """Bring the workbench into a state."""
    app: Any = pilot.app
    await settled(pilot, lambda: app.engine_state == "ready" or not app.scripted.ready)
    await press(pilot, state.keys)
    for field in app.screen.query("Input, TextArea"):
        field.cursor_blink = False


def told(before: str, now: str) -> str:
    """The lines of a picture that are others now."""
    pairs = zip(before.splitlines(), now.splitlines(), strict=False)
    return "\n".join(f"- {old}\n+ {new}" for old, new in pairs if old != new)[:2000]


@pytest.mark.parametrize("state", states.STATES, ids=lambda state: state.name)
async def test_pictures(
    state: Any, bench: Any, short: Any, forecast: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not state.colours:
        monkeypatch.setenv("NO_COLOR", "1")
    made = {
        "failed": short(
            "failed", "The loss is not a number", "step 3: nan", "Lower the learning rate."
        ),
        "dies": None,
    }
    plan = Plan(model="tiny")
    for edit in state.edits.split():
        plan = override(plan, edit)
    how = dict(state.engine)
    if state.gpu:
        how["device"] = Device(kind="cuda", name="NVIDIA RTX 4070", capacity=12 * 2**30)
    if state.forecast:
        how["forecast"] = forecast()
    app = bench(*(made.get(name, name) for name in state.bursts.split()), plan=plan, **how)
    others = []
    async with app.run_test(size=(120, 40)) as pilot:
        await reach(pilot, state)
        for name, size, theme in states.pictures(state):
            if state.each and app.screen is not app.main:
                await pilot.press("escape")
            app.theme = theme
            await pilot.resize_terminal(*size)
            await settled(pilot, lambda: True)
            await press(pilot, state.each)
            assert theme.startswith("ansi") or faint(app) == []
            now, file = drawing.svg(drawing.screen(app)), GALLERY / f"{name}.svg"
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            if DRAWN_ANEW:
                file.parent.mkdir(exist_ok=True)
                file.write_text(now, encoding="utf-8")
            elif now != before:
                (tmp_path / file.name).write_text(now, encoding="utf-8")
                others.append(f"{name}: now {tmp_path / file.name}\n{told(before, now)}")
    assert not others, "\n\n".join(
        [*others, "Meant? `make pictures` draws them anew; look at them before you keep them."]
    )


def test_no_picture_is_left_of_what_is_no_more() -> None:
    wanted = {name for state in states.STATES for name, _, _ in states.pictures(state)}
    assert DRAWN_ANEW or {file.stem for file in GALLERY.glob("*.svg")} == wanted


# What can be read


def faint(app: Any) -> list[str]:
    """The words in front whose contrast to their ground, as drawn, is less than WCAG 2.2 asks.

    What lies behind a dialogue is dimmed so that it is not read. A terminal's own sixteen colours,
    of the ansi themes, are whatever the terminal makes of them: there is nothing to compute.
    """
    front = Region.from_union([each.region for each in app.screen.children if each.display])
    found = {}
    for y, line in enumerate(drawing.screen(app)):
        for x, text, ink in drawing.runs(line):
            if not WORDS.search(text) or not front.contains(x, y):
                continue
            given = contrast(Color.parse(ink.front), Color.parse(ink.back))
            if given < TEXT - 0.01:
                found[(ink.front, ink.back)] = f"{text.strip()[:30]!r}: {given:.2f} in {app.theme}"
    return list(found.values())


async def test_words_can_be_read_in_every_theme(bench: Any, forecast: Any, short: Any) -> None:
    failed = short("failed", "The loss is not a number", "step 3: nan", "Lower the rate.")
    app = bench("full", failed, plan=override(Plan(model="tiny"), "lora=on"), forecast=forecast())
    themes = [name for name in app.available_themes if not name.startswith("ansi")]
    assert len(themes) > 15 and len(themes) == len(app.available_themes) - 2
    async with app.run_test(size=(120, 40)) as pilot:
        for _ in range(2):
            await settled(pilot, lambda: app.engine_state == "ready")
            await pilot.press("r")
        await settled(pilot, lambda: app.engine_state == "ready")
        app.main.plan_panel.rows.select("technique:quantize_8bit")
        await pilot.press("space")
        for keys in ((), ("o",), ("escape", "question_mark"), ("escape", "ctrl+p")):
            await pilot.press(*keys)
            await settled(pilot, lambda: True)
            for theme in themes:
                app.theme = theme
                await pilot.pause()
                assert faint(app) == []


def test_what_a_colour_tells_a_mark_tells_too() -> None:
    outcomes = [mark for mark, _ in history_rows.OUTCOME.values()]
    assert len(set(outcomes)) == len(outcomes) and all(map(str.strip, outcomes))
    verdicts = list(forecast_panel.MARKS.values())
    assert len(set(verdicts)) == len(verdicts) == 3
    assert len({notice.MARKS.get(kind, "") for kind in ("information", "warning", "error")}) == 3
    words = [said for said, _ in texts.ENGINE.values()]
    assert len(set(words)) == len(words)
