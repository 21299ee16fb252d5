"""What many predictions need and make once a process: made before they are forked."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import inspect

from memwb.engine.stitch import piece
from memwb.engine.technique import hooks_of, module_of, techniques


@functools.cache
def warm() -> None:
    """Read every technique's hooks, and compile what transformers keeps for adapters.

    Without it each process that predicts would spend a quarter of its time on these.
    """
    for name in techniques():
        for stage in hooks_of(name):
            piece(module_of(name).__name__, stage)
    with contextlib.suppress(Exception):  # inner matters of transformers, which may change
        mapping = importlib.import_module("transformers.conversion_mapping")
        mapping.get_checkpoint_conversion_mapping("llama")
    # Which file is whose: torch asks for each operator that a script registers.
    inspect.getmodule(compile("0", "no file of ours", "eval"))
    # As when the engine became ready: what is here now never changes.
    gc.collect()
    gc.freeze()
