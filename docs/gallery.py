"""Draw every screen and state into docs/gallery and write docs/gallery.md: ``make pictures``.

The pictures are those that tests/workbench/test_pictures.py compares with, and it draws them:
recorded bursts, played into the real workbench. ``--real`` draws docs/workbench.svg, README's
picture, as well: from two bursts that this machine runs, with the figures that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from textual.pilot import Pilot

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests/workbench"
PATIENCE = 300.0
HEAD = """# The workbench, screen by screen

Drawn by `make pictures` from recorded bursts; predictions in them are made up, a hundredth above
what was measured. Each picture is also there at 80×24 and 200×50, and in a light theme; the
tests compare with all of them. The picture in the README is of two real bursts.
"""


def module(path: Path) -> ModuleType:
    """A file as a module: neither docs nor tests are packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made
    spec.loader.exec_module(made)
    return made


def gallery() -> int:
    """Draw the pictures, drop those of what is no more, and write the page that shows them."""
    states = module(TESTS / "states.py")
    wanted: list[str] = []
    page = [HEAD]
    for state in states.STATES:
        names = [name for name, _, _ in states.pictures(state)]
        wanted += names
        shown = next(name for name in names if "-120x40-" in name)
        others = " · ".join(
            f"[{name.removeprefix(state.name + '-').replace('x', '×').replace('-', ' ')}]"
            f"(gallery/{name}.svg)"
            for name in names
            if name != shown
        )
        page.append(
            f"## {state.name}\n\n{state.says}\n\n![{state.name}](gallery/{shown}.svg)\n\n{others}\n"
        )
    (DOCS / "gallery").mkdir(exist_ok=True)
    for file in (DOCS / "gallery").glob("*.svg"):
        if file.stem not in wanted:
            file.unlink()
    (DOCS / "gallery.md").write_text("\n".join(page), encoding="utf-8")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        str(TESTS / "test_pictures.py"),
    ]
    return subprocess.run(command, env=os.environ | {"MEMWB_PICTURES": "draw"}).returncode


async def until(pilot: Pilot[None], done: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not done():
        if asyncio.get_running_loop().time() > end:
            raise SystemExit("the engine did not answer in time")
        await pilot.pause(0.1)
    await pilot.pause(0.3)


async def draw(path: Path) -> None:
    """Run the tiny model twice, the second time with checkpointing, and draw the screen.

    It shows the second burst over what was predicted of it, and what each toggle would change now.
    """
    from memwb.workbench.start import open_workbench

    drawing = module(DOCS / "drawing.py")
    app = open_workbench(guide=False)
    async with app.run_test(size=(120, 40)) as pilot:
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
        path.write_text(drawing.svg(drawing.screen(app)), encoding="utf-8")


def main() -> int:
    """Draw; the exit code is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="README's picture too")
    if parser.parse_args().real:
        with tempfile.TemporaryDirectory() as home:
            os.environ["MEMWB_HOME"] = home
            asyncio.run(draw(DOCS / "workbench.svg"))
        print("drew workbench.svg")
    return gallery()


if __name__ == "__main__":
    sys.exit(main())
