"""A frozen base of 8-bit weights, as in LLM.int8()."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the 8-bit base."""

    threshold: Annotated[
        float,
        Meta(ge=0, description="input features beyond it are multiplied in 16 bits; 0: none"),
    ] = 6.0
    upcast: Annotated[
        bool,
        Meta(description="norms, embeddings and head in fp32, as peft prepares a base"),
    ] = True


technique = Technique(
    name="quantize_8bit",
    title="8-bit base",
    group="quantization",
    shrinks=("weights",),
    saves="Half of a bf16 base's linear weights: 1 byte each, and an fp32 scale a row.",
    costs="Inputs rounded to 8 bits on a GPU, and kept beside checkpoints. "
    "A CPU expands the weights.",
    not_when="Memory is short: a 4-bit base is half as large and no slower to train.",
    source="arXiv:2208.07339; bitsandbytes.nn.Linear8bitLt",
    params=Params,
    needs=(Relation(("lora", "ia3"), "8-bit weights cannot be trained themselves"),),
    packages=("accelerate", "bitsandbytes"),
)


def configure(options: dict[str, Any], *, threshold: float) -> dict[str, Any]:
    """Have every linear layer but the head quantized while the model is loaded."""
    from functools import partial

    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    convert = partial(quantize_linear_8bit, threshold=threshold)
    return {**options, "quantization_config": settings, "convert": convert}


def quantize_linear_8bit(module: Any, threshold: float) -> Any:
    """A linear module as bitsandbytes' 8-bit one on the same device; others as they are."""
    import torch
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear8bitLt
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | Conv1D):
        return module
    weight = module.weight.data
    # GPT-2's Conv1D keeps its weight transposed.
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    with torch.device("meta"):
        made = Linear8bitLt(
            weight.shape[1],
            weight.shape[0],
            module.bias is not None,
            has_fp16_weights=False,
            threshold=threshold,
        )
    # Moving to a GPU quantizes only what comes from the CPU; this does wherever it stands.
    rows, scales, _ = int8_vectorwise_quant(weight.half())
    made.weight = Int8Params(rows, requires_grad=False, CB=rows, SCB=scales)
    made.bias = module.bias
    made.source_cls = type(module)
    return made


def adapt_model(model: Any, *, upcast: bool) -> Any:
    """Freeze the base; bring what is not quantized to fp32 if asked."""
    from memwb.engine.techniques.quantize_4bit import frozen

    # peft looks at this mark to make adapters for 8-bit layers.
    model.is_loaded_in_8bit = True
    return frozen(model, upcast)


def assumed(params: Params, kind: str) -> str:
    """What a prediction takes for granted on a device of that kind."""
    if kind != "cuda" or params.threshold == 0:
        return ""
    return (
        f"No input feature is taken to be beyond the threshold of {params.threshold:g}: those that "
        "are, are multiplied and kept in 16 bits besides."
    )


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Bytes of the base: one a linear weight, an fp32 scale a row, and what is not quantized."""
    from memwb.engine.techniques.lora import linears
    from memwb.engine.techniques.quantize_4bit import base_effect

    bytes_ = sum(
        one.layers * (one.inputs * one.outputs + 4 * one.outputs)
        for one in linears(facts.shape).values()
    )
    return [base_effect(facts, bytes_, params.upcast, "1 B and scales")]
