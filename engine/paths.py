"""Where memwb keeps what belongs to the user: runs, presets, settings, and what it remembers."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The user's data folder: ``MEMWB_HOME``, else the platform's own place. Not created here."""
    chosen = os.environ.get("MEMWB_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    import platformdirs

    return platformdirs.user_data_path("memwb", appauthor=False)


def runs_folder() -> Path:
    """Every run has a folder here."""
    return home() / "runs"


def presets_folder() -> Path:
    """The user's own presets."""
    return home() / "presets"


def cache_folder() -> Path:
    """What can be made again, and may be deleted at any time; beside the data with MEMWB_HOME."""
    if os.environ.get("MEMWB_HOME"):
        return home() / "cache"
    import platformdirs

    return platformdirs.user_cache_path("memwb", appauthor=False)


def predictions_folder() -> Path:
    """Every plan's prediction that was made lately."""
    return cache_folder() / "predictions"


def log_file() -> Path:
    """What the engine says on standard error, and tracebacks that no user should meet."""
    return home() / "memwb.log"


def settings_file() -> Path:
    """The user's settings; beside the data when ``MEMWB_HOME`` is set."""
    if os.environ.get("MEMWB_HOME"):
        return home() / "settings.toml"
    import platformdirs

    return platformdirs.user_config_path("memwb", appauthor=False) / "settings.toml"
