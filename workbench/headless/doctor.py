"""``memwb doctor``: what is installed, what works here, and what is missing for what."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine import paths
from memwb.engine.catalog import cache_folder
from memwb.engine.devices import devices
from memwb.engine.technique import techniques, unavailable
from memwb.engine.version import VERSION
from memwb.workbench.headless.output import print_json, size, table

NEEDED = ("torch", "transformers", "safetensors", "msgspec", "textual", "rich", "tomlkit")
UNWRITABLE = "cannot be written to"
OPTIONAL = ("peft", "accelerate", "bitsandbytes", "triton", "pyarrow", "psutil", "nvidia-ml-py")


def doctor(arguments: argparse.Namespace) -> int:
    """Look at everything; the exit code is 1 if memwb cannot run a burst here."""
    found = examine()
    if arguments.json:
        print_json(found)
    else:
        print(_text(found))
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """Versions, devices, techniques, folders and the terminal, as plain data."""
    versions = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    folders = {
        "home": paths.home(),
        "runs": paths.runs_folder(),
        "settings": paths.settings_file().parent,
        "predictions": paths.predictions_folder(),
    }
    here = devices()
    lacks = {
        name: unavailable(technique, None, here[0]) for name, technique in techniques().items()
    }
    problems = [f"{name} is not installed" for name in NEEDED if versions[name] is None]
    problems += [
        f"{folder} ({name}) {UNWRITABLE}: {reason}"
        for name, folder in folders.items()
        if (reason := _unwritable(folder))
    ]
    if not hasattr(os, "fork"):
        problems.append("this system cannot fork, and a burst is a fork of the engine")
    return {
        "memwb": VERSION,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "devices": msgspec.to_builtins(here),
        "techniques": lacks,
        "folders": {name: str(folder) for name, folder in folders.items()},
        "models": str(cache_folder()),
        "predictions": str(paths.predictions_folder()),
        "terminal": _terminal(),
        "problems": problems,
    }


def _text(found: dict[str, Any]) -> str:
    versions = [(name, version or "not installed") for name, version in found["versions"].items()]
    devices = [
        (device["kind"], device["name"], size(device["capacity"])) for device in found["devices"]
    ]
    lacks = [(name, lack) for name, lack in found["techniques"].items() if lack]
    models = ("models", found["models"])
    terminal = found["terminal"]
    parts = [
        f"memwb {found['memwb']}, Python {found['python']}, {found['system']}",
        "Packages\n" + _indented(table(versions)),
        "Devices\n" + _indented(table(devices)),
        "Techniques\n" + _indented(table(lacks) or f"all {len(found['techniques'])} can run here"),
        "Folders\n" + _indented(table([*found["folders"].items(), models])),
        f"Terminal\n  {terminal['kind']}, {terminal['columns']}×{terminal['lines']}, "
        f"{terminal['colours']}, {terminal['encoding']}",
        "\n".join(f"✗ {problem}" for problem in found["problems"]) or "✓ a burst can run here",
    ]
    if any(UNWRITABLE in problem for problem in found["problems"]):
        parts.append("MEMWB_HOME=FOLDER has memwb keep its files elsewhere.")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unwritable(folder: Path) -> str:
    """Why no files can be made in the folder, or it in the nearest one that exists; else empty."""
    missing: list[str] = []
    try:
        while not _stands(folder):
            missing.append(folder.name)
            folder = folder.parent
        for name in missing:
            _stands(folder / name)  # a name can be too long for the place where it would stand
        with tempfile.TemporaryFile(dir=folder) as stream:
            # On a full disk a file can be made, but holds nothing.
            stream.write(b"memwb")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _stands(path: Path) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _terminal() -> dict[str, Any]:
    columns, lines = shutil.get_terminal_size()
    colours = "16 colours"
    if os.environ.get("NO_COLOR"):
        colours = "no colour (NO_COLOR is set)"
    elif os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        colours = "16 million colours"
    elif "256" in os.environ.get("TERM", ""):
        colours = "256 colours"
    return {
        "interactive": sys.stdin.isatty() and sys.stdout.isatty(),
        "kind": os.environ.get("TERM") or "no terminal",
        "colours": colours,
        "columns": columns,
        "lines": lines,
        "encoding": sys.stdout.encoding or "",
    }
