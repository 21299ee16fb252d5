"""How a burst ended, in the user's words: what an exception means and what to do about it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from memwb.engine.advice import Setting, advice
from memwb.engine.data import of_script
from memwb.engine.errors import MemwbError
from memwb.engine.memory import CATEGORIES, Alive, Peak, sized
from memwb.engine.protocol import Ended

EXIT_CODES = {"done": 0, "failed": 1, "refused": 2, "oom": 3, "stopped": 130}
"""The exit code of a process whose burst ended so."""

_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "CUDA out of memory")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def done(burst: str, losses: Sequence[float], peak: Peak | None) -> Ended:
    """The event of a burst that came to its end; says so when its loss left the numbers."""
    wild = next((step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)), 0)
    if not wild:
        return Ended(burst, "done", peak)
    return Ended(
        burst,
        "done",
        peak,
        title=f"The loss is no number from step {wild} on",
        what="the weights have overflowed: memory and speed are measured, the losses mean nothing",
        fix="Lower workload.learning_rate, clip gradients, or take a wider precision.",
    )


def ended_by(
    burst: str,
    error: BaseException,
    started: bool,
    peak: Peak | None,
    setting: Setting | None = None,
    alive: Alive | None = None,
) -> Ended:
    """The event for an exception. Before ``started`` a wrong input is a refusal.

    ``setting`` is what ran, as far as it is known: after an OOM, techniques are proposed for it.
    ``alive`` is what was there when it happened.
    """
    if isinstance(error, KeyboardInterrupt):
        return Ended(burst, "stopped", peak, title="The burst was stopped")
    if is_oom(error):
        return _oom(burst, error, peak, setting, alive)
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return Ended(burst, "done", peak)
    # Before the data is read it is the user's own files and values that can be wrong (of which
    # libraries complain in classes of their own), unless the script itself is.
    faults = ImportError | SyntaxError | NameError | AttributeError
    if not started and not isinstance(error, faults):
        return refused(burst, error)
    if "No available kernel" in str(error):
        return Ended(
            burst,
            "failed",
            peak,
            title="sdpa's kernel does not take this model's inputs",
            what="attention.backend leaves torch one kernel, and it refused: flash and cudnn take "
            "bf16 or fp16 on CUDA devices and no padding masks, flash takes no dropout on CPUs",
            fix="Leave the choice to torch: -o attention.backend=auto.",
        )
    lines = str(error).strip().splitlines() or [""]
    title = f"The burst failed: {type(error).__name__}: {lines[0]}".rstrip(": ")
    return Ended(
        burst,
        "failed",
        peak,
        title=title,
        what="\n".join(lines[1:6]),
        fix="The engine's log has the traceback (`memwb locate` says where).",
    )


NO_MODEL = (
    "The model cannot be loaded",
    "Check $.model: a catalogue name, a folder with config.json, or the id of a causal language "
    "model on the hub (a gated one needs `hf auth login`).",
)
"""Title and mend where a config is nothing that transformers takes."""


def refused(burst: str, error: BaseException) -> Ended:
    """Nothing had run: the plan or its input is wrong."""
    # The script's own class: it is known by its name alone.
    if type(error).__name__ == "DataError":
        error = of_script(error)
    if isinstance(error, MemwbError):
        return Ended(burst, "refused", title=error.title, what=error.what, fix=error.fix)
    if isinstance(error, SystemExit):
        what, fix = f"the script ended with {error.code}", "Check the values of the workload."
        return Ended(burst, "refused", title="The script refused its input", what=what, fix=fix)
    title, fix = NO_MODEL
    return Ended(burst, "refused", title=title, what=str(error), fix=fix)


def killed(burst: str, code: int, peak: Peak | None) -> Ended:
    """The process of the burst was gone before it could say anything. ``code`` as subprocess."""
    title = f"The burst ended without a word (exit code {code})"
    what, fix = "", "The engine's log may say more."
    if code < 0:
        title = f"The burst was killed (signal {-code})"
        what = "Its process was gone before it could say anything."
    if code == -9:
        what = "Something outside the engine killed its process."
        fix = (
            "When a machine runs short, the system's out-of-memory killer does this: take a "
            "smaller batch or sequence, or a technique that saves memory."
        )
    return Ended(burst, "failed", peak, title=title, what=what, fix=fix)


def is_oom(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the device or the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def _oom(
    burst: str,
    error: BaseException,
    peak: Peak | None,
    setting: Setting | None,
    alive: Alive | None,
) -> Ended:
    asked = requested(str(error))
    what = f"{sized(asked)} more were asked for" if asked else "one more allocation was asked for"
    if alive is not None and alive.asked is not None:
        what += f" by {alive.asked.op.removeprefix('aten.')}"
        what += f" in {alive.asked.module}" if alive.asked.module else ""
    fix = "Take a smaller batch_size or sequence_length."
    if peak is not None:
        parts = ", ".join(f"{name} {sized(getattr(peak.categories, name))}" for name in CATEGORIES)
        what += f"; the peak before that was {sized(peak.allocated)} in {peak.phase} ({parts})"
        largest = max(CATEGORIES, key=lambda name: getattr(peak.categories, name))
        fix = advice(setting, largest) if setting is not None else fix
    return Ended(burst, "oom", peak, title="Out of memory", what=what, fix=fix)


def requested(message: str) -> int:
    """The bytes that an allocator's message says it was asked for; 0 if it says none."""
    found = re.search(r"ried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
