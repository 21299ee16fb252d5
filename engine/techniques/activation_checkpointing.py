"""Keep only the inputs of layers, or a few results inside them, and compute the rest again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique

if TYPE_CHECKING:
    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of activation checkpointing."""

    mode: Annotated[
        Literal["layer", "submodule", "selective", "budget"],
        Meta(
            description="layer keeps its input; submodule those of attention and MLP; selective "
            "matrix products and attention; budget lets the compiler choose"
        ),
    ] = "layer"
    every: Annotated[int, Meta(ge=1, description="checkpoint every n-th decoder layer")] = 1
    budget: Annotated[
        float,
        Meta(ge=0, le=1, description="mode budget: share of the activations that may be kept"),
    ] = 0.5


technique = Technique(
    name="activation_checkpointing",
    title="activation checkpointing",
    group="activations",
    shrinks=("activations",),
    saves="The activations inside each checkpointed layer: one hidden state a layer remains.",
    costs="A second forward pass of those layers, 20 to 30 % of the time; selective far less.",
    not_when="Weights, optimizer or the logits are the peak: activations are not what fills it.",
    source="arXiv:1604.06174; torch.utils.checkpoint; arXiv:2205.05198 (selective)",
    params=Params,
    # Mode budget too computes what the plain run computes; what torch_compile, which it needs,
    # rounds otherwise is torch_compile's.
    exact=True,
)

NO_ARITHMETIC = (
    "what modes selective and budget keep depends on each layer's operators; a burst measures it"
)

# Products of matrices with weights, and attention in one kernel. Not batched products: those
# are the scores of attention that is written out, which grow with the square of the length.
KEPT_OPERATORS = (
    "aten.mm.default",
    "aten.addmm.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "flash_attn._flash_attn_forward.default",
    "memwb.lora_linear.default",
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why parameters do not go together, or with the plan, and the override that mends it."""
    if params.mode == "budget":
        if "torch_compile" not in plan.techniques:
            return "mode budget is kept by the compiler: it needs torch.compile", "torch_compile=on"
        if params.every != 1:
            reason = "every has no meaning for mode budget: the compiler weighs single operators"
            return reason, "activation_checkpointing.every=1"
        if draws_dropout(plan, config):
            # Seen with torch 2.13 and aot_eager: gradients far off as soon as dropout is > 0.
            reason = "mode budget may draw dropout anew in backward: gradients would be wrong"
            return reason, "activation_checkpointing.mode=selective"
    elif params.every > layer_count(config) > 0:
        reason = f"of {layer_count(config)} layers every {params.every}th is none"
        return reason, f"activation_checkpointing.every={layer_count(config)}"
    elif params.budget != Params().budget:
        reason = f"budget has no meaning for mode {params.mode}"
        return reason, f"activation_checkpointing.budget={Params().budget}"
    return None


def draws_dropout(plan: Plan, config: Mapping[str, Any]) -> bool:
    """Whether the adapters or a model of this config have dropout; GPT-2's have it by default."""
    adapters = (getattr(params, "dropout", 0.0) for params in plan.techniques.values())
    usual = 0.1 if config.get("model_type") in ("gpt2", "gpt_bigcode") else 0.0
    names = {"resid_pdrop", "embd_pdrop", "attn_pdrop", *(key for key in config if "drop" in key)}
    return any(adapters) or any(config.get(name, usual) for name in names)


def layer_count(config: Mapping[str, Any]) -> int:
    """How many decoder layers a config.json says; 0 if it does not."""
    text = config.get("text_config") or config
    count = text.get("num_hidden_layers") or text.get("n_layer")
    return count if isinstance(count, int) else 0


def layer_period(params: Params) -> int:
    """After how many layers it does the same again."""
    return params.every


def patch_model(model: Any, *, mode: str, every: int, budget: float) -> Any:
    """Wrap layers, or their attention and MLP, in torch's non-reentrant checkpoint."""
    from functools import partial

    from torch._functorch import config as functorch_config
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    from memwb.engine.recipe import decoder_layers

    if mode == "budget":
        functorch_config.activation_memory_budget = budget
        return model
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, keep_products)
    for layer in decoder_layers(model)[every - 1 :: every]:
        for module in large_parts(layer) if mode == "submodule" else [layer]:
            module.forward = partial(checkpoint, module.forward, **options)
    return model


def meta_patch_model(model: Any, *, mode: str, every: int, budget: float) -> Any:
    """As ``patch_model``; what a budget keeps is the compiler's choice by the device's own speed.

    On meta it weighs other kernels, and keeps other results than a burst was seen to.
    """
    from memwb.engine.errors import CannotPredict

    if mode == "budget":
        raise CannotPredict(
            "Mode budget of activation checkpointing cannot be predicted",
            "which results it keeps the compiler chooses while it compiles for the device",
            "Run a burst to measure it, or take activation_checkpointing.mode=selective.",
            technique="activation_checkpointing",
        )
    return patch_model(model, mode=mode, every=every, budget=budget)


def large_parts(layer: Any) -> list[Any]:
    """Attention and MLP of a decoder layer, whatever their names: the parts that have parts."""
    return [part for part in layer.children() if any(True for _ in part.children())]


def keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What selective checkpointing keeps: results that are dear to compute for their size."""
    from torch.utils.checkpoint import CheckpointPolicy

    kept = str(operator) in KEPT_OPERATORS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The inputs that are kept: of each checkpointed layer, or of its attention and its MLP."""
    if params.mode not in ("layer", "submodule"):
        return []
    count = 1 if params.mode == "layer" else 2
    what = "input of the layer" if params.mode == "layer" else "inputs of attention and MLP"
    rest = "" if params.mode == "layer" else "; what the norms between them keep stays"
    if params.every > 1:
        rest += f"; of one layer in {params.every}, the others keep all of theirs"
    return [kept_inputs(facts, count, f"{what}: ", rest, each=True)]


def kept_inputs(facts: Facts, count: int, what: str, rest: str, *, each: bool) -> Effect:
    """Hidden states that are kept in place of all that the kernels inside would keep.

    They have the weights' precision: autocast lowers that of products, not of the sums between.
    """
    width, hidden = facts.weight_bytes, facts.shape.hidden
    number = f"{count} × " if count > 1 else ""
    return Effect(
        category="activations",
        before=None,
        after=count * width * facts.tokens * hidden,
        formula=f"{what}{number}{width} B × {facts.tokens:,} tokens × {hidden:,} hidden{rest}",
        each=each,
    )
