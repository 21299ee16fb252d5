"""Adapters as one operator with the layer beside them, which keeps that layer's input alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Relation, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of fused LoRA."""

    mlp: Annotated[
        bool,
        Meta(description="gated MLPs: the product that enters the adapter is computed again"),
    ] = True


technique = Technique(
    name="fused_lora",
    title="fused LoRA",
    group="kernels",
    shrinks=("activations",),
    saves="Copies of their inputs that adapters keep, fp32 ones in half precision; an MLP's h.",
    costs="In backward one thin product more a projection, and one more pass over an MLP's gate.",
    not_when="Whole layers are checkpointed: then one layer at a time has any of it.",
    source="docs/kernels/lora.md",
    params=Params,
    needs=(Relation(("lora",), "it is the adapters that are fused"),),
    packages=("triton",),
    # In half precision peft computes the adapter in fp32, and this in the layer's own precision:
    # A, B and x Aᵀ are rounded by 2^-9 each, of a share that starts as nothing and is added to a
    # sum that is rounded as much itself. In fp32 only the order of the sums differs.
    tolerance=2**-6,
)

NO_ARITHMETIC = (
    "what it leaves out depends on which projections are adapted and which inputs they share; a "
    "burst measures it"
)

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
"""What a config calls the activations whose products are computed again, and what they are."""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the adapters or the model, and the override that mends it."""
    lora: Any = plan.techniques.get("lora")
    if lora is None:
        return None
    if lora.dropout > 0:
        reason = "dropout of the adapter's input makes it another one than the layer's"
        return reason, "lora.dropout=0"
    if lora.dora:
        return (
            "DoRA scales the sum of layer and adapter by the norms of its rows",
            "lora.dora=false",
        )
    if not params.mlp:
        return None
    text = config.get("text_config") or config
    activation = text.get("hidden_activation") or text.get("hidden_act") or "silu"
    if gated(text) and activation not in ACTIVATIONS:
        return f"{activation} is no activation that it knows in a gated MLP", "fused_lora.mlp=false"
    targets = lora.targets
    named = targets if not isinstance(targets, str) else ()
    down = targets in ("mlp", "all-linear") or any("down_proj" in name for name in named)
    if "fused_mlp" in plan.techniques and down:
        return "it computes gated MLPs itself, and keeps less than fused MLP", "fused_mlp=off"
    return None


def gated(config: Mapping[str, Any]) -> bool:
    """Whether a model of the config may have gated MLPs: those of the other families do not."""
    return not str(config.get("model_type", "")).startswith(("gpt", "opt", "bloom", "falcon"))


def adapt_model(model: Any, *, mlp: bool) -> Any:
    """Have each adapted layer computed with its adapter by one operator.

    Before activations are checkpointed or models are compiled: these wrap what is there by then.
    """
    from functools import partial

    from peft.tuners.lora import LoraLayer

    count, last = 0, dict[str, Any]()
    for module in model.modules():
        if isinstance(module, LoraLayer) and len(module.lora_A):
            module.forward = partial(fused_forward, module, module.forward, last)
            count += 1
    if not count:
        raise ValueError("there is no adapted linear layer to fuse")
    text = model.config.get_text_config()
    name = getattr(text, "hidden_activation", None) or getattr(text, "hidden_act", "")
    for module in model.modules() if mlp else ():
        down = getattr(module, "down_proj", None)
        fused = hasattr(module, "gate_up_proj")
        if isinstance(down, LoraLayer) and (fused or hasattr(module, "gate_proj")):
            if name not in ACTIVATIONS:
                raise ValueError(f"{name!r} is no activation that fused LoRA knows in a gated MLP")
            kind = ACTIVATIONS[name]
            module.forward = partial(fused_mlp_forward, module, module.forward, kind, last)
    return model


def adapter_of(module: Any) -> Any:
    """A, B and the scale of a module's only adapter; None where there is more to it than that."""
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) != 1:
        return None
    [name] = names
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


def fused_forward(
    module: Any, plain: Any, last: dict[str, Any], x: torch.Tensor, *args: Any, **named: Any
) -> Any:
    """An adapted layer's forward pass; peft's own where there is more to it than one adapter."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from memwb.kernels.lora_linear import lora_add, lora_linear

    adapter = adapter_of(module)
    if adapter is None or args or named:
        return plain(x, *args, **named)
    base = module.base_layer
    x = as_computed(x, last)
    if type(base) is torch.nn.Linear:
        return lora_linear(x, base.weight, base.bias, *adapter)
    if type(base) is Conv1D:
        return lora_linear(x, base.weight.T, base.bias, *adapter)
    # A quantized layer multiplies by itself, and keeps its packed weight alone.
    return lora_add(base(x), x, *adapter)


def fused_mlp_forward(
    module: Any, plain: Any, activation: str, last: dict[str, Any], x: torch.Tensor
) -> Any:
    """A gated MLP's forward pass, which keeps its input and what its activation multiplies."""
    import torch

    from memwb.kernels.lora_mlp import lora_mlp

    base, adapter = module.down_proj.base_layer, adapter_of(module.down_proj)
    quantized = hasattr(base, "compute_dtype")
    if adapter is None or not (quantized or type(base) is torch.nn.Linear):
        # 8-bit layers keep their input themselves.
        return plain(x)
    x = as_computed(x, last)
    if hasattr(module, "gate_up_proj"):
        gate, up = module.gate_up_proj(x).chunk(2, dim=-1)
    else:
        gate, up = module.gate_proj(x), module.up_proj(x)
    packed = packed_of(base) if quantized else None
    a, b, scale = adapter
    return lora_mlp(gate, up, base.weight, base.bias, a, b, scale, activation, packed)


def packed_of(layer: Any) -> Any:
    """What expands a 4-bit layer's weight."""
    from memwb.kernels.lora_mlp import Packed4Bit

    state = layer.weight.quant_state
    packed = Packed4Bit(state.absmax, state.blocksize, state.quant_type)
    if not state.nested:
        return packed
    inner = state.state2
    return packed._replace(nested_absmax=inner.absmax, nested_code=inner.code, offset=state.offset)


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
