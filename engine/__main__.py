"""The engine's process: JSON lines in, JSON lines out (``python -m memwb.engine``).

For example::

    printf '%s\\n' '{"type":"start","plan":{"model":"tiny"}}' | memwb-engine

runs one burst and ends with its exit code: 0 done, 1 failed, 2 wrong plan or command, 3 out of
memory, 130 stopped. ``{"type":"predict", ...}`` predicts the plan, and the exit code is 0, or 2 if
it cannot be predicted. Everything else that prints goes to standard error.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Give the real standard output to the protocol alone, then serve."""
    arguments = sys.argv[1:]
    if arguments:
        wanted = arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if wanted else sys.stderr)
        raise SystemExit(0 if wanted else 2)
    protocol = os.dup(1)
    os.dup2(2, 1)
    from memwb.engine.trainer.server import serve

    code = serve(protocol)
    # The interpreter's own shutdown takes a second with torch in it, and nothing is left to do.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
