"""Adapters as one operator with the layer beside them, which keeps that layer's input alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwb.engine.technique import Params, Relation, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan

technique = Technique(
    name="fused_lora",
    title="fused LoRA",
    group="activations",
    saves="In half precision the fp32 copies of x that peft's adapters keep, one a projection.",
    costs="Nothing: a thin product more in backward, and fewer and narrower ones in forward.",
    not_when="In fp32 without autocast: there peft's adapters share one input too.",
    source="memwb.kernels.lora_linear; docs/kernels/lora.md",
    needs=(Relation(("lora",), "it is the adapters that are fused"),),
    # In half precision peft computes the adapter in fp32, and this in the layer's own precision:
    # A, B and x Aᵀ are rounded by 2^-9 each, of a share that starts as nothing and is added to a
    # sum that is rounded as much itself. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)

NO_ARITHMETIC = (
    "what it leaves out depends on which projections are adapted and which inputs they share; a "
    "burst measures it"
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the adapters, and the override that mends it."""
    lora: Any = plan.techniques.get("lora")
    if lora is None:
        return None
    if lora.dropout > 0:
        return "dropout of the adapter's input makes it another one than the layer's", (
            "lora.dropout=0"
        )
    if lora.dora:
        return (
            "DoRA scales the sum of layer and adapter by the norms of its rows",
            "lora.dora=false",
        )
    return None


def patch_model(model: Any) -> Any:
    """Have each adapted linear layer computed with its adapter by one operator."""
    from functools import partial

    from peft.tuners.lora import LoraLayer

    count, last = 0, dict[str, Any]()
    for module in model.modules():
        if isinstance(module, LoraLayer) and len(module.lora_A):
            module.forward = partial(fused_forward, module, module.forward, last)
            count += 1
    if not count:
        raise ValueError("there is no adapted linear layer to fuse")
    return model


def fused_forward(
    module: Any, plain: Any, last: dict[str, Any], x: torch.Tensor, *args: Any, **named: Any
) -> Any:
    """An adapted layer's forward pass; peft's own where there is more to it than one adapter."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from memwb.kernels.lora_linear import lora_add, lora_linear

    names = [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or module.merged or args or named or len(names) != 1:
        return plain(x, *args, **named)
    [name] = names
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    base, scale = module.base_layer, module.scaling[name]
    x = as_computed(x, last)
    if type(base) is torch.nn.Linear:
        return lora_linear(x, base.weight, base.bias, a, b, scale)
    if type(base) is Conv1D:
        return lora_linear(x, base.weight.T, base.bias, a, b, scale)
    # A quantized layer multiplies by itself, and keeps its packed weight alone.
    return lora_add(base(x), x, a, b, scale)


def as_computed(x: torch.Tensor, last: dict[str, Any]) -> torch.Tensor:
    """x in the precision of autocast, cast once for all layers that it goes to one after another.

    Autocast itself casts for each of them, and each would keep a copy. ``last`` knows the cast
    before this one for as long as somebody holds it.
    """
    import weakref

    import torch

    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype != torch.float32:
        return x
    dtype = torch.get_autocast_dtype(kind)
    if torch.compiler.is_compiling():
        return x.to(dtype)
    state = (x._version, torch.is_grad_enabled(), dtype)
    if last.get("state") == state and last["of"]() is x:
        kept: torch.Tensor | None = last["cast"]()
        if kept is not None:
            return kept
    cast = x.to(dtype)
    last.update(state=state, of=weakref.ref(x), cast=weakref.ref(cast))
    return cast
