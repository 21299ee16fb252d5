"""``python -m benchmarks.monkey [--events 10000] [--seed N] [--size 80x24]``: no exception.

Opens the workbench on an engine that plays made-up bursts in this process, sometimes dies, goes
silent or talks rubbish, and does what a monkey at a terminal would: every key there is, letters,
clicks, drags and wheels anywhere, other sizes (or one that stays). The exit code is 1 when anything
is raised; the last events are printed, and the same seed does the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memwb.engine.client import GARBLED
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Beat,
    Categories,
    Command,
    Device,
    Ended,
    Event,
    Hello,
    Loaded,
    Peak,
    Predict,
    Problem,
    Quit,
    Ready,
    Samples,
    Start,
    Started,
    Step,
    Stop,
    Timeline,
    Unpredicted,
)

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from memwb.workbench.settings import Settings

KEYS = (
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "tab", "shift+tab"),
    *("enter", "enter", "space", "space", "escape", "escape", "escape", "backspace", "delete"),
    *("shift+left", "shift+right", "ctrl+p", "ctrl+g", "ctrl+u", "f1", "ctrl+c", "ctrl+s"),
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/?+-=<>,.[](){}\\|'\"é#"
SIZES = ((80, 24), (120, 40), (200, 50), (30, 8), (64, 31), (101, 29), (1, 1), (150, 46))
AT_ONCE = 5
"""Events after which all that they brought about is waited for."""
SCRIPT = "print('made up')\n"


class MonkeyEngine:
    """An engine that answers at once, and by no means always well."""

    def __init__(self, noise: random.Random) -> None:
        self._noise = noise
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def start(self) -> None:
        """It is there."""
        self._say(Hello("0", 1), Ready(Device("cpu", "a made-up CPU", 2**34), {}))

    def _say(self, *events: Event | None) -> None:
        for event in events:
            self._queue.put_nowait(event)

    def send(self, command: Command) -> None:
        """Do it, in part of it, or die of it."""
        match command:
            case Start():
                self._say(*self._burst(command.burst))
            case Predict():
                self._say(Unpredicted(command.prediction, "Not predicted"))
            case Stop():
                self._say(Ended("1", "stopped", title="Stopped"))
            case Quit():
                self._say(None)

    def _burst(self, name: str) -> Iterator[Event | None]:
        from benchmarks.samples import sample

        noise, began = self._noise, time.monotonic()
        fate = noise.choice(
            ("done", "done", "oom", "failed", "refused", "dies", "waits", "rubbish")
        )
        if fate == "refused":
            yield Ended(name, "refused", title="No", what="it is a monkey's", fix="ask another")
            return
        device = Device("cpu", "a made-up CPU", 2**34)
        yield Started(name, device, "tiny", "random", 1000, 8, (1, 2), SCRIPT)
        yield Loaded(name, 1000, 1000, 50, 0.25)
        for step in range(1, noise.randrange(2, 9)):
            if step <= 2:
                held = [sample(time.monotonic() - began, step, at / 60, noise) for at in range(60)]
                for at in range(0, 60, 10):
                    yield Samples(name, held[at : at + 10])
                yield Timeline(name, step, held[::3])
            yield Step(name, step, noise.uniform(0.0, 12.0), 0.1, 64, step <= 2)
            if fate == "rubbish":
                yield Problem(GARBLED, "\x1b[2J not an event")
        if fate == "waits":
            yield Beat(name)
            return
        if fate == "dies":
            yield None
            return
        peak = Peak(2**30, 2**30, 2**30, "backward", Categories(2**30))
        outcome = "done" if fate == "rubbish" else fate
        yield Ended(name, outcome, peak, [], None, 1.0, "" if outcome == "done" else "It ended")

    async def events(self) -> AsyncIterator[Event]:
        """What it says until it is gone."""
        while (event := await self._queue.get()) is not None:
            yield event

    async def close(self) -> None:
        """It is gone."""
        self._say(None)


class Monkey:
    """Does one random thing after another to an app."""

    def __init__(self, pilot: Pilot[None], noise: random.Random, resizes: bool = True) -> None:
        self.pilot, self.noise, self.resizes = pilot, noise, resizes
        self.done: deque[str] = deque(maxlen=40)
        self._held = False

    def act(self) -> None:
        """A key, mostly; else the mouse or another size."""
        kind = self.noise.random()
        if kind < 0.72:
            self._key()
        elif kind < 0.97 or not self.resizes:
            self._mouse()
        else:
            self._resize()

    def _key(self) -> None:
        from textual.app import App
        from textual.events import Key

        noise = self.noise
        key = noise.choice(KEYS) if noise.random() < 0.5 else noise.choice(LETTERS)
        self.done.append(key)
        named = key if len(key) > 1 else _key_of(key)
        character = key if len(key) == 1 else " " if key == "space" else None
        App.post_message(self.pilot.app, Key(named, character))

    def _mouse(self) -> None:
        from textual import events

        app, noise = self.pilot.app, self.noise
        width, height = app.size
        x, y = noise.randrange(max(1, width)), noise.randrange(max(1, height))
        kinds: list[type[events.MouseEvent]] = [events.MouseMove, events.MouseMove]
        kinds += [events.MouseScrollUp, events.MouseScrollDown]
        kinds += [events.MouseUp, events.MouseUp] if self._held else [events.MouseDown] * 3
        kind = noise.choice(kinds)
        if kind in (events.MouseDown, events.MouseUp):
            self._held = kind is events.MouseDown
        button = int(self._held or kind is events.MouseUp)
        self.done.append(f"{kind.__name__} {x},{y}")
        app.post_message(
            kind(None, x, y, 0, 0, button, noise.random() < 0.1, False, False, x, y, None)
        )

    def _resize(self) -> None:
        from textual.drivers.headless_driver import HeadlessDriver
        from textual.events import Resize
        from textual.geometry import Size

        app = self.pilot.app
        size = Size(*self.noise.choice(SIZES))
        self.done.append(f"{size.width}x{size.height}")
        if isinstance(app._driver, HeadlessDriver):
            app._driver._size = size
        app.post_message(Resize(size, size))


def _key_of(character: str) -> str:
    from textual.keys import _character_to_key

    return _character_to_key(character)


async def play(
    events: int,
    seed: int,
    home: Path,
    tell: Callable[[str], object] | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Do so many random things, and raise what any of them raised; at one size, or at any."""
    noise = random.Random(seed)
    left = events
    with _confined(home):
        while left > 0:
            # A monkey that quits starts again, on what it has left behind.
            plan = Plan(model="tiny") if left == events else None
            left = await _sit(left, noise, plan, tell, size)


async def _sit(
    left: int,
    noise: random.Random,
    plan: Plan | None,
    tell: Callable[[str], object] | None,
    size: tuple[int, int] | None,
) -> int:
    """Play until the workbench is left, and return how many of the events are left then."""
    from memwb.workbench.start import open_workbench

    app = open_workbench(plan, lambda: MonkeyEngine(noise))
    done: deque[str] = deque()
    try:
        async with app.run_test(size=size or SIZES[1], notifications=True) as pilot:
            monkey = Monkey(pilot, noise, resizes=size is None)
            done = monkey.done
            while left > 0 and not app._exit:
                monkey.act()
                left -= 1
                if left % AT_ONCE == 0:
                    await pilot.pause()
                if tell is not None and left % 1000 == 0:
                    tell(f"{left} to go, {type(app.screen).__name__}")
    except BaseException:
        print(f"{left} events were left; the last ones:", file=sys.stderr)
        print("  " + " · ".join(done), file=sys.stderr)
        raise
    return left


@contextlib.contextmanager
def _confined(home: Path) -> Iterator[None]:
    """A monkey may type any folder: nothing is exported outside of this one, nor fetched."""
    from memwb.workbench import library

    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    plain = library.export

    def export(plan: Plan, settings: Settings, folder: str, *rest: Any, **more: Any) -> Path:
        if not Path(folder).absolute().resolve().is_relative_to(home.resolve()):
            raise MemwbError("Not a monkey's folder", folder, f"Use {home}.")
        return plain(plan, settings, folder, *rest, **more)

    library.export = export  # type: ignore[assignment]
    try:
        yield
    finally:
        library.export = plain
        os.environ.pop("HF_HUB_OFFLINE")
        if offline is not None:
            os.environ["HF_HUB_OFFLINE"] = offline


def main() -> None:
    """Play, and say how long it took."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monkey",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", help="columns x rows that stay; without it, many")
    options = parser.parse_args()
    size = None
    if options.size:
        width, height = (int(part) for part in options.size.split("x"))
        size = (width, height)
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEMWB_HOME"] = home
        # What it exports and saves goes where it is swept away.
        os.chdir(home)
        asyncio.run(
            play(
                options.events,
                options.seed,
                Path(home),
                lambda text: print(text, file=sys.stderr),
                size,
            )
        )
    taken, spent = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"{options.events} events with seed {options.seed}, nothing raised: "
        f"{taken:.0f} s, {spent:.0f} s of CPU"
    )


if __name__ == "__main__":
    main()
