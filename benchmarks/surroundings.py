"""Versions, date and commit: without them a figure says nothing."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes")
RIVALS = ("liger-kernel", "cut-cross-entropy", "quack-kernels")
"""Named only where they are installed."""


def surroundings() -> dict[str, str]:
    """The date (UTC), the commit, and each package's version, by name.

    A copy that is no repository, or a machine without git, is told its commit by ``COMMIT``.
    """
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = os.environ.get("COMMIT", "")
    with contextlib.suppress(FileNotFoundError):
        commit = commit or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    for name in RIVALS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    versions["device"] = device()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "commit": commit or "unknown", **versions}


def device() -> str:
    """The first GPU's name, as the driver's library tells it; ``no GPU`` where there is none."""
    try:
        # What it needs is not needed to race kernels.
        from memwb.engine.gpus import local_gpus
    except ImportError as error:
        return f"unknown ({error})"
    gpus = local_gpus()
    return gpus[0].name if gpus else "no GPU"
