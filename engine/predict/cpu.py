"""What torch's CPU kernels do that its meta kernels do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

F = torch.nn.functional

FEW = 64
"""The choice of a kernel does not depend on how many positions there are beyond these."""


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``scaled_dot_product_attention`` by the kernel that a CPU would choose.

    torch's own choice is asked for, with small tensors of the same layout. Source:
    ATen/native/transformers/attention.cpp and sdp_utils_cpp.cpp.
    """
    with torch.utils._python_dispatch._disable_current_modes():
        small: list[Any] = [
            torch.empty(
                (1, *one.shape[1:-2], min(one.shape[-2], FEW), one.shape[-1]), dtype=one.dtype
            ).requires_grad_(one.requires_grad)
            for one in (query, key, value)
        ]
        mask = None
        if attn_mask is not None:
            shape = [1] * (attn_mask.dim() - 2) + [min(n, FEW) for n in attn_mask.shape[-2:]]
            mask = torch.empty(shape, dtype=attn_mask.dtype)
        choose: Any = torch._fused_sdp_choice
        choice = choose(*small, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if choice != torch.nn.attention.SDPBackend.FLASH_ATTENTION.value:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # As attention.cpp converts it: a mask of numbers, zero where there is attention.
        empty = torch.full((), -math.inf, dtype=query.dtype, device=attn_mask.device)
        zero = torch.full((), 0.0, dtype=query.dtype, device=attn_mask.device)
        attn_mask = torch.where(attn_mask, zero, empty)
        del zero, empty
    out: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    result: torch.Tensor = out[0]
    return result


INSTEAD = {F.scaled_dot_product_attention: attention}


def layer_norm(args: Sequence[Any], out: Any) -> Any:
    """Means and deviations in the input's own precision, unless the weights are in another.

    Source: ATen/native/layer_norm.cpp and cpu/mixed_data_type.h. The meta kernel has them in fp32.
    """
    inputs, weight = args[0], args[2]
    if weight is not None and weight.dtype != inputs.dtype:
        return out
    made, *statistics = out
    return made, *(one.to(inputs.dtype) for one in statistics)


RESULTS = {"aten.native_layer_norm.default": layer_norm}
