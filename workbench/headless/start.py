"""Start the workbench from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from memwb.engine.errors import MemwbError


def workbench(arguments: argparse.Namespace) -> int:
    """``memwb open [PLAN]``, and ``memwb`` alone on a terminal."""
    # A driver that is named talks to something else, as that of `memwb --serve` to a browser.
    if "TEXTUAL_DRIVER" not in os.environ and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise MemwbError(
            "The workbench needs a terminal",
            "standard input or output is not one",
            "Without a terminal: memwb run PLAN, or memwb demo.",
        )
    if "TEXTUAL_DRIVER" not in os.environ and os.environ.get("TERM") == "dumb":
        raise MemwbError(
            "This terminal cannot show the workbench",
            "TERM is dumb: nothing can be written at a place of its screen",
            "Set TERM to what the terminal is, as xterm-256color, or use memwb run PLAN.",
        )
    if arguments.overrides and not arguments.plan:
        raise MemwbError(
            "There is no plan to change", "-o came without a plan", "memwb open PLAN -o …"
        )
    plan = None
    if arguments.plan:
        from memwb.engine.presets import load_plan

        plan = load_plan(arguments.plan, arguments.overrides)
    from memwb.workbench.start import start

    if "TEXTUAL_DRIVER" in os.environ:
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    return start(plan)


def _follow(server: int) -> None:
    """Leave when the server is no more: killed, it cannot say so, and Textual reads on in vain."""
    while os.getppid() == server:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
