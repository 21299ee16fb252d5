"""Which attention kernel torch takes on a GPU, and its operators on the meta device.

``F.scaled_dot_product_attention`` on meta takes the math path, whatever the GPU. Here torch's own
rules are followed for a GPU that is not there. Source: torch 2.11 to 2.13,
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (rules and order), sdp_utils_cpp.h (the
rules that devices share) and transformers/attention.cpp (what is done around the kernels).
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memwb.engine.errors import CannotPredict
from memwb.engine.gpus import capability

Kernel = Literal["cudnn", "flash", "efficient", "math"]

# at::SDPBackend, by its numbers in the order of priority that torch keeps.
NAMES: dict[int, Kernel] = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}
DEFAULT_ORDER = (1, 2, 0, 3)
HALF = (torch.float16, torch.bfloat16)


class Call(NamedTuple):
    """The arguments of a call that the choice depends on, and the GPU's compute capability."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    gqa: bool
    major: int
    minor: int

    @property
    def training(self) -> bool:
        """Whether there will be a backward pass."""
        return any(tensor.requires_grad for tensor in (self.query, self.key, self.value))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        return self.query, self.key, self.value


def choose_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    gqa: bool = False,
    *,
    arch: str,
) -> Kernel:
    """The kernel that torch would take: the first of its order that it may take.

    Raises CannotPredict, where torch says "No available kernel", when what is left switched on
    can take none: the math path is always among them unless attention.backend leaves one alone.
    """
    call = Call(query, key, value, mask, dropout, causal, gqa, *capability(arch))
    allowed = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient, "math": _math}
    for kernel in order(arch):
        if allowed[kernel](call):
            return kernel
    raise _none(call)


def _none(call: Call) -> CannotPredict:
    left = [kernel for kernel, name in _SWITCHES.items() if _enabled(name)]
    dtype = str(call.query.dtype).removeprefix("torch.")
    heads = f"{'grouped ' if call.gqa else ''}heads of {call.query.size(-1)}"
    mask = "with" if call.mask is not None else "without"
    return CannotPredict(
        "attention has no kernel for this on the target",
        f"sdpa may use {' or '.join(left) or 'no kernel'}, which cannot take {heads} in {dtype} "
        f"{mask} a mask at compute capability {call.major}.{call.minor}",
        "Leave the choice to torch: -o attention.backend=auto.",
        technique="attention",
    )


def order(arch: str) -> tuple[Kernel, ...]:
    """The kernels in the order in which torch asks them: cuDNN first on Hopper and Blackwell.

    Unless somebody has set another order (sdpa_kernel with set_priority). cuDNN is preferred by
    ``check_prefer_cudnn_attention``: major 9 or 10, cuDNN above 9.15, which wheels of CUDA 13
    have (9.19 with torch 2.11.0) and those of CUDA 12 lack (issue 169849);
    TORCH_CUDNN_SDPA_DEPRIORITIZED=1 prevents it. A build without CUDA stands for the wheel that
    the package index gives, CUDA 13's.
    """
    chosen = tuple(torch._C._get_sdp_priority_order())
    kept = tuple(NAMES[number] for number in chosen if number in NAMES)
    if kept != tuple(NAMES[number] for number in DEFAULT_ORDER):
        return kept
    major, _ = capability(arch)
    cuda = int((torch.version.cuda or "13").partition(".")[0])
    refused = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    if major in (9, 10) and cuda >= 13 and not refused:
        return ("cudnn", "flash", "efficient", "math")
    return kept


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    arch: str,
) -> Tensor:
    """``F.scaled_dot_product_attention`` as the GPU would do it, for meta tensors.

    Calls the operator of the chosen kernel with the padding and the mask that torch gives it, so
    that what is kept for backward is what that kernel keeps. A boolean mask becomes one of the
    query's dtype (``convert_boolean_attn_mask``), a copy in every layer.
    """
    kernel = choose_sdpa(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, arch=arch
    )
    mask = _additive(attn_mask, query)
    grads = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    aten = torch.ops.aten
    if kernel == "flash":
        padded = [_pad_last(tensor, 8) for tensor in (query, key, value)]
        own = query.size(-1) ** -0.5 if scale is None else scale
        out: Tensor = aten._scaled_dot_product_flash_attention(
            *padded, dropout_p, is_causal, False, scale=own
        )[0]
        return out if out.size(-1) == query.size(-1) else out[..., : query.size(-1)]
    if kernel == "efficient":
        mask = None if mask is None else _aligned(mask, query, key)
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, grads, dropout_p, is_causal, scale=scale
        )[0]
        return out
    if kernel == "cudnn":
        out = aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, grads, dropout_p, is_causal, False, scale=scale
        )[0]
        return out
    out = aten._scaled_dot_product_attention_math(
        query, key, value, mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return out


# Around the kernels (attention.cpp).


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """``convert_boolean_attn_mask``: 0 where attention goes, -inf elsewhere."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    if not mask.is_meta:
        return query.new_empty(mask.shape)  # its values are known, but not wanted
    off = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=mask.device)
    return torch.where(mask, 0.0, off)


def _pad_last(tensor: Tensor, to: int) -> Tensor:
    """``pad_last_dim``: a copy whose last size is a multiple, or the tensor if it is one."""
    lack = -tensor.size(-1) % to
    return F.pad(tensor, (0, lack)) if lack else tensor


def _aligned(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """``preprocess_mask``: rows start at multiples of 8 values; expanded without a copy.

    ``pad_bias`` pads by 8 even where nothing is lacking, which it is asked to do when another
    stride is odd.
    """
    if mask.stride(-1) != 1 or any(stride % 8 for stride in mask.stride()[:-1]):
        columns = mask.size(-1)
        mask = F.pad(mask, (0, 8 - columns % 8))[..., :columns]
    return mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))


# The rules of each kernel (can_use_*_attention in sdp_utils.cpp).


_SWITCHES = {"cudnn": "cudnn", "flash": "flash", "efficient": "mem_efficient", "math": "math"}
"""Torch's names of the kernels' switches."""


def _enabled(kernel: str) -> bool:
    """Whether it is switched on: by hand, or by ``sdpa_kernel`` around the call."""
    return bool(getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")())


def _math(call: Call) -> bool:
    return _enabled("math")


def _flash(call: Call) -> bool:
    """No mask, half precision, head sizes equal and at most 256, Ampere or later.

    Causal only for as many queries as keys. Consumer cards (8.6 to 8.9, 12.x) have no backward
    for head sizes of 193 to 224, nor above that with dropout.
    """
    if not _enabled("flash") or call.mask is not None:
        return False
    size = call.query.size(-1)
    consumer = call.major == 12 or (call.major == 8 and call.minor >= 6)
    backward = size <= 192 or (size > 224 and call.dropout == 0.0)
    return (
        call.major >= 8
        and _four(call)
        and {size} == {tensor.size(-1) for tensor in call.tensors}
        and size <= 256
        and (backward or not (call.training and consumer))
        and (not call.causal or call.query.size(-2) == call.key.size(-2))
        and _dtypes(call, HALF)
        and _heads(call, gqa=True)
        and _rows(call, singletons=True)
    )


def _efficient(call: Call) -> bool:
    """Any mask; no grouped heads; head sizes a multiple of what a tensor core reads at once.

    ``minimum_gemm_alignment``: 8 values in half precision with tensor cores, 4 in fp32 from
    Ampere on, else 1. (Later than 2.13 grouped heads are taken.)
    """
    if not _enabled("mem_efficient"):
        return False
    half = call.query.dtype in HALF
    alignment = 4 if call.major >= 8 else 1
    if call.major >= 8 or half:
        alignment = max(alignment, 128 // (16 if half else 32))
    supported = (torch.float16, torch.float32, torch.bfloat16)
    return (
        _four(call)
        and call.query.size(-1) == call.key.size(-1)
        and call.query.size(-1) % alignment == 0
        and call.value.size(-1) % alignment == 0
        and _heads(call, gqa=False)
        and _rows(call, singletons=False)
        and _dtypes(call, supported if call.major >= 8 else supported[:2])
    )


def _cudnn(call: Call) -> bool:
    """Half precision, head sizes a multiple of 8 and at most 128 (256 on Hopper), more than a key.

    On 10.x also 192 with values of 128. Not where deterministic algorithms are demanded, nor for
    a mask that wants a gradient. (After 2.13 sizes above 128 need cuDNN 9.22 on both.)
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    if not _enabled("cudnn") or (
        deterministic and not torch.is_deterministic_algorithms_warn_only_enabled()
    ):
        return False
    if call.major < 8 or not _four(call) or not _dtypes(call, HALF) or not _mask_shape(call):
        return False
    keys, values = call.query.size(-1), call.value.size(-1)
    limit = 256 if (call.major, call.minor) == (9, 0) else 128
    if call.major == 10 and (keys, values) == (192, 128):
        limit = 192
    return (
        max(keys, values) <= limit
        and keys % 8 == values % 8 == 0
        and call.key.size(2) != 1
        and (call.query.size(2) != 1 or call.dropout == 0.0)
        and _heads(call, gqa=True)
        and _rows(call, singletons=True)
    )


def _four(call: Call) -> bool:
    return all(tensor.dim() == 4 for tensor in call.tensors)


def _dtypes(call: Call, allowed: tuple[torch.dtype, ...]) -> bool:
    found = {tensor.dtype for tensor in call.tensors}
    return len(found) == 1 and found <= set(allowed)


def _heads(call: Call, gqa: bool) -> bool:
    """Equal batches, and equal heads unless grouped heads were asked for and are supported."""
    if len({tensor.size(0) for tensor in call.tensors}) != 1:
        return False
    queries, keys, values = (tensor.size(1) for tensor in call.tensors)
    if call.gqa and gqa:
        return keys == values and queries % keys == 0
    return queries == keys == values


def _rows(call: Call, singletons: bool) -> bool:
    """Something to attend to, and values of a row next to each other; so must a mask's be.

    ``check_last_dim_stride_equals_1_dense``: with ``singletons`` a last size of 1 has any stride.
    """
    if call.query.size(2) == 0 or call.key.size(2) == 0:
        return False
    together = all(tensor.stride(-1) == 1 for tensor in call.tensors)
    if not together and not (singletons and call.query.size(-1) == 1):
        return False
    return call.mask is None or call.mask.stride(-1) == 1


def _mask_shape(call: Call) -> bool:
    """``check_attn_mask_shape``: two or four dimensions that broadcast, and no gradient."""
    mask = call.mask
    if mask is None:
        return True
    if mask.requires_grad or mask.dim() not in (2, 4):
        return False
    full = (call.query.size(0), call.query.size(1), call.query.size(2), call.key.size(2))
    wanted = full[-mask.dim() :]
    return all(size in (1, want) for size, want in zip(mask.shape, wanted, strict=True))
