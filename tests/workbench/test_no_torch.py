"""The workbench's process never imports the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

RUN = """
import asyncio, sys
from memwb.workbench.start import open_workbench
from memwb.workbench import library

class Silent:
    async def start(self): pass
    def send(self, command): pass
    async def events(self):
        await asyncio.Event().wait()
        yield
    async def close(self): pass

async def main():
    app = open_workbench(engine=Silent)
    async with app.run_test(size=(120, 40)) as pilot:
        for key in ("space", "o", "escape", "l", "escape", "question_mark", "escape", "e"):
            await pilot.press(key)
            await pilot.pause(0.2)
        while not getattr(app.screen, "_script", ""):
            await pilot.pause(0.1)

asyncio.run(main())
heavy = {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "triton", "numpy"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_no_heavy_library_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
