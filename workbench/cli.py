"""The command line: arguments first, everything else imported by the command that needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``memwb``."""
    if sys.argv[1:] == ["--version"]:
        from memwb.engine.version import VERSION

        print(f"memwb {VERSION}")
