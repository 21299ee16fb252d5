"""Which implementation of attention the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from memwb.engine.technique import Technique

if TYPE_CHECKING:
    from memwb.engine.plan import Plan


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of attention."""

    implementation: Annotated[
        Literal["eager", "sdpa"],
        Meta(description="eager writes the scores out; sdpa leaves the kernel to torch"),
    ] = "sdpa"


technique = Technique(
    name="attention",
    title="attention",
    group="attention",
    saves="sdpa: the scores of heads x length x length, which its fused kernels never write.",
    costs="Nothing; eager costs the scores, several times over.",
    not_when="Sequences are short (a few hundred tokens): the scores are small.",
    source="arXiv:2205.14135; torch.nn.functional.scaled_dot_product_attention",
    params=Params,
    # The two round differently: scores in bf16 carry 2^-9 of relative error each.
    tolerance=2**-7,
)


def refuse(params: Params, plan: Plan, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why the choice does not fit a model, and the override that mends it."""
    if params.implementation == "sdpa" and config.get("attn_logit_softcapping"):
        reason = "this model caps its attention scores, which sdpa cannot do"
        return reason, "attention.implementation=eager"
    return None


def configure(options: dict[str, Any], *, implementation: str) -> dict[str, Any]:
    """Ask transformers for this implementation."""
    return {**options, "attn_implementation": implementation}
