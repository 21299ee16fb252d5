"""Draw docs/workbench.svg: the real workbench after two real bursts. ``python docs/picture.py``.

The figures in it are what this machine measures; nothing is made up.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

SIZE = (120, 40)
PATIENCE = 300.0


async def until(pilot: Pilot[None], done: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not done():
        if asyncio.get_running_loop().time() > end:
            raise SystemExit("the engine did not answer in time")
        await pilot.pause(0.1)
    await pilot.pause(0.3)


async def draw(path: Path) -> None:
    """Run the tiny model twice, the second time with checkpointing, and save the screen.

    It shows the second burst over what was predicted of it, and what each toggle would change now.
    """
    from memwb.workbench.start import open_workbench

    app = open_workbench(guide=False)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.engine_state == "ready")
        await pilot.press("r")
        await until(pilot, lambda: len(app.recorded) == 1 and app.engine_state == "ready")
        await pilot.press("1", "slash", *"checkpointing")
        await pilot.pause(0.5)
        await pilot.press("enter", "space", "escape", "escape", "r")
        await until(pilot, lambda: len(app.recorded) == 2 and app.engine_state == "ready")
        await until(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("1", "home")
        app.main.plan_panel.rows.select("technique:activation_checkpointing")
        await pilot.pause(0.5)
        path.write_text(app.export_screenshot(title="memwb"), encoding="utf-8")


def main() -> None:
    """Draw into the path given, or beside this file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("workbench.svg")
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEMWB_HOME"] = home
        asyncio.run(draw(path))
    print(f"drew {path}")


if __name__ == "__main__":
    main()
