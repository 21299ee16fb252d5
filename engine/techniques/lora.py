"""Low-rank adapters: the base is frozen, two thin matrices beside each target are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.shapes import Shape, Weight
from memwb.engine.technique import Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of LoRA."""

    rank: Annotated[int, Meta(ge=1, le=4096, description="inner width of an adapter")] = 16
    alpha: Annotated[
        int, Meta(ge=1, description="scale: the update is multiplied by alpha / rank")
    ] = 32
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout of the adapter's input")] = 0.0
    targets: Annotated[
        Literal["attention", "mlp", "all-linear"]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)],
        Meta(description="attention, mlp, all-linear, or a list of module names"),
    ] = "all-linear"


technique = Technique(
    name="lora",
    title="LoRA",
    group="adapters",
    saves="Gradients and optimizer states of the base: only the adapters have any.",
    costs="The adapters' own activations; the base's weights and activations stay.",
    not_when="The base or the logits fill the memory: quantize the base, chunk the loss.",
    source="arXiv:2106.09685; peft.LoraConfig",
    params=Params,
    packages=("peft",),
)


def adapt_model(
    model: Any, *, rank: int, alpha: int, dropout: float, targets: str | list[str]
) -> Any:
    """Freeze the model and put an adapter beside each target."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_names(model, targets),
    )
    return get_peft_model(model, settings)


def target_names(model: Any, targets: str | list[str]) -> list[str]:
    """The names of a group's modules, or those given if each of them is in the model."""
    if not isinstance(targets, list):
        return linear_names(model, targets)
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = ", ".join(linear_names(model, "all-linear"))
            raise ValueError(
                f"LoRA's target {target!r} is no module of this model; there are {known}"
            )
    return targets


def linear_names(model: Any, group: str) -> list[str]:
    """Names of the linear modules inside decoder layers: those of attention, of mlp, or all.

    A name is the module's path inside its layer: ``self_attn.q_proj``.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    from memwb.engine.recipe import decoder_layers

    names = {
        name
        for layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }
    parts = {"attention": ("attn", "attention"), "mlp": ("mlp",), "all-linear": ("",)}[group]
    return sorted(name for name in names if any(part in name for part in parts))


TRAINED_BYTES = 4
"""peft keeps adapters in fp32 whatever the base's precision."""


def trained(params: Params, shape: Shape) -> tuple[Weight, ...]:
    """The two matrices beside each target: rank x inputs and outputs x rank."""
    parts = {"attention": ("attn",), "mlp": ("mlp",), "all-linear": ("",)}
    found: list[Weight] = []
    for weight in shape.weights:
        path = weight.name.removesuffix(".weight")
        if isinstance(params.targets, str):
            meant = any(part in path for part in parts[params.targets])
        else:
            meant = any(f".{path}".endswith(f".{target}") for target in params.targets)
        if weight.kind == "linear" and meant:
            outputs, inputs = weight.shape[:: -1 if weight.transposed else 1]
            for name, size in (("A", (params.rank, inputs)), ("B", (outputs, params.rank))):
                found.append(Weight(f"{path}.lora_{name}.weight", size, "linear", weight.count))
    return tuple(found)
