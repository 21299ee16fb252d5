"""Versions, date and commit: without them a figure says nothing."""

from __future__ import annotations

import datetime
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes")


def surroundings() -> dict[str, str]:
    """The date (UTC), the commit, and each package's version, by name."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "commit": commit or "unknown", **versions}
