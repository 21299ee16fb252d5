"""The flash-attn package on meta: what its functions return and keep, where it need not be there.

torch's own FlashAttention-2 comes of the same sources (flash_attn/flash_attn_interface.py and
csrc/flash_attn/flash_api.cpp, 2.8), and its operators run on meta: the output, an fp32 sum a
row and head, and the state of the random numbers; the inputs are kept as they came. Head sizes
are padded to a multiple of 8; below compute capability 8.0 the package refuses. Not verified on a
GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from memwb.engine.errors import CannotPredict
from memwb.engine.gpus import capability


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None,
    causal: bool = False, window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:  # fmt: skip
    """Attention of [batch, length, heads, size]; names and order are those of the package."""
    return _attend(q, k, v, None, None, q.size(1), k.size(1), dropout_p, softmax_scale, causal)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = 0.0,
    softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False, block_table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention of rows one after another, [tokens, heads, size], whose bounds are given."""
    longest = int(max_seqlen_q), int(max_seqlen_k)
    return _attend(q, k, v, cu_seqlens_q, cu_seqlens_k, *longest, dropout_p, softmax_scale, causal)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor | None, bounds_k: Tensor | None,
    longest_q: int, longest_k: int, dropout: float, scale: float | None, causal: bool,
) -> Tensor:  # fmt: skip
    size = q.size(-1)
    if size % 8:
        q, k, v = (torch.nn.functional.pad(one, (0, -size % 8)) for one in (q, k, v))
    operators: Any = torch.ops.aten
    out: Tensor
    if bounds_q is None:
        # The operator that selective checkpointing keeps, as it keeps the package's own.
        rows = (one.transpose(1, 2) for one in (q, k, v))
        dense: Any = operators._scaled_dot_product_flash_attention
        out = dense(*rows, dropout, causal, scale=scale)[0].transpose(1, 2)
    else:
        forward: Any = operators._flash_attention_forward
        out = forward(
            q, k, v, bounds_q, bounds_k, longest_q, longest_k, dropout, causal, False, scale=scale
        )[0]
    return out[..., :size] if size % 8 else out


@contextlib.contextmanager
def installed(arch: str) -> Iterator[None]:
    """Have transformers take these functions for the package's while this lasts."""
    from transformers import PreTrainedModel
    from transformers import modeling_flash_attention_utils as utils

    version = capability(arch)

    def refused(*_: Any, **__: Any) -> Tensor:
        """flash_api.cpp: "FlashAttention only supports Ampere GPUs or newer"."""
        raise CannotPredict(
            "flash_attention_2 does not run on the target",
            "it needs compute capability 8.0 (Ampere) or later, and the target has "
            f"{version[0]}.{version[1]}",
            "Take torch's own attention: -o attention.implementation=sdpa.",
            technique="attention",
        )

    runs = version >= (8, 0)
    found = (flash_attn_func, flash_attn_varlen_func, None) if runs else (refused, refused, None)
    padding = (getattr(utils, "_pad_input", None), getattr(utils, "_unpad_input", None))
    # What transformers has once loaded it keeps for the life of the process.
    loaded = [name for name in vars(utils) if name[0] == "_" and name.endswith("_fn")]
    matrix = getattr(utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {2: {}})
    with contextlib.ExitStack() as stack:
        change = stack.enter_context
        for name in (*loaded, "_loaded_implementation"):
            change(mock.patch.object(utils, name, None))
        change(mock.patch.object(utils, "_lazy_imports", lambda *_, **__: (*found, *padding)))
        change(mock.patch.dict(matrix[2], general_availability_check=lambda *_, **__: True))
        change(
            mock.patch.object(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
        )
        yield
