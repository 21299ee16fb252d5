"""A frozen base of 4-bit weights, as in QLoRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the 4-bit base."""

    quant_type: Annotated[
        Literal["nf4", "fp4"], Meta(description="nf4 suits normally distributed weights")
    ] = "nf4"
    double_quant: Annotated[
        bool, Meta(description="quantize the scales too: 0.37 bits a weight less")
    ] = True
    compute: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        Meta(description="precision of the products; auto is that of the model"),
    ] = "auto"
    upcast: Annotated[
        bool,
        Meta(description="norms, embeddings and head in fp32, as peft prepares a base"),
    ] = True


technique = Technique(
    name="quantize_4bit",
    title="4-bit base",
    group="quantization",
    shrinks=("weights",),
    saves="Three quarters of a bf16 base's linear weights: 0.5 bytes each, and the scales.",
    costs="Each weight is expanded again for every use; with upcast, norms and embeddings double.",
    not_when="The model is small (1 B or less) with a large vocabulary: embeddings are the bulk.",
    source="arXiv:2305.14314; bitsandbytes.nn.Linear4bit",
    params=Params,
    needs=(Relation(("lora", "ia3"), "4-bit weights cannot be trained themselves"),),
    packages=("accelerate", "bitsandbytes"),
)


def configure(
    options: dict[str, Any], *, quant_type: str, double_quant: bool, compute: str
) -> dict[str, Any]:
    """Have every linear layer but the head quantized while the model is loaded."""
    from functools import partial

    import torch
    from transformers import BitsAndBytesConfig

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = dtypes.get(compute, options["dtype"])
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    convert = partial(
        quantize_linear, quant_type=quant_type, double_quant=double_quant, dtype=dtype
    )
    return {**options, "quantization_config": settings, "convert": convert}


def quantize_linear(module: Any, quant_type: str, double_quant: bool, dtype: Any) -> Any:
    """A linear module as bitsandbytes' 4-bit one on the same device; others as they are."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | Conv1D):
        return module
    weight = module.weight.data
    # GPT-2's Conv1D keeps its weight transposed.
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    with torch.device("meta"):
        made = Linear4bit(weight.shape[1], weight.shape[0], module.bias is not None, dtype)
    made.weight = Params4bit(
        weight, requires_grad=False, quant_type=quant_type, compress_statistics=double_quant
    ).to(weight.device)
    made.bias = module.bias
    made.source_cls = type(module)
    return made


def adapt_model(model: Any, *, upcast: bool) -> Any:
    """Freeze the base; bring what is not quantized to fp32 if asked."""
    # peft looks at this mark to make adapters for 4-bit layers.
    model.is_loaded_in_4bit = True
    return frozen(model, upcast)


def frozen(model: Any, upcast: bool) -> Any:
    """The model without gradients; with ``upcast`` what is not quantized in fp32."""
    import torch

    for weight in model.parameters():
        weight.requires_grad = False
        if upcast and weight.dtype in (torch.bfloat16, torch.float16):
            weight.data = weight.data.float()
    return model


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Bytes of the base: half a byte a linear weight, its scales, and what is not quantized.

    Blocks of 64 weights have a scale: fp32, or one byte with another fp32 scale for 256 of them
    and the fp32 offset. Each tensor has its table of 16 fp32 values, and one of 256 for scales
    of one byte: on small tensors these tables outweigh what double quantization saves.
    """
    linear = [weight for weight in facts.shape.weights if weight.kind == "linear"]
    after = 0
    for weight in linear:
        blocks = -(-weight.size // 64)
        scales = 4 * blocks
        if params.double_quant:
            scales = blocks + 4 * -(-blocks // 256) + 4 + 4 * 256
        after += weight.count * (-(-weight.size // 2) + scales + 4 * 16)
    return [base_effect(facts, after, params.upcast, "0.5 B and scales")]


def base_effect(facts: Facts, quantized: int, upcast: bool, each: str) -> Effect:
    """The weights before, and with the linear ones taking ``quantized`` bytes."""
    base = facts.shape.parameters
    inside = sum(w.size * w.count for w in facts.shape.weights if w.kind == "linear")
    adapters = 0 if facts.trained == facts.shape.weights else 4 * facts.trainable
    size = 4 if upcast else facts.weight_bytes
    return Effect(
        category="weights",
        before=base * facts.weight_bytes + adapters,
        after=quantized + (base - inside) * size + adapters,
        formula=f"{each} × {inside:,} linear weights, {size} B × {base - inside:,} others"
        + (f", 4 B × {facts.trainable:,} in adapters" if adapters else ""),
    )
