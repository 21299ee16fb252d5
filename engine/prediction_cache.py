"""Predictions kept on disk, by everything that decides them; for speed alone, never an error."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine import paths
from memwb.engine.catalog import Model, local_tokenizer, local_weights
from memwb.engine.devices import cpu_name
from memwb.engine.errors import CannotPredict
from memwb.engine.gpus import local_gpus
from memwb.engine.plan import Plan, active
from memwb.engine.prediction import Prediction
from memwb.engine.version import VERSION

MOST = 2000
"""So many entries stay; the least recently used ones go."""

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "torchao",
    "galore-torch",
    "flash-attn",
    "triton",
    "kernels",
)
"""Their versions are part of every key: they decide what the script does, or what it can do."""

NO_MATTER = ("learning_rate", "schedule", "warmup_steps")
"""Of the workload: they change numbers, not what holds them."""

SETTINGS = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED",
)
"""The variables that a prediction for a GPU heeds: the caching allocator's, the workspaces' and
the choice of attention kernels."""

SUFFIX = ".json.z"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry: a prediction, or why a technique cannot be predicted."""

    result: Prediction | None = None
    refusal: tuple[str, str, str, str] = ("", "", "", "")
    """Title, what, fix and technique."""

    def told(self) -> Prediction:
        """The prediction. Raises CannotPredict where there is none."""
        if self.result is None:
            raise CannotPredict(*self.refusal)
        return self.result


def key_of(plan: Plan, model: Model, target: str) -> str:
    """The name under which a plan's prediction is kept; empty where that cannot be told.

    Of the plan it has what matters to memory; of the model the content of its config, not where
    it lies; of this machine its GPUs, with which a prediction is compared, and what decides how
    memory is used on the target. A config that is not here yet, or that brings code of its own,
    has no name.
    """
    if model.config is None or model.config.get("auto_map"):
        return ""
    chosen = active(plan)
    workload: dict[str, Any] = msgspec.to_builtins(plan.workload)
    for name in NO_MATTER:
        del workload[name]
    tokenizer: tuple[Any, ...] = ()
    if "concatenation" in chosen:
        # Every row is filled, whatever the order.
        del workload["seed"]
    if "concatenation" in chosen and target != "cpu":
        # The second step is like all that follow.
        workload["steps"] = min(plan.workload.steps, 2)
    else:
        # How many tokens there are decides how rows come about, and on a CPU what they take.
        files = local_tokenizer(model)
        tokenizer = (model.tokenizer, [(str(file), _state_of(str(file))) for file in files])
    parts = (
        fingerprint(),
        target,
        _circumstances(target),
        local_gpus(),
        model.config,
        model.weights,
        # Their headers tell what loading does.
        [(file.name, _state_of(str(file))) for file in local_weights(model)],
        workload,
        _state_of(plan.workload.data),
        tokenizer,
        [(name, params) for name, params in chosen.items()],
    )
    text = msgspec.json.encode(parts, order="sorted")
    return hashlib.sha256(text).hexdigest()[:40]


def find(key: str) -> Kept | None:
    """What is kept under that name; None without an entry that can be read."""
    if not key:
        return None
    path = _path(key)
    try:
        found = msgspec.json.decode(zlib.decompress(path.read_bytes()), type=Kept)
    except (OSError, ValueError, RecursionError, zlib.error, msgspec.DecodeError):
        return None
    # It was used: others go before it.
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def keep(key: str, kept: Kept) -> None:
    """Keep a result, whole or not at all; nothing happens where the folder cannot be written."""
    if not key:
        return
    path = _path(key)
    packed = zlib.compress(msgspec.json.encode(kept), 1)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SUFFIX)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(packed)
            os.replace(made, path)
        except BaseException:
            os.unlink(made)
            raise


def prune(most: int = MOST) -> None:
    """Let the least recently used entries go, until ``most`` are left."""
    try:
        found = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(_folder())]
    except OSError:
        return
    for _, path in sorted(found)[: max(0, len(found) - most)]:
        with contextlib.suppress(OSError):
            os.unlink(path)


@functools.cache
def fingerprint() -> str:
    """What this process predicts with: versions of the libraries, and the engine's own sources.

    About 20 ms, once; asked for early, it is that of the sources which are loaded.
    """
    digest = hashlib.sha256(f"{VERSION} {sys.version}".encode())
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f" {name} {importlib.metadata.version(name)}".encode())
    engine = Path(__file__).parent
    kernels = engine.parent / "kernels"
    files = itertools.chain(engine.rglob("*"), kernels.rglob("*"))
    for path in sorted(path for path in files if path.suffix in (".py", ".toml")):
        digest.update(f" {path.name} ".encode())
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _circumstances(target: str) -> list[str | None]:
    """What else decides: the CPU, for which torch chooses kernels, or what sets a GPU's up; and
    whether transformers reads weights in threads."""
    here = [cpu_name()] if target == "cpu" else [os.environ.get(name) for name in SETTINGS]
    return [*here, os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")]


def _state_of(data: str) -> tuple[int, int]:
    """Size and time of a data file; zeros for what is none."""
    try:
        found = os.stat(os.path.expanduser(data))
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _folder() -> Path:
    return paths.predictions_folder()


def _path(key: str) -> Path:
    return _folder() / f"{key}{SUFFIX}"
