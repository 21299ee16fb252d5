"""What is installed is memwb and nothing beside it; a wheel holds all that runs and is read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from memwb.engine.version import VERSION

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "workbench", "kernels", "presets")
CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import kernels, memwb.engine, memwb.kernels, memwb.presets, memwb.workbench
assert kernels.OURS is False, kernels.__file__
for package in (memwb.engine, memwb.kernels, memwb.presets, memwb.workbench):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
from memwb.engine.catalog import catalogue
from memwb.engine.presets import presets
assert "tiny" in catalogue() and "tiny-demo" in presets()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the repository: nothing of an earlier build gets into it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("memwb/")}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    files = {
        f"memwb/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix in (".py", ".toml", ".json", ".tcss", ".typed")
    }
    assert held == files
    assert {f"memwb/{room}/py.typed" for room in ROOMS} <= held
    assert "memwb/__init__.py" not in held
    assert len(licences) == 1


def test_every_file_of_the_rooms_is_of_a_kind_that_is_packaged() -> None:
    kinds = {
        path.suffix
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert kinds <= {".py", ".toml", ".json", ".tcss", ".typed"}


def test_it_installs_beside_another_package_named_kernels(wheel: Path, tmp_path: Path) -> None:
    dummy = tmp_path / "dummy"
    (dummy / "kernels").mkdir(parents=True)
    (dummy / "kernels/__init__.py").write_text("OURS = False\n")
    (dummy / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='kernels', version='1', packages=['kernels'])\n"
    )
    place = tmp_path / "place"
    for source in (dummy, wheel):
        pip(
            *("install", "--no-deps", "--no-build-isolation", "--quiet", "--target"),
            *(str(place), str(source)),
        )
    assert sorted(path.name for path in place.iterdir() if not path.name.endswith("-info")) == [
        "bin",
        "kernels",
        "memwb",
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHECK, str(place)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "MEMWB_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = archive.read(name).decode().splitlines()
    assert f"Version: {VERSION}" in lines
    assert "License-Expression: Apache-2.0" in lines
    assert "Requires-Python: >=3.11" in lines
    for package in ("triton", "bitsandbytes"):
        (line,) = [line for line in lines if line.startswith(f"Requires-Dist: {package}")]
        assert "platform_system" in line


def test_every_direct_dependency_has_a_tested_pin() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    direct = [Requirement(text) for part in (project["dependencies"], *extras) for text in part]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[name.lower()] = version
    # An extra may take in another one.
    for requirement in (each for each in direct if each.name != project["name"]):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
