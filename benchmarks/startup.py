"""How fast the workbench starts: ``memwb --version``, and the time to its first painted screen.

``python -m benchmarks.startup`` in the repository, with memwb installed. The screen is opened in
a pseudo-terminal of 120 × 40 with an empty home; the clock runs from the start of the process
until the footer, the last line of the screen, has been written. The exit code is 1 when a target
is missed, so that a slow import cannot creep in.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence

MAIN = "import sys; from memwb.workbench.cli import main; sys.exit(main())"
LAST = b"commands"
"""The last word of the footer: when it is there, the screen is."""
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""As a user has it: what was compiled once is not compiled again."""
TARGETS = {"memwb --version": 0.08, "first paint": 0.6}
BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("commands")
Bare().run()
"""
"""The least that Textual can paint: what a first paint takes here whatever memwb does."""
CHART = "from benchmarks.charts_rivals import alone; alone({!r})"
CHARTS = {
    "memwb": "memwb",
    "textual-plotext": "textual_plotext",
    "textual-hires-canvas": "textual_hires_canvas",
}
"""Apps of one chart, five bands of 2,000 points, by what draws it, where that is installed."""


def version() -> float:
    """Seconds of a whole ``memwb --version``."""
    began = time.perf_counter()
    command = [sys.executable, "-c", MAIN, "--version"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - began


def first_paint(program: str = MAIN) -> float:
    """Seconds from the start of the process to the painted main screen."""
    with tempfile.TemporaryDirectory() as home:
        environment = ENVIRONMENT | {"MEMWB_HOME": home, "TERM": "xterm-256color"}
        began = time.perf_counter()
        child, terminal = pty.fork()
        if child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            os.execve(sys.executable, [sys.executable, "-c", program], environment)
        try:
            return _until(terminal, LAST, 30) - began
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(terminal)


def _until(terminal: int, wanted: bytes, patience: float) -> float:
    seen = b""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            seen += os.read(terminal, 65536)
            if wanted in seen:
                return time.perf_counter()
    raise SystemExit(f"no screen within {patience:.0f} s; the terminal holds {seen[-500:]!r}")


def measure(what: Callable[[], float], times: int) -> list[float]:
    """So many times, after one that fills the caches."""
    what()
    return [what() for _ in range(times)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="Measure how fast memwb starts.")
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args(arguments).times
    print(f"{'seconds, of ' + str(times):<30}{'median':>9}{'least':>9}{'most':>9}{'target':>9}")
    missed = False
    rows: tuple[tuple[str, Callable[[], float]], ...] = (
        ("memwb --version", version),
        ("first paint", first_paint),
        ("a bare Textual app", lambda: first_paint(BARE)),
        *(
            (f"a chart: {name}", lambda name=name: first_paint(CHART.format(name)))
            for name, module in CHARTS.items()
            if importlib.util.find_spec(module) is not None
        ),
    )
    for name, what in rows:
        found = measure(what, times)
        target = TARGETS.get(name)
        missed |= target is not None and statistics.median(found) > target
        cells = (statistics.median(found), min(found), max(found), *([target] if target else []))
        print(f"{name:<30}" + "".join(f"{cell:>9.3f}" for cell in cells), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
