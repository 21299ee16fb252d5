"""The screens as pictures, in three sizes, from replayed bursts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from memwb.engine import technique
from memwb.engine.catalog import Model
from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Device
from memwb.engine.techniques import torch_compile
from memwb.workbench import library
from memwb.workbench.panels import history_rows

pytestmark = pytest.mark.long

SIZES = ((80, 24), (120, 40), (200, 50))
Steps = Callable[[Pilot[None]], Awaitable[None]]

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


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that changes with the machine, the time or the catalogue."""
    monkeypatch.setattr(library, "models", lambda: MODELS)
    # Neither the packages nor the compiler that happen to be here.
    monkeypatch.setattr(technique, "_missing", lambda packages: [])
    monkeypatch.setattr(torch_compile, "unavailable", lambda params, device: "")
    monkeypatch.setattr(library, "script", lambda *args: SCRIPT)
    monkeypatch.setattr(
        library,
        "resolve",
        lambda plan, settings: next((m for m in MODELS if m.name == plan.model), MODELS[0]),
    )
    monkeypatch.setattr(history_rows, "moment", lambda created: "01-31 12:00")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/user"))


SCRIPT = '''"""Fine-tune tiny."""

import torch


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    print("step 1  loss 6.177012")
'''


def pressing(*keys: str, ready: bool = True) -> Steps:
    """Press keys, each once everything before it is drawn."""

    async def steps(pilot: Pilot[None]) -> None:
        app: Any = pilot.app
        await settled(pilot, lambda: app.engine_state == "ready" or not ready)
        for key in keys:
            await pilot.press(key)
            await settled(pilot, lambda: app.engine_state in ("ready", "running"))
        for field in app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause(0.1)

    return steps


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


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(
    "bursts,keys,how",
    [
        pytest.param((), (), {}, id="empty"),
        pytest.param((), (), {"forecast": True}, id="predicted"),
        pytest.param((), ("4", "m"), {"forecast": True}, id="foretold"),
        pytest.param(("full",), ("r", "2"), {"hold": True, "forecast": True}, id="running"),
        pytest.param(("full",), ("r", "2"), {"forecast": True}, id="done"),
        pytest.param(("full", "lora"), ("r", "r", "5", "c", "j", "c", "4"), {}, id="compared"),
        pytest.param(("full", "lora"), ("r", "r", "5", "j", "b", "m", "S"), {}, id="history"),
        pytest.param(("full",), ("r", "4", "m"), {"forecast": True}, id="maximised"),
        pytest.param(("oom",), ("r",), {"device": "gpu"}, id="oom"),
        pytest.param(("failed",), ("r",), {}, id="failed"),
        pytest.param((), ("o",), {}, id="picker"),
        pytest.param((), ("e",), {}, id="export"),
        pytest.param((), ("question_mark",), {}, id="help"),
    ],
)
def test_screen(
    snap_compare: Any,
    bench: Any,
    short: Any,
    size: tuple[int, int],
    bursts: tuple[str, ...],
    keys: tuple[str, ...],
    how: dict[str, Any],
    forecast: Any,
) -> None:
    gpu = Device(kind="cuda", name="NVIDIA RTX 4070", capacity=12 * 2**30)
    how = how | ({"device": gpu} if "device" in how else {})
    how = how | ({"forecast": forecast()} if "forecast" in how else {})
    broken = short("failed", "The loss is not a number", "step 3: nan", "Lower the learning rate.")
    played = [broken if name == "failed" else name for name in bursts]
    app = bench(*played, plan=Plan(model="tiny"), **how)
    assert snap_compare(app, terminal_size=size, run_before=pressing(*keys))


def test_editing(snap_compare: Any, bench: Any) -> None:
    plan = override(override(Plan(model="tiny"), "lora=on"), "quantize_4bit=on")
    app = bench(plan=plan)

    async def steps(pilot: Pilot[None]) -> None:
        await pressing()(pilot)
        pilot.app.screen.plan_panel.rows.select("value:techniques.lora.rank")
        await pressing("enter", "0")(pilot)

    assert snap_compare(app, terminal_size=(120, 40), run_before=steps)


def test_problems(snap_compare: Any, bench: Any) -> None:
    app = bench(plan=override(Plan(model="tiny"), "quantize_4bit=on"))
    assert snap_compare(app, terminal_size=(120, 40), run_before=pressing())


def test_without_colours(snap_compare: Any, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = bench("full", plan=Plan(model="tiny"))
    assert snap_compare(app, terminal_size=(120, 40), run_before=pressing("r"))
