"""Who imports whom, seen from a process of its own: no torch in the UI, no `kernels` of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "triton",
    "numpy",
    "pyarrow",
)

WALK = """
import importlib, json, pkgutil, sys
import memwb.engine, memwb.workbench
from memwb.engine.technique import hooks_of, techniques
names = []
for package in (memwb.engine, memwb.workbench):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name.split(".")[2] not in ("trainer", "predict", "__main__"):
            importlib.import_module(found.name)
            names.append(found.name)
for name in techniques():
    hooks_of(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


def python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_workbench_and_the_light_face_import_nothing_heavy(tmp_path: Path) -> None:
    names, loaded = json.loads(python(WALK, tmp_path))
    assert {"memwb.engine.script", "memwb.engine.recipe", "memwb.workbench.cli"} <= set(names)
    assert [name for name in HEAVY if name in loaded] == []


def test_the_engine_says_hello_before_it_imports_anything_heavy(tmp_path: Path) -> None:
    code = "import json, sys, memwb.engine.trainer.server; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(python(code, tmp_path))
    assert [name for name in HEAVY if name in loaded] == []


def test_the_version_needs_next_to_nothing(tmp_path: Path) -> None:
    code = """
import json, sys
before = set(sys.modules)
from memwb.workbench.cli import main
main(["--version"])
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    version, loaded = python(code, tmp_path).splitlines()
    assert version.startswith("memwb ")
    assert {name.split(".")[0] for name in json.loads(loaded)}.isdisjoint(
        {"msgspec", "rich", "textual", "asyncio", "tomllib", "importlib_metadata"}
    )


def test_the_root_of_the_repository_is_not_on_the_path() -> None:
    """Else `import kernels`, which transformers does, would find our folder."""
    assert str(ROOT) not in [str(Path(entry).resolve()) for entry in sys.path if entry]
    assert "" not in sys.path
    code = """
try:
    import kernels
except ImportError:
    print("none")
else:
    print(kernels.__file__)
"""
    assert str(ROOT) not in python(code, ROOT)


def test_an_engine_started_in_the_repository_does_not_import_its_folders() -> None:
    """A user starts memwb there too, and `python -m` would put that folder first on the path."""
    from memwb.engine.client import Engine

    assert Engine().command[1] == "-P"
