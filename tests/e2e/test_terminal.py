"""The whole way in a real terminal: pick, toggle, run, watch, export, and run what was exported."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

MEMWB = "import sys; from memwb.workbench.cli import main; sys.exit(main())"
TESTS = Path(__file__).parents[1]
BANDS = "▁▂▃▄▅▆▇█"


class Terminal:
    """memwb in a tmux session of its own."""

    def __init__(self, home: Path, columns: int = 120, rows: int = 40) -> None:
        self._socket = f"memwb-test-{uuid.uuid4().hex}"
        keep = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "LANG", "HOME")
        keep += ("MEMWB_ENGINE",)
        wanted = {name: os.environ[name] for name in keep if name in os.environ}
        wanted |= {"MEMWB_HOME": str(home), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        pairs = [f"{name}={value}" for name, value in wanted.items()]
        self._tmux(
            "-f", os.devnull, "new-session", "-d", "-x", str(columns), "-y", str(rows),
            "env", "-i", *pairs, sys.executable, "-P", "-c", MEMWB,
        )  # fmt: skip

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-u", "-L", self._socket, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout

    def screen(self) -> str:
        """The screen as text; empty when the program is gone."""
        return self._tmux("capture-pane", "-p")

    def keys(self, *names: str) -> None:
        """Press keys by name, one after another, as fast as a hand would."""
        for name in names:
            self._tmux("send-keys", name)
            time.sleep(0.15)

    def text(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)
        time.sleep(0.15)

    def wait(self, pattern: str, seconds: float = 60) -> str:
        """The screen once it matches; fails with what it shows instead."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            shown = self.screen()
            if re.search(pattern, shown):
                return shown
            time.sleep(0.1)
        pytest.fail(f"{pattern!r} never appeared; the screen shows:\n{self.screen()}")

    def go_to(self, name: str) -> None:
        """Put the cursor on a row of the plan: the first that a filter leaves."""
        self.keys("1", "/")
        self.wait("filter techniques")
        self.text(name)
        self.wait(rf"(?m)^│ {name} +│")
        self.keys("Enter")

    def escape(self) -> None:
        """Leave a filter. A key that came at once after escape would be read as alt and the key."""
        self.keys("Escape")
        time.sleep(0.5)

    def gone(self) -> None:
        """Wait until the program has ended."""
        end = time.monotonic() + 20
        while self.screen() and time.monotonic() < end:
            time.sleep(0.1)
        assert self.screen() == ""

    def close(self) -> None:
        """End the session and whatever runs in it."""
        self._tmux("kill-server")


@pytest.fixture
def tmux() -> None:
    """Skips where there is none, but not in CI."""
    if shutil.which("tmux") is None and "CI" not in os.environ:
        pytest.skip("tmux is not installed; CI installs it")


@pytest.fixture
def terminal(home: Path, tmux: None) -> Iterator[Terminal]:
    """A 120×40 terminal with memwb on its first screen."""
    opened = Terminal(home)
    yield opened
    opened.close()


def losses_of(home: Path, run: int) -> list[str]:
    """What the summary of a run holds, as the script prints it."""
    summary = json.loads((home / "runs" / f"{run:04}" / "summary.json").read_text())
    return [f"{loss:.6f}" for loss in summary["losses"]]


def test_from_the_first_screen_to_a_script_that_trains(
    terminal: Terminal, checkpoint: Path, home: Path, tmp_path: Path
) -> None:
    data = tmp_path / "text.txt"
    data.write_text("a model forgets nothing but its gradients\n" * 400)
    terminal.wait("Nothing has run yet")

    terminal.keys("o")
    terminal.wait("Choose a model")
    terminal.text(str(checkpoint))
    terminal.wait("pretrained weights from")
    terminal.keys("Enter")
    terminal.wait("pretrained")
    for row, value in (("data", str(data)), ("sequence length", "64"), ("steps", "6")):
        terminal.go_to(row)
        terminal.keys("Enter", "C-u")
        terminal.text(value)
        terminal.keys("Enter")
        terminal.escape()
    terminal.wait(r"Workload +2 × 64 · 6 steps")

    terminal.wait("engine ready")
    terminal.keys("r")
    plain = terminal.wait(r"✓ #1")
    assert sum(plain.count(block) for block in BANDS) > 20, plain
    assert re.search(r"\d\.\d{4} → \d\.\d{4}", plain), plain

    for name in ("LoRA", "activation checkpointing"):
        terminal.go_to(name)
        terminal.keys("Space")
        terminal.wait(f"● {name}")
        terminal.escape()
    terminal.keys("r")
    second = terminal.wait(r"✓ #2")
    memory = [line for line in second.splitlines() if "■" in line]
    assert memory, second
    assert memory != [line for line in plain.splitlines() if "■" in line]
    assert losses_of(home, 1)[0] == losses_of(home, 2)[0]
    assert losses_of(home, 1)[1:] != losses_of(home, 2)[1:]

    folder = tmp_path / "exported"
    terminal.keys("e")
    terminal.wait("train.py")
    terminal.keys("t", "C-u")
    terminal.text(str(folder))
    terminal.keys("Enter", "w")
    end = time.monotonic() + 20
    while not (folder / "train.py").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert (folder / "train.py").exists(), terminal.screen()
    done = subprocess.run(
        [sys.executable, "-P", str(folder / "train.py")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert [line.split()[-1] for line in done.stdout.splitlines()] == losses_of(home, 2)

    terminal.escape()
    terminal.keys("q")
    terminal.gone()


@pytest.mark.parametrize(
    ("columns", "rows", "real"), [(80, 24, True), (160, 45, False)], ids=["80x24", "160x45"]
)
def test_the_first_minute(
    home: Path, tmux: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    columns: int, rows: int, real: bool,
) -> None:  # fmt: skip
    """As a newcomer goes through it who knows only what the screen says."""
    if not real:
        # The same way over a burst that was recorded: it is another screen that is looked at.
        engine = [
            sys.executable,
            "-P",
            TESTS / "workbench/fake_engine.py",
            TESTS / "data/full.jsonl",
        ]
        monkeypatch.setenv("MEMWB_ENGINE", shlex.join(map(str, engine)))
    first = Terminal(home, columns, rows)
    try:
        first.wait(r"1/4 .*r.*steps run|1/4 .*r.*the plan runs")
        first.keys("r")
        first.wait(r"2/4 ")
        first.keys("1")
        first.go_to("activation checkpointing")
        first.keys("Space")
        first.wait("● activation checkpointing")
        first.escape()
        first.wait(r"3/4 .*r.* again")
        first.keys("r")
        first.wait(r"3/4 .*5 goes to the runs")
        first.keys("5")
        shown = first.wait(r"3/4 .*c marks")
        assert re.search(r"✓ #2.*\n.*✓ #1", shown), shown
        first.keys("c", "Down", "c", "4")
        compared = first.wait(r"activations +\S+ ")
        assert re.search("#1", compared) and re.search("#2", compared), compared
        first.wait("4/4 .*e shows the script")
        first.keys("e")
        first.wait("train.py")
        first.keys("t", "C-u")
        first.text(str(tmp_path / "out"))
        first.keys("Enter", "w")
        first.wait("That was all|All done")
        assert (tmp_path / "out/train.py").exists()
        first.keys("5", "q")
        first.gone()
    finally:
        first.close()
    again = Terminal(home, columns, rows)
    try:
        # Plan, runs with their marks and layout are back, and nobody is guided any more.
        shown = again.wait(r"B✓ #1")
        assert "A✓ #2" in shown and not re.search(r"\d/4 ", shown), shown
        again.keys("1")
        again.go_to("activation checkpointing")
        again.wait("● activation checkpointing")
    finally:
        again.close()
