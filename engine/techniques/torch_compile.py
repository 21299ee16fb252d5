"""Decoder layers, or all of them as one graph, compiled by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique

if TYPE_CHECKING:
    from memwb.engine.protocol import Device


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of torch.compile."""

    scope: Annotated[
        Literal["layers", "model"],
        Meta(description="each decoder layer by itself, or the whole decoder as one graph"),
    ] = "layers"
    backend: Annotated[
        Literal["inductor", "aot_eager"],
        Meta(description="aot_eager only chooses what to keep for backward: no compiler needed"),
    ] = "inductor"
    dynamic: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="one graph for all lengths; auto once a second length has come"),
    ] = "auto"


technique = Technique(
    name="torch_compile",
    title="torch.compile",
    group="compile",
    shrinks=("activations", "temporary"),
    saves="Activations that are cheap to compute again, and temporaries between fused operators.",
    costs="Seconds to minutes of compiling in the first step; layers compile faster than a model.",
    not_when="Runs are short, or shapes change at every step; the head and the loss stay as is.",
    source="https://docs.pytorch.org/docs/stable/torch.compiler.html",
    params=Params,
    # A fused kernel keeps in fp32 what the plain run rounds to the model's precision between
    # operators, and adds up in another order. The longest such chains in a layer (the residual
    # sum into a norm, the gated activation) are four operators long; each rounding errs by
    # 2^-9 in bf16, so that a value differs by 4 * 2^-9 at most. The loss is a mean of values.
    tolerance=2**-7,
)

NO_ARITHMETIC = (
    "what is fused and kept depends on the compiler and the kernels; a burst measures it"
)


def unavailable(params: Params, device: Device | None) -> str:
    """Why inductor cannot compile here: no compiler, no headers, or no triton for a GPU."""
    import importlib.util
    import os
    import shutil
    import sysconfig
    from pathlib import Path

    if params.backend != "inductor":
        return ""
    compilers = [os.environ.get("CXX", ""), os.environ.get("CC", ""), "g++", "clang++", "gcc"]
    if not any(name and shutil.which(name) for name in compilers):
        return "inductor needs a C++ compiler (g++ or clang++); backend aot_eager needs none"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        return f"inductor needs Python's headers ({headers}); backend aot_eager needs none"
    if device is not None and device.kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "inductor needs triton on a GPU: pip install triton"
    return ""


def patch_model(model: Any, *, scope: str, backend: str, dynamic: str) -> Any:
    """Compile the forward functions in place: names of weights and what is saved stay."""
    import torch
    from torch._dynamo import config as dynamo_config

    from memwb.engine.recipe import decoder_layers

    layers = decoder_layers(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Layers that differ (in their window, say) are compiled one by one, and beyond this limit
    # torch would run the rest uncompiled without a word.
    limit = 2 * len(layers) + 8
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, limit)
    shapes = {"auto": None, "always": True, "never": False}[dynamic]
    for module in layers if scope == "layers" else [base.get_decoder()]:
        module.forward = torch.compile(module.forward, backend=backend, dynamic=shapes)
    return model


def meta_patch_model(model: Any, *, scope: str, backend: str, dynamic: str) -> Any:
    """The same with aot_eager, which runs operators one by one; inductor cannot be told.

    aot_eager is traced for real: what it keeps for backward is decided from shapes alone.
    inductor's buffers are those that are left between the kernels that it makes for a device,
    and it makes none for meta.
    """
    if backend == "inductor":
        from memwb.engine.errors import CannotPredict

        raise CannotPredict(
            "torch.compile cannot be predicted with inductor",
            "which tensors exist between kernels depends on how they are fused on the device",
            "Run a burst to measure it, or predict with -o torch_compile.backend=aot_eager.",
            technique="torch_compile",
        )
    model = patch_model(model, scope=scope, backend=backend, dynamic=dynamic)
    for module in model.modules():
        if "forward" in vars(module):
            module.forward = _without_autocast(module.forward)
    return model


def _without_autocast(compiled: Any) -> Any:
    """The compiled function, which says so when it is called under autocast.

    AOTAutograd traces the casts of the device's own autocast, and meta has none.
    """
    import functools

    import torch

    from memwb.engine.errors import CannotPredict

    @functools.wraps(compiled)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise CannotPredict(
                "torch.compile cannot be predicted under autocast",
                "which casts are kept for backward is decided as the graph is made on the device",
                "Run a burst to measure it, or predict with bf16 in place of amp.",
                technique="torch_compile",
            )
        return compiled(*args, **kwargs)

    return forward
