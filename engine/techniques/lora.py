"""Low-rank adapters: the base is frozen, two thin matrices beside each target are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.errors import nearest
from memwb.engine.shapes import Shape, Weight, shape_of
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states

if TYPE_CHECKING:
    import argparse

    from memwb.engine.plan import Plan


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
    output_layer: Annotated[
        bool, Meta(description="an adapter beside the output layer too (embeddings not tied)")
    ] = False
    rank_stabilized: Annotated[
        bool, Meta(description="rsLoRA: alpha / sqrt(rank), so that large ranks learn as fast")
    ] = False
    dora: Annotated[
        bool, Meta(description="DoRA: train each row's length apart; more memory, slower steps")
    ] = False
    initialization: Annotated[
        Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"],
        Meta(description="pissa and olora move a part of the base into the adapters"),
    ] = "default"


technique = Technique(
    name="lora",
    title="LoRA",
    group="adapters",
    shrinks=("gradients", "optimizer"),
    saves="Gradients and optimizer states of the base: only the adapters have any.",
    costs="The adapters' own activations; the base's weights and activations stay.",
    not_when="The base or the logits fill the memory: quantize the base, chunk the loss.",
    source="arXiv:2106.09685; rsLoRA 2312.03732; DoRA 2402.09353; peft.LoraConfig",
    params=Params,
    packages=("peft",),
)

# Adapters that start with a part of the base, which is taken out of its weights.
MOVED = ("pissa", "pissa_niter_16", "olora")

# Families whose config ties the output layer to the embeddings unless it says otherwise:
# config.json leaves out what is the default.
TIED = (
    "bloom", "cohere", "cohere2", "cohere2_moe", "ctrl", "ernie4_5", "ernie4_5_moe", "falcon",
    "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4",
    "gemma4_text", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "jetmoe", "lfm2", "lfm2_moe",
    "mamba", "minicpm3", "mpt", "openai-gpt", "opt", "recurrent_gemma", "smollm3", "starcoder2",
    "vaultgemma", "xglm", "zamba", "zamba2",
)  # fmt: skip
HEADS = ("lm_head", "embed_out", "output_layer")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
CONV1D = ("gpt2", "gpt-sw3", "openai-gpt")


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why these adapters do not fit the plan or the model, and the override that mends it."""
    start = params.initialization
    quantized = next((n for n in ("quantize_4bit", "quantize_8bit") if n in plan.techniques), "")
    if quantized and start not in ("default", "gaussian"):
        what = "takes a part out of the base" if start in MOVED else "takes the base's precision"
        return f"{start} {what}, and {quantized} leaves no float weights", _mend("default")
    if params.dora and "quantize_8bit" in plan.techniques:
        # peft 0.21: its DoRA reads them in each step, and loses their scales on a CPU.
        return "DoRA cannot read 8-bit weights again and again", "lora.dora=false"
    if start == "orthogonal" and params.rank % 2:
        return "orthogonal adapters need an even rank", f"lora.rank={params.rank + 1}"
    if start == "olora" and config.get("model_type") in CONV1D:
        return "olora cannot read this family's transposed weights", _mend("pissa")
    wrong = _wrong_head(params, config) or _wrong_target(params, config)
    return wrong or _too_wide(params, config)


def _mend(initialization: str) -> str:
    return f"lora.initialization={initialization}"


def _wrong_head(params: Params, config: Mapping[str, Any]) -> tuple[str, str] | None:
    if not tied(config):
        return None
    reason = (
        "this model's output layer is its embedding (tied): an adapter beside one would not be "
        "beside the other"
    )
    if params.output_layer:
        return reason, "lora.output_layer=false"
    named = [] if isinstance(params.targets, str) else params.targets
    rest = [n for n in named if n.rpartition(".")[2] not in (*HEADS, *EMBEDDINGS)]
    if len(rest) < len(named):
        return reason, _retarget(rest)
    return None


def _wrong_target(params: Params, config: Mapping[str, Any]) -> tuple[str, str] | None:
    shape = shape_of(config) if config else None
    if shape is None or isinstance(params.targets, str):
        return None
    known = [weight.name.removesuffix(".weight") for weight in shape.weights]
    kinds = ("linear", "embedding", "head")
    known = [n for n, w in zip(known, shape.weights, strict=True) if w.kind in kinds]
    fits = {name: any(_ends(path, name) for path in [*known, *HEADS]) for name in params.targets}
    wrong = next((name for name, fit in fits.items() if not fit), "")
    if not wrong:
        return None
    last = {path.rpartition(".")[2] for path in known}
    hint = nearest(wrong.rpartition(".")[2], last)
    rest = [name for name, fit in fits.items() if fit]
    meant = [hint.split("'")[1]] if hint else []
    return (
        f"target {wrong!r} is no linear module of this model; "
        + (hint or f"there are {', '.join(sorted(last))}"),
        _retarget([*rest, *meant]),
    )


def _too_wide(params: Params, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """A matrix has no more directions to move than its shorter side."""
    shape = shape_of(config) if config and params.initialization in MOVED else None
    if shape is None:
        return None
    least = min(min(one.inputs, one.outputs) for one in targeted(params, shape).values())
    if params.rank <= least:
        return None
    reason = f"{params.initialization} takes the rank from each matrix; one has only {least} rows"
    return reason, f"lora.rank={least}"


def _retarget(names: list[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in dict.fromkeys(names))
    return f"lora.targets=[{listed}]" if names else "lora.targets=all-linear"


def _ends(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def tied(config: Mapping[str, Any]) -> bool:
    """Whether a config.json ties the output layer to the embeddings, its family's default known."""
    for part in (config, config.get("text_config") or {}):
        if part.get("tie_word_embeddings") is not None:
            return bool(part["tie_word_embeddings"])
    return config.get("model_type") in TIED


def adapt_model(
    model: Any,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    targets: str | list[str],
    output_layer: bool,
    rank_stabilized: bool,
    dora: bool,
    initialization: str,
) -> Any:
    """Freeze the model and put an adapter beside each target."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_names(model, targets, output_layer),
        use_rslora=rank_stabilized,
        use_dora=dora,
        init_lora_weights=True if initialization == "default" else initialization,
    )
    adapted = get_peft_model(model, settings)
    settings.init_lora_weights = True
    if initialization in MOVED:
        if any(len(w) < rank for n, w in adapted.named_parameters() if "lora_A" in n):
            raise ValueError(f"LoRA's rank {rank} is more than one of the targets has rows")
        # Kept on the host (or on meta): what is saved is the difference to them.
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        adapted.start = {
            name: weight.clone() if weight.is_meta else weight.to("cpu", copy=True)
            for name, weight in state.items()
        }
    return adapted


def target_names(model: Any, targets: str | list[str], output_layer: bool) -> list[str]:
    """The names of a group's modules, or those given if each of them is in the model."""
    modules = dict(model.named_modules())
    names = targets if isinstance(targets, list) else linear_names(model, targets)
    for target in names:
        if not any(f".{name}".endswith(f".{target}") for name in modules):
            known = ", ".join(linear_names(model, "all-linear"))
            raise ValueError(
                f"LoRA's target {target!r} is no module of this model; there are {known}"
            )
    head = model.get_output_embeddings()
    [head_name] = [name for name, module in modules.items() if module is head]
    if output_layer and head_name not in names:
        names = [*names, head_name]
    if head_name in names and head.weight is model.get_input_embeddings().weight:
        raise ValueError("LoRA cannot adapt the output layer: it is tied to the embeddings")
    return names


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
    return sorted(name for name in names if any(part in name for part in PARTS[group]))


PARTS = {"attention": ("attn", "attention"), "mlp": ("mlp",), "all-linear": ("",)}


def save(args: argparse.Namespace, model: Any, tokenizer: Any) -> str:
    """Write the adapters, or with ``--merge`` the model that they are added into."""
    from memwb.engine.saving import save_adapters

    if hasattr(model, "start") and args.weights == "pretrained" and not args.merge:
        subtract_start(model)
    return save_adapters(args, model, tokenizer)


def subtract_start(model: Any) -> None:
    """Make the adapters fit the base as it was before a part of it moved into them.

    B A - B0 A0 is the product of B beside -B0 and A above A0: adapters of twice the rank.
    """
    import math

    import torch

    settings = model.peft_config["default"]
    settings.lora_alpha *= math.sqrt(2) if settings.use_rslora else 2
    settings.r *= 2
    for name, weight in model.named_parameters():
        first = model.start.get(name.replace(".default", ""))
        if first is None:
            continue
        if "lora_A" in name or "lora_embedding_A" in name:
            weight.data = torch.cat([weight.data, first.to(weight)])
        elif "lora_B" in name or "lora_embedding_B" in name:
            weight.data = torch.cat([weight.data, -first.to(weight)], dim=1)


class Linear(NamedTuple):
    """A linear module's sizes, and in how many layers it is."""

    inputs: int
    outputs: int
    layers: int


def linears(shape: Shape) -> dict[str, Linear]:
    """The linear modules inside decoder layers by their path there."""
    found = {}
    for weight in shape.weights:
        if weight.kind == "linear":
            first, second = weight.shape
            # A Conv1D keeps (inputs, outputs).
            sizes = (first, second) if shape.family in CONV1D else (second, first)
            found[weight.name.removesuffix(".weight")] = Linear(*sizes, weight.count)
    return found


TRAINED_BYTES = 4
"""peft keeps adapters in fp32 whatever the base's precision."""


def trained(params: Params, shape: Shape) -> tuple[Weight, ...]:
    """The tensors that get gradients: A (rank, inputs) and B (outputs, rank) beside each target."""
    found = targeted(params, shape)
    made = []
    for name, one in found.items():
        made.append(
            Weight(f"{name}.lora_A.weight", (params.rank, one.inputs), "adapter", one.layers)
        )
        made.append(
            Weight(f"{name}.lora_B.weight", (one.outputs, params.rank), "adapter", one.layers)
        )
        if params.dora:
            magnitude = f"{name}.lora_magnitude_vector.weight"
            made.append(Weight(magnitude, (one.outputs,), "adapter", one.layers))
    return tuple(made)


def targeted(params: Params, shape: Shape) -> dict[str, Linear]:
    """The modules that get an adapter."""
    inside = linears(shape)
    head = {"lm_head": Linear(shape.hidden, shape.vocabulary, 1)}
    if isinstance(params.targets, str):
        parts = PARTS[params.targets]
        found = {n: one for n, one in inside.items() if any(part in n for part in parts)}
    else:
        known = inside | head
        for weight in shape.weights:
            if weight.kind == "embedding":
                # peft's B A is (width, rows): the transposed table.
                rows, width = weight.shape
                known[weight.name.removesuffix(".weight")] = Linear(rows, width, 1)
        found = {n: one for n, one in known.items() if any(_ends(n, t) for t in params.targets)}
    return found | head if params.output_layer else found


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The adapters' weights, and the base's gradients and optimizer states against theirs."""
    return adapter_effects(trained(params, facts.shape), facts)


def adapter_effects(adapters: tuple[Weight, ...], facts: Facts) -> list[Effect]:
    """What adapters add to the weights, and what they leave of gradients and AdamW's states."""
    base, width = facts.shape.parameters, facts.weight_bytes
    count = sum(weight.size * weight.count for weight in adapters)
    plain = msgspec.structs.replace(facts, trained=facts.shape.weights, trained_bytes=width)
    adapted = msgspec.structs.replace(facts, trained=adapters, trained_bytes=TRAINED_BYTES)
    return [
        Effect(
            category="weights",
            before=base * width,
            after=base * width + TRAINED_BYTES * count,
            formula=f"{TRAINED_BYTES} B × {count:,} in adapters beside {width} B × {base:,}",
        ),
        Effect(
            category="gradients",
            before=base * width,
            after=TRAINED_BYTES * count,
            formula=f"{TRAINED_BYTES} B × {count:,} in adapters, not {width} B × {base:,}",
        ),
        Effect(
            category="optimizer",
            before=adamw_states(plain),
            after=adamw_states(adapted),
            formula=f"with AdamW: 2 moments × {TRAINED_BYTES} B × {count:,} in adapters, "
            f"not × {width} B × {base:,}; and 4 B a tensor",
        ),
    ]
