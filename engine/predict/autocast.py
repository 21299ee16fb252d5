"""Autocast for tensors on meta, of which torch's own takes no notice.

Which function runs in which precision is that of ATen/autocast_mode.h (the lists of op policies,
one for CUDA and one for CPUs) of torch 2.11 to 2.13; weights are cast once while the outermost
autocast lasts, as ``cached_cast`` in autocast_mode.cpp does.
"""

from __future__ import annotations

from typing import Any

import torch

from memwb.engine.predict.operators import tensors_in

_NAMESPACES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch.linalg)

_LOWER = """
conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addmv
addr matmul einsum mm mv vecdot linear addbmm baddbmm bmm chain_matmul multi_dot __matmul__
__rmatmul__ scaled_dot_product_attention
"""
_LOWER_CPU = """
conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d addmm matmul
einsum mm vecdot linear addbmm baddbmm bmm __matmul__ __rmatmul__ scaled_dot_product_attention
"""
_FULL = """
acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__
softplus layer_norm group_norm cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss
cross_entropy hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss
margin_ranking_loss soft_margin_loss triplet_margin_loss binary_cross_entropy_with_logits dist
cdist renorm logsumexp norm
"""
_FULL_CPU = """
cosine_embedding_loss nll_loss cross_entropy hinge_embedding_loss kl_div l1_loss smooth_l1_loss
huber_loss mse_loss margin_ranking_loss soft_margin_loss triplet_margin_loss poisson_nll_loss
binary_cross_entropy_with_logits
"""
_FULL_RESULT = "prod softmax log_softmax cumprod cumsum vector_norm matrix_norm sum"
_WIDEST = "addcdiv addcmul atan2 bilinear cross dot index_put scatter_add tensordot cat stack"
_WIDEST_CPU = "cat stack"


class Autocast:
    """Casts arguments as autocast would on devices of a kind, cuda or cpu."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        cuda = kind == "cuda"
        self._lower = _functions(_LOWER if cuda else _LOWER_CPU)
        self._full = _functions(_FULL if cuda else _FULL_CPU)
        self._result = _functions(_FULL_RESULT) if cuda else frozenset()
        self._widest = _functions(_WIDEST if cuda else _WIDEST_CPU)
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def on(self) -> bool:
        """Whether autocast is on now."""
        return torch.is_autocast_enabled(self._kind)

    def clear(self) -> None:
        """The outermost autocast is over: the casts of weights go."""
        self._cache.clear()

    def cast(
        self, func: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function gets them under autocast."""
        if func in self._lower:
            dtype = torch.get_autocast_dtype(self._kind)
        elif func in self._full:
            dtype = torch.float32
        elif func in self._result:
            given = kwargs.get("dtype") or any(isinstance(one, torch.dtype) for one in args)
            if not given and isinstance(args[0], torch.Tensor) and _castable(args[0]):
                kwargs = {**kwargs, "dtype": torch.float32}
            return args, kwargs
        elif func in self._widest:
            found = {one.dtype for one in tensors_in((*args, *kwargs.values())) if _castable(one)}
            if len(found) < 2:
                return args, kwargs
            dtype = torch.float32
        else:
            return args, kwargs
        # The last argument first: so compilers of torch's wheels (GCC on x86-64) evaluate the
        # arguments of one call, and the order of the casts is that of their backward nodes.
        named = {key: self._all(one, dtype) for key, one in reversed(kwargs.items())}
        placed = tuple(self._all(one, dtype) for one in reversed(args))
        return placed[::-1], named

    def _all(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor):
            return self._one(value, dtype)
        if isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value):
            return type(value)(self._all(part, dtype) for part in value)
        return value

    def _one(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if tensor.dtype == dtype or not _castable(tensor):
            return tensor
        kept = self._cache.get(id(tensor))
        if kept is not None:
            return kept[1]
        made = tensor.to(dtype)
        # Only casts of weights to the lower precision are kept.
        weight = tensor.requires_grad and tensor.is_leaf and not tensor._is_view()
        lowered = tensor.dtype == torch.float32 != dtype
        if weight and lowered and torch.is_autocast_cache_enabled():
            self._cache[id(tensor)] = (tensor, made)
        return made


def _functions(names: str) -> frozenset[Any]:
    return frozenset(
        getattr(space, name)
        for name in names.split()
        for space in _NAMESPACES
        if hasattr(space, name)
    )


def _castable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64
