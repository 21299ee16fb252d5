"""IA3: the base is frozen, one learned factor for each key, value and inner feature is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.shapes import Shape, Weight
from memwb.engine.technique import Technique

if TYPE_CHECKING:
    import argparse

    from memwb.engine.arithmetic import Effect, Facts
    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of IA3."""

    targets: Annotated[
        Literal["all", "attention", "feed-forward"],
        Meta(description="what is scaled: keys and values, the feed-forward's inner features, all"),
    ] = "all"


technique = Technique(
    name="ia3",
    title="IA3",
    group="adapters",
    shrinks=("gradients", "optimizer"),
    saves="Gradients and optimizer states of the base: a few vectors a layer are trained.",
    costs="The scaled copies of keys, values and inner features are kept for backward.",
    not_when="The base or activations fill the memory; a new task wants more than rescaling.",
    source="arXiv:2205.05638; peft.IA3Config",
    params=Params,
    packages=("peft",),
)

# Where queries, keys and values are one module, its whole output is scaled: queries too.
KEYS_VALUES = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("qkv_proj",),
    ("c_attn",),
    ("query_key_value",),
    ("Wqkv",),
)
INNER = ("down_proj", "mlp.c_proj", "fc2", "dense_4h_to_h", "fc_out", "w2", "wo")


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why it does not fit the base, and the override that mends it."""
    for name in ("quantize_4bit", "quantize_8bit"):
        base: Any = plan.techniques.get(name)
        if base is not None and not base.upcast and "bf16" in plan.techniques:
            reason = "peft scales a quantized layer's result in fp32, and what follows is in bf16"
            return reason, f"{name}.upcast=true"
    return None


def adapt_model(model: Any, *, targets: str) -> Any:
    """Freeze the model and put a vector of factors, all one at first, at each target."""
    from peft import IA3Config, get_peft_model

    from memwb.engine.techniques.lora import linear_names

    outputs, inputs = scaled(linear_names(model, "all-linear"), targets)
    settings = IA3Config(
        task_type="CAUSAL_LM", target_modules=outputs + inputs, feedforward_modules=inputs
    )
    return get_peft_model(model, settings)


def scaled(names: Sequence[str], targets: str) -> tuple[list[str], list[str]]:
    """The modules whose output is scaled (keys, values) and those whose input is, of ``names``.

    Raises ValueError if a model names them in a way that is not known here.
    """

    def found(endings: Sequence[str]) -> list[str]:
        return [n for n in names if any(f".{n}".endswith(f".{end}") for end in endings)]

    outputs = next((known for kind in KEYS_VALUES if (known := found(kind))), [])
    inputs = found(INNER)
    if (targets != "feed-forward" and not outputs) or (targets != "attention" and not inputs):
        raise ValueError(
            f"IA3 knows no keys, values or feed-forward among this model's {', '.join(names)}: "
            "train LoRA, which takes any names"
        )
    return (
        outputs if targets != "feed-forward" else [],
        inputs if targets != "attention" else [],
    )


def save(args: argparse.Namespace, model: Any, tokenizer: Any) -> str:
    """Write the factors, or with ``--merge`` the model that they are multiplied into."""
    from memwb.engine.saving import save_adapters

    return save_adapters(args, model, tokenizer)


TRAINED_BYTES = 4
"""peft keeps the factors in fp32 whatever the base's precision."""


def trained(params: Params, shape: Shape) -> tuple[Weight, ...]:
    """The tensors that get gradients: (outputs, 1) for keys and values, (1, inputs) inside."""
    from memwb.engine.techniques.lora import linears

    sizes = linears(shape)
    outputs, inputs = scaled(list(sizes), params.targets)
    rows = [(f"{name}.ia3_l", (sizes[name].outputs, 1), sizes[name].layers) for name in outputs]
    rows += [(f"{name}.ia3_l", (1, sizes[name].inputs), sizes[name].layers) for name in inputs]
    return tuple(Weight(name, size, "adapter", count) for name, size, count in rows)


def effects(params: Params, facts: Facts) -> list[Effect]:
    """The factors, and the base's gradients and optimizer states against theirs."""
    from memwb.engine.techniques.lora import adapter_effects

    return adapter_effects(trained(params, facts.shape), facts)
