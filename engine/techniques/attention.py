"""Which implementation of attention the model runs, and on which of torch's kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique

if TYPE_CHECKING:
    from memwb.engine.plan import Plan
    from memwb.engine.protocol import Device


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of attention."""

    implementation: Annotated[
        Literal["eager", "sdpa", "flash_attention_2", "flex_attention"],
        Meta(description="eager writes the scores out, the others are fused; sdpa is torch's own"),
    ] = "sdpa"
    backend: Annotated[
        Literal["auto", "flash", "efficient", "cudnn", "math"],
        Meta(description="the one kernel that sdpa may use; auto leaves the choice to torch"),
    ] = "auto"


technique = Technique(
    name="attention",
    title="attention",
    group="attention",
    saves="All but eager and math: scores of heads x length x length are never written.",
    costs="Nothing; eager and sdpa's math kernel cost the scores, several times over.",
    not_when="Sequences are short (a few hundred tokens): the scores are small.",
    source="arXiv:2205.14135; torch.nn.functional.scaled_dot_product_attention",
    params=Params,
    # All of them add up in fp32. In half precision eager rounds scores and probabilities once
    # more each, by 2^-8 at most, so that what attention adds to a token differs by 2 x 2^-8.
    tolerance=2**-7,
)

NO_ARITHMETIC = (
    "what another kernel keeps depends on its blocks and the device; a burst measures it"
)

HALF = ("bf16", "amp_bf16", "amp_fp16")


def unavailable(params: Params, device: Device | None) -> str:
    """Why an implementation or a kernel cannot run there."""
    chosen, kernel = params.implementation, params.backend
    cuda = device is None or device.kind == "cuda"
    if chosen == "flash_attention_2" and not cuda:
        return "flash_attention_2 runs on CUDA devices only"
    if chosen == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return "flash_attention_2 needs flash_attn: pip install flash-attn"
    if chosen == "flex_attention" and not cuda:
        return "flex_attention has no backward pass on CPUs"
    if chosen == "sdpa" and kernel in ("efficient", "cudnn") and not cuda:
        return f"sdpa's {kernel} kernel runs on CUDA devices only"
    return ""


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why the choice does not fit the plan or a model, and the override that mends it."""
    chosen, kernel = params.implementation, params.backend
    if chosen != "sdpa" and kernel != "auto":
        return (
            f"the kernels are sdpa's, and the implementation is {chosen}",
            "attention.backend=auto",
        )
    half = any(name in plan.techniques for name in HALF)
    if chosen == "flash_attention_2" and not half:
        return "flash_attention_2 computes in bf16 or fp16 only", "bf16=on"
    # sdpa's flash kernel takes fp32 on a CPU; where it does not, tf32 is the plan of a GPU.
    narrow = ("cudnn", "flash") if "tf32" in plan.techniques else ("cudnn",)
    if chosen == "sdpa" and kernel in narrow and not half:
        return f"sdpa's {kernel} kernel computes in bf16 or fp16 on CUDA devices", "bf16=on"
    if chosen == "sdpa" and config.get("attn_logit_softcapping"):
        reason = "this model caps its attention scores, which sdpa cannot do"
        return reason, "attention.implementation=eager"
    if chosen == "flex_attention":
        if config.get("model_type") in ("gpt2", "gpt_bigcode"):
            reason = "transformers has no flex_attention for this family"
            return reason, "attention.implementation=sdpa"
        if config.get("attention_dropout"):
            reason = "this model drops attention scores, which flex_attention cannot do"
            return reason, "attention.implementation=sdpa"
    return None


def configure(options: dict[str, Any], *, implementation: str) -> dict[str, Any]:
    """Ask transformers for this implementation."""
    return {**options, "attn_implementation": implementation}


def meta_configure(options: dict[str, Any], *, implementation: str) -> dict[str, Any]:
    """The same, but for flex_attention: transformers compiles it, which meta cannot."""
    if implementation == "flex_attention":
        from memwb.engine.errors import CannotPredict

        raise CannotPredict(
            "flex_attention cannot be predicted",
            "its kernel and its block mask are compiled for the device, buffers and all",
            "Run a burst to measure it, or predict with -o attention.implementation=sdpa.",
            technique="attention",
        )
    return configure(options, implementation=implementation)


def patch_model(model: Any, *, implementation: str, backend: str) -> Any:
    """Leave sdpa one kernel inside each attention module, also when it runs again in backward.

    Torch raises an error where that kernel does not take the inputs.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from memwb.engine.recipe import decoder_layers

    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    if implementation != "sdpa" or backend == "auto":
        return model
    for layer in decoder_layers(model):
        for name, module in layer.named_children():
            if "attn" in name:
                module.forward = sdpa_kernel(kernels[backend])(module.forward)
    return model


def effects(params: Params, facts: Facts) -> list[Effect]:
    """What eager keeps in each layer for backward, beside torch's fused kernel.

    Families that cap their scores or drop them keep more, and nothing is said of them.
    """
    shape, work = facts.shape, facts.workload
    known = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3")
    plain = params == Params()
    if not (plain or params.implementation == "eager") or shape.family not in known:
        return []
    rows = work.batch_size * shape.heads * work.sequence_length
    pair = 2 * facts.compute_bytes * facts.tokens * shape.head_dim
    # Softmax keeps its result in fp32, and the product with the values its copy in half precision.
    score = 4 if facts.compute_bytes == 4 else 4 + facts.compute_bytes
    fused = 4 * rows + pair * shape.kv_heads
    length = f"{work.sequence_length:,}"
    formula = f"keys, values and 4 B × {rows:,} sums of rows; no row's {length} scores are kept"
    if not plain:
        formula = f"{score} B × {rows:,} rows of {length} scores, keys and values repeated "
        formula += f"from {shape.kv_heads} heads to {shape.heads}"
    return [
        Effect(
            category="activations",
            before=fused,
            after=fused if plain else score * rows * work.sequence_length + pair * shape.heads,
            formula=formula,
            each=True,
        )
    ]
