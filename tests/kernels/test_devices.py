"""Kernels are launched on the GPU of their tensors, whichever is the current one."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")

KERNELS = Path(__file__).parents[2] / "kernels"
FILES = [path for path in sorted(KERNELS.glob("*.py")) if "_kernel[" in path.read_text("utf-8")]


def launches(tree: ast.AST) -> set[int]:
    """Lines where a kernel is launched: ``name_kernel[grid](...)``."""
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Subscript)
        and ast.unparse(node.func.value).endswith("_kernel")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_launch_is_on_the_gpu_of_its_tensors(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    within: dict[str, set[int]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            name = ast.unparse(node.items[0].context_expr).partition("(")[0]
            within.setdefault(name, set()).update(launches(node))
    ((name, found),) = within.items()
    assert found == launches(tree) != set()
    device = getattr(importlib.import_module(f"memwb.kernels.{path.stem}"), name)
    assert device(SimpleNamespace(is_meta=False, get_device=lambda: 1)).idx == 1
    # Nothing is switched on meta, whatever is pretended there, nor in Triton's interpreter.
    assert device(SimpleNamespace(is_meta=True, get_device=lambda: 0)).idx == -1
    with device(torch.zeros(1)), device(torch.zeros(1, device="meta")):
        pass
