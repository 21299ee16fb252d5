"""Which problems the kernels are checked on, and which they are raced on, most telling first."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import problems
from benchmarks.gpu.problems import Problem

LOSSES = ("fused_linear_cross_entropy", "cut_cross_entropy")
KERNELS = (*LOSSES, "rms_norm", "layer_norm", "swiglu", "geglu", "rope", "lora_linear", "lora_mlp")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

HEADS = {
    "Llama-3-8B": (4096, 128256),
    "Qwen2.5-7B": (3584, 152064),
    "Gemma-2-2B": (2304, 256000),
    "Qwen2.5-1.5B": (1536, 151936),
}
"""Hidden size and vocabulary. Gemma's cap on the logits is left out: not every arm has one."""
TOKENS = (8192, 2048, 16384)
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"peaky": True},
    {"trained": False},
    {"ignored": 0.5},
    {"peaky": True, "ignored": 0.5},
    {"peaky": True, "trained": False},
)
"""What goals ask for comes first (goals.py)."""


class Case(NamedTuple):
    """A problem that is not made yet. ``tiny`` names what makes it small enough to try out."""

    kernel: str
    label: str
    make: Callable[[str], Problem]


def race(kernel: str, tiny: bool = False) -> list[Case]:
    """The race's cases for a kernel. ``tiny`` shrinks every shape: to try the suite on a CPU."""
    if kernel not in LOSSES:
        return [_case(kernel, make, **shape) for make, shape in _ROWS[kernel](tiny)]
    # The first model's every variant, since the goals are set for it. Then, the further a case is
    # from the first in model, tokens and variant, the later it comes.
    ranked = sorted(
        itertools.product(enumerate(HEADS), enumerate(TOKENS), enumerate(VARIANTS)),
        key=lambda found: (
            bool(found[0][0] or found[1][0]),
            sum(place for place, _ in found),
            [place for place, _ in found],
        ),
    )
    cases = []
    for (_, name), (_, tokens), (_, variant) in ranked:
        hidden, words = HEADS[name]
        if tiny:
            tokens, hidden, words = tokens // 256, hidden // 128, words // 128
        shape = {"tokens": tokens, "hidden": hidden, "words": words, "name": name, **variant}
        cases.append(_case(kernel, problems.losses, **shape))
    return cases


def _case(kernel: str, make: Callable[..., Problem], prefix: str = "", **shape: Any) -> Case:
    label = f"{kernel} {prefix}{_told(shape)}"
    return Case(kernel, label, lambda device: make(kernel, **shape, device=device))


def _told(shape: dict[str, Any]) -> str:
    """``Llama-3-8B 8192×4096×128256 peaky frozen ignored 0.5``."""
    name = [shape["name"]] if "name" in shape else []
    sizes = "×".join(str(value) for value in shape.values() if type(value) is int)
    words = [key for key, value in shape.items() if value is True]
    words += ["frozen"] if shape.get("trained") is False else []
    words += [f"{key} {value:g}" for key, value in shape.items() if type(value) is float]
    return " ".join([*name, sizes, *words])


def _norm_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    scale = 64 if tiny else 1
    return [
        (problems.norms, {"rows": 8192 // scale, "columns": columns // scale, **more})
        for columns, more in ((4096, {}), (4096, {"residual": True}), (2304, {}), (8192, {}))
    ]


def _plain_norm_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    return [(make, shape) for make, shape in _norm_shapes(tiny) if "residual" not in shape]


def _gate_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    scale = 64 if tiny else 1
    shapes = ((8192, 14336), (8192, 9216), (2048, 18944))
    return [
        (problems.gates, {"rows": rows // scale, "columns": columns // scale})
        for rows, columns in shapes
    ]


def _rope_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    keys = ("batch", "length", "heads", "shared", "width")
    shapes = [(1, 8192, 32, 8, 128), (4, 2048, 28, 4, 128), (1, 8192, 16, 16, 64)]
    if tiny:
        shapes = [(batch, 16, heads // 4, shared // 4, 16) for batch, _, heads, shared, _ in shapes]
    return [(problems.ropes, dict(zip(keys, shape, strict=True))) for shape in shapes]


def _adapter_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    keys = ("rows", "columns", "width", "rank")
    shapes = [(8192, 4096, 4096, 16), (8192, 4096, 14336, 16), (8192, 4096, 1024, 64)]
    if tiny:
        shapes = [(rows // 256, 64, 96, 4) for rows, *_ in shapes[:1]]
    return [(problems.adapters, dict(zip(keys, shape, strict=True))) for shape in shapes]


def _adapted_gate_shapes(tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    keys = ("rows", "columns", "width", "rank")
    shapes = [(32, 96, 64, 4)] if tiny else [(8192, 14336, 4096, 16), (2048, 18944, 3584, 16)]
    return [(problems.adapted_gates, dict(zip(keys, shape, strict=True))) for shape in shapes]


_ROWS = {
    "rms_norm": _norm_shapes,
    "layer_norm": _plain_norm_shapes,
    "swiglu": _gate_shapes,
    "geglu": _gate_shapes,
    "rope": _rope_shapes,
    "lora_linear": _adapter_shapes,
    "lora_mlp": _adapted_gate_shapes,
}

_SMALL_LOSSES = (
    (1, 64, 100),
    (3, 128, 1000),
    (31, 256, 4097),
    (123, 512, 32000),
    (4097, 256, 5003),
    (512, 1024, 128256),
)
_TINY_LOSSES = ((1, 8, 10), (3, 16, 100), (31, 24, 257))
"""Tokens, hidden size, vocabulary."""
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"peaky": True},
    {"trained": False},
    {"ignored": 0.5},
    {"ignored": 1.0},
    {"bias": True},
    {"softcap": 30.0},
    {"smoothing": 0.1},
    {"z_loss": 1e-4},
    {"peaky": True, "ignored": 0.3, "softcap": 30.0, "smoothing": 0.1, "bias": True},
)


def correct(kernel: str, tiny: bool = False) -> list[Case]:
    """The matrix of shapes, options and precisions that a kernel has to be right on."""
    found = []
    for name, dtype in DTYPES.items():
        for make, shape in _correct_shapes(kernel, tiny):
            call = functools.partial(make, dtype=dtype)
            found.append(_case(kernel, call, prefix=f"{name} ", **shape))
    return found


def _correct_shapes(kernel: str, tiny: bool) -> list[tuple[Callable[..., Problem], dict[str, Any]]]:
    if kernel in LOSSES:
        keys = ("tokens", "hidden", "words")
        sizes = _TINY_LOSSES if tiny else _SMALL_LOSSES
        shapes = [dict(zip(keys, size, strict=True)) for size in sizes]
        # Every option at one middling shape, every shape plainly.
        return [(problems.losses, shape) for shape in shapes] + [
            (problems.losses, {**shapes[2], **more}) for more in _OPTIONS[1:]
        ]
    if kernel in ("rms_norm", "layer_norm", "swiglu", "geglu"):
        make = problems.norms if kernel.endswith("norm") else problems.gates
        sizes = [(1, 64), (3, 1), (31, 123)]
        sizes += [] if tiny else [(7, 4097), (123, 2304), (4097, 4096), (512, 8192)]
        found = [(make, {"rows": rows, "columns": columns}) for rows, columns in sizes]
        if kernel == "rms_norm":
            found.append((make, {"rows": 31, "columns": 1024, "residual": True}))
        return found
    if kernel == "rope":
        keys = ("batch", "length", "heads", "shared", "width")
        sizes = [(1, 1, 1, 1, 64), (2, 31, 3, 1, 64), (1, 123, 8, 2, 96), (2, 77, 4, 4, 256)]
        found = [(problems.ropes, dict(zip(keys, size, strict=True))) for size in sizes]
        return [*found, (problems.ropes, {**found[1][1], "rotary": 32})]
    keys = ("rows", "columns", "width", "rank")
    sizes = [(1, 64, 64, 4), (31, 123, 77, 3)]
    sizes += [] if tiny else [(123, 512, 256, 16), (513, 1024, 2048, 64)]
    make = problems.adapters if kernel == "lora_linear" else problems.adapted_gates
    return [(make, dict(zip(keys, size, strict=True))) for size in sizes]
