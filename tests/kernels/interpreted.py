"""Triton kernels on a CPU: a test's operators run the wrappers that are registered for CUDA.

Within ``interpreted(module)`` each jitted function of the module is replaced by Triton's own
interpreter of it, and the CPU kernel of each of its operators by the CUDA one. So a test calls the
same public function twice, with and without, and sees autograd, fake and launch in one piece.

What the interpreter is good for: fp32, fp16, integers, and shapes. bf16 is wrong there (its bits
are taken for an integer's), and refused here. It has no libdevice, no autotuning and no inline
assembly, sees no read out of bounds, and takes some milliseconds for each program of a grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch.library import CustomOpDef  # type: ignore[attr-defined]
from triton import language
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

PLACES = (
    language,
    language.core,
    language.math,
    language.standard,
    language.core.tensor,
    language.core.dtype,
    language.core.tensor_descriptor_base,
)
"""Where the interpreter leaves its own functions in the place of the compiler's."""


@contextlib.contextmanager
def interpreted(*modules: ModuleType, processors: int = 2) -> Iterator[list[str]]:
    """Run the Triton kernels of these modules on CPU tensors; gives the names of what is launched.

    ``processors`` is how many multiprocessors the device seems to have: wrappers that make a
    program for each make few, and each of them goes round its loop.
    """
    launched: list[str] = []
    device = SimpleNamespace(multi_processor_count=processors, major=9, minor=0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_restored())
        stack.enter_context(triton.knobs.runtime.scope())
        triton.knobs.runtime.interpret = True

        def replace(place: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(place, name, value))

        replace(torch.cuda, "get_device_properties", lambda *_: device)
        replace(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        for place in (language, language.standard):
            for name, value in list(vars(place).items()):
                if isinstance(value, JITFunction):
                    function = InterpretedFunction(value.fn)
                    replace(place, name, function)
                    if hasattr(language.core.tensor, name):
                        replace(language.core.tensor, name, _method(function))
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    kernel = InterpretedFunction(value.fn)
                    kernel.add_pre_run_hook(_noting(launched, name))
                    replace(module, name, kernel)
                elif isinstance(value, CustomOpDef) and "cuda" in value._backend_fns:
                    kernels = value._backend_fns
                    stack.enter_context(mock.patch.dict(kernels, {"cpu": kernels["cuda"]}))
        yield launched


def _noting(launched: list[str], name: str) -> Any:
    """A hook that notes a launch, and refuses what the interpreter would compute wrongly."""

    def note(*args: Any, **kwargs: Any) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                assert value.dtype != torch.bfloat16, "bf16 is wrong in the interpreter"
        launched.append(name)

    return note


def _method(function: Any) -> Any:
    """As a method of a tensor: the instance is the first argument."""
    return lambda *args, **kwargs: function(*args, **kwargs)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Undo what the interpreter leaves behind: else the next compilation would meet its functions.

    Its own undoing covers what the kernel calls, not what the functions called there call in turn.
    """
    saved = [(place, dict(vars(place))) for place in PLACES]
    try:
        yield
    finally:
        # What was rewritten looks names up where they are removed now.
        InterpretedFunction.rewritten_fn.clear()
        for place, names in saved:
            for name in set(vars(place)) - set(names):
                delattr(place, name)
            for name, value in names.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)
