"""What CUDA kernels do, without a GPU: choices, shapes and bytes, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from memwb.engine.errors import CannotPredict
from memwb.engine.predict import cuda

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def meta(*shape: int, dtype: torch.dtype = BF16, grad: bool = True) -> Tensor:
    """Queries, keys or values as projections make them: [batch, heads, length, size], strided."""
    batch, heads, length, size = shape
    made = torch.empty(batch, length, heads, size, dtype=dtype, device="meta")
    return made.transpose(1, 2).requires_grad_(grad)


def qkv(size: int = 64, dtype: torch.dtype = BF16, heads: int = 4, keys: int = 4) -> list[Tensor]:
    return [meta(2, h, 256, size, dtype=dtype) for h in (heads, keys, keys)]


def boolean(batch: int = 2, length: int = 256) -> Tensor:
    return torch.empty(batch, 1, length, length, dtype=torch.bool, device="meta")


@pytest.fixture(autouse=True)
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel of CUDA 13, whatever is installed."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("arch", "size", "dtype", "options", "kernel"),
    [
        ("sm_89", 64, BF16, {"causal": True}, "flash"),
        ("sm_80", 128, FP16, {}, "flash"),
        ("sm_90", 128, BF16, {"causal": True}, "cudnn"),
        ("sm_100", 128, BF16, {"causal": True}, "cudnn"),
        ("sm_120", 128, BF16, {"causal": True}, "flash"),
        # Consumer cards have no backward for 193 to 224, nor with dropout above.
        ("sm_89", 256, BF16, {"causal": True}, "flash"),
        ("sm_89", 256, BF16, {"causal": True, "dropout": 0.1}, "efficient"),
        ("sm_89", 208, BF16, {"causal": True}, "efficient"),
        ("sm_80", 208, BF16, {"causal": True}, "flash"),
        ("sm_120", 208, BF16, {"causal": True}, "efficient"),
        ("sm_90", 256, BF16, {"causal": True}, "cudnn"),
        ("sm_100", 256, BF16, {"causal": True}, "flash"),
        # A head of 20 is padded for flash; cuDNN will not have it, nor does efficient.
        ("sm_90", 20, BF16, {}, "flash"),
        ("sm_89", 20, BF16, {"mask": boolean()}, "math"),
        ("sm_89", 64, BF16, {"mask": boolean()}, "efficient"),
        ("sm_90", 64, BF16, {"mask": boolean()}, "cudnn"),
        # fp32, and what Turing and Volta lack.
        ("sm_89", 64, FP32, {"causal": True}, "efficient"),
        ("sm_90", 64, FP32, {"causal": True}, "efficient"),
        ("sm_75", 64, FP16, {"causal": True}, "efficient"),
        ("sm_75", 64, BF16, {"causal": True}, "math"),
        ("sm_89", 512, BF16, {}, "efficient"),
    ],
)
def test_the_choice(
    arch: str, size: int, dtype: torch.dtype, options: dict[str, Any], kernel: str
) -> None:
    assert cuda.choose_sdpa(*qkv(size, dtype), **options, arch=arch) == kernel


def test_grouped_heads_go_to_flash_and_not_to_efficient() -> None:
    grouped = qkv(heads=8, keys=2)
    assert cuda.choose_sdpa(*grouped, gqa=True, arch="sm_89") == "flash"
    assert cuda.choose_sdpa(*grouped, boolean(), gqa=True, arch="sm_89") == "math"
    assert cuda.choose_sdpa(*grouped, gqa=True, arch="sm_90") == "cudnn"
    assert cuda.choose_sdpa(*grouped, boolean(), gqa=True, arch="sm_90") == "cudnn"


def test_what_is_switched_off_is_not_chosen() -> None:
    tensors = qkv()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        assert cuda.choose_sdpa(*tensors, arch="sm_90") == "efficient"
    with sdpa_kernel(SDPBackend.MATH):
        assert cuda.choose_sdpa(*tensors, arch="sm_89") == "math"
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(CannotPredict):
        cuda.choose_sdpa(*tensors, boolean(), arch="sm_89")
    assert cuda.choose_sdpa(*tensors, arch="sm_90") == "cudnn"


def test_cudnn_is_first_only_with_the_wheels_of_cuda_13(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert cuda.choose_sdpa(*qkv(), arch="sm_90") == "flash"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda.choose_sdpa(*qkv(), arch="sm_90") == "cudnn"
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    assert cuda.choose_sdpa(*qkv(), arch="sm_90") == "flash"


class Seen(TorchDispatchMode):
    """Every operator with its arguments and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, Any, Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[str(func)] = func, args, kwargs or {}, out
        return out

    def scratch(self, name: str, arch: str) -> list[tuple[tuple[int, ...], torch.dtype]]:
        _, args, kwargs, _ = self.calls[f"aten.{name}.default"]
        told = cuda.SCRATCH.get(f"aten.{name}.default")
        return [] if told is None else list(told(*args, **kwargs, arch=arch))

    def shapes(self, name: str) -> list[tuple[int, ...]]:
        out = self.calls[f"aten.{name}.default"][3]
        return [tuple(t.shape) for t in out if isinstance(t, Tensor)]


@pytest.fixture
def saw() -> Iterator[Seen]:
    with Seen() as seen:
        yield seen


def attend(*args: Any, **kwargs: Any) -> Tensor:
    """Attention, and its backward as a projection behind it makes its gradient."""
    out = cuda.sdpa(*args, **kwargs)
    batch, heads, length, size = out.shape
    grad = torch.empty(batch, length, heads, size, dtype=out.dtype, device="meta")
    out.backward(grad.transpose(1, 2))
    return out


def test_flash(saw: Seen) -> None:
    query, key, value = meta(2, 8, 200, 80), meta(2, 2, 200, 80), meta(2, 2, 200, 80)
    out = attend(query, key, value, is_causal=True, enable_gqa=True, arch="sm_89")
    assert out.shape == query.shape
    # Output, logsumexp, and the generator's state: 2 words and an unused one.
    forward = saw.shapes("_scaled_dot_product_flash_attention")
    assert forward == [(2, 8, 200, 80), (2, 8, 200), (2,), (), (0,)]
    assert key.grad is not None and key.grad.shape == key.shape
    # 200 queries are 256 of blocks of 128; a head of 80 is 96 of a multiple of 32.
    assert saw.scratch("_scaled_dot_product_flash_attention_backward", "sm_89") == [
        ((2, 8, 256), FP32),
        ((2, 256, 8, 96), FP32),
        ((2, 200, 8, 80), BF16),
        ((2, 200, 8, 80), BF16),
    ]


def test_flash_pads_a_head_of_20_to_24(saw: Seen) -> None:
    query = meta(2, 4, 256, 20)
    out = attend(query, *qkv(20)[1:], arch="sm_89")
    assert out.shape == query.shape
    assert saw.shapes("_scaled_dot_product_flash_attention")[0] == (2, 4, 256, 24)
    assert query.grad is not None and query.grad.shape == query.shape
    found = saw.scratch("_scaled_dot_product_flash_attention_backward", "sm_89")
    assert ((2, 256, 4, 32), FP32) in found


def test_flash_copies_what_is_not_in_its_layout(saw: Seen) -> None:
    tensors = [torch.empty(2, 4, 256, 64, dtype=BF16, device="meta") for _ in range(3)]
    out = cuda.sdpa(*[t.requires_grad_() for t in tensors], arch="sm_89")
    out.backward(torch.empty_like(out))
    found = saw.scratch("_scaled_dot_product_flash_attention_backward", "sm_89")
    copy = ((2, 256, 4, 64), BF16)
    assert found == [copy, copy, ((2, 4, 256), FP32), ((2, 256, 4, 64), FP32)]


def test_efficient_with_a_mask(saw: Seen) -> None:
    query, key, value = (meta(2, 4, 203, 64) for _ in range(3))
    attend(query, key, value, boolean(2, 203), arch="sm_89")
    # The mask of the query's dtype, its rows padded to 208, expanded without a copy.
    _, args, _, _ = saw.calls["aten._scaled_dot_product_efficient_attention.default"]
    assert args[3].shape == (2, 4, 203, 203) and args[3].dtype == BF16
    assert args[3].stride() == (203 * 208, 0, 208, 1)
    # The logsumexp of 203 rows is padded to 224.
    forward = saw.shapes("_scaled_dot_product_efficient_attention")
    assert forward == [(2, 4, 203, 64), (2, 4, 224), (), ()]
    # dQ in 4 × 1 tiles of 64 × 64 fp32 with 16 bytes each, for 8 heads in all.
    assert saw.scratch("_scaled_dot_product_efficient_attention_backward", "sm_89") == [
        ((2, 4, 203), FP32),
        ((8 * 4 * (16 + 64 * 64 * 4),), torch.uint8),
    ]


def test_efficient_of_a_head_of_128_depends_on_shared_memory(saw: Seen) -> None:
    attend(*qkv(128), boolean(), arch="sm_89")
    name = "_scaled_dot_product_efficient_attention_backward"
    # 128 × 128 blocks: 2 × 1 of them, 8 heads.
    assert saw.scratch(name, "sm_80")[1] == ((8 * 2 * (16 + 128 * 128 * 4),), torch.uint8)
    # 64 × 64 blocks: 4 × 2 of them, and dK and dV of 4 splits of 64 keys in fp32.
    accumulated = 4 * 64 * (128 + 128) * 4
    assert saw.scratch(name, "sm_89")[1] == (
        (8 * (4 * 2 * (16 + 64 * 64 * 4) + accumulated),),
        torch.uint8,
    )


def test_efficient_forward_adds_up_large_heads_in_fp32(saw: Seen) -> None:
    attend(*qkv(512), arch="sm_89")
    assert saw.scratch("_scaled_dot_product_efficient_attention", "sm_89") == [
        ((2, 256, 4, 512), FP32)
    ]


def test_cudnn(saw: Seen) -> None:
    tensors = qkv(128, heads=8, keys=2)
    attend(*tensors, is_causal=True, enable_gqa=True, arch="sm_90")
    forward = saw.shapes("_scaled_dot_product_cudnn_attention")
    assert forward == [(2, 8, 256, 128), (2, 8, 256, 1), (), ()]
    assert tensors[1].grad is not None and tensors[1].grad.shape == (2, 2, 256, 128)
    found = saw.scratch("_scaled_dot_product_cudnn_attention_backward", "sm_90")
    # dQ and a sum a row, of all 8 query heads in fp32.
    assert found == [((2 * 8 * 256 * (128 + 1) * 4,), torch.uint8)]


def test_math_keeps_the_scores(saw: Seen) -> None:
    query, key, value = qkv(20)
    out = cuda.sdpa(query, key, value, boolean(), arch="sm_89")
    assert out.shape == query.shape
    assert not [name for name in saw.calls if "flash" in name or "efficient" in name]
    scores = (2, 4, 256, 256)
    assert saw.calls["aten._safe_softmax.default"][3].shape == scores
    assert saw.scratch("_safe_softmax", "sm_89") == [
        (scores, torch.bool),
        ((2, 4, 256, 1), torch.bool),
    ]


def test_nothing_is_kept_for_backward_without_gradients(saw: Seen) -> None:
    with torch.no_grad():
        cuda.sdpa(*qkv(), boolean(), arch="sm_89")
    assert saw.shapes("_scaled_dot_product_efficient_attention")[1] == (2, 4, 0)


def test_embedding_backward_sorts_more_than_3072_tokens(saw: Seen) -> None:
    for tokens, rows in ((3072, 5000), (4096, 5000), (4096, 1000)):
        weight = torch.empty(rows, 32, dtype=BF16, device="meta", requires_grad=True)
        indices = torch.empty(1, tokens, dtype=torch.int64, device="meta")
        F.embedding(indices, weight).backward(torch.empty(1, tokens, 32, dtype=BF16, device="meta"))
        found = saw.scratch("embedding_dense_backward", "sm_89")
        if tokens == 3072:
            assert found == []
            continue
        segments = min(tokens, rows)
        parts = 409 + segments
        # Sorted, their order, where runs begin; runs' parts and offsets; the parts' rows.
        integers = 3 * tokens + 2 * segments + parts
        assert cuda.nbytes(tuple(found)) == 8 * integers + parts * 32 * 4


def test_index_put_sorts_only_what_it_accumulates(saw: Seen) -> None:
    table = torch.empty(100, 8, device="meta")
    indices = torch.empty(3, 5, dtype=torch.int64, device="meta")
    values = torch.empty(3, 5, 8, device="meta")
    table.index_put_((indices,), values)
    assert saw.scratch("index_put_", "sm_89") == []
    table.index_put_((indices,), values, accumulate=True)
    assert saw.scratch("index_put_", "sm_89") == [((15,), torch.int64)] * 6


def test_other_operators_take_none(saw: Seen) -> None:
    a = torch.empty(8, 8, device="meta")
    torch.mm(a, a)
    assert saw.scratch("mm", "sm_89") == []


def test_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(arch: str) -> list[tuple[int, str]]:
        return [(space.bytes, space.when) for space in cuda.workspaces(arch)]

    assert sizes("sm_89") == [(8_519_680, "forward"), (8_519_680, "backward")]
    assert sizes("sm_90") == sizes("sm_100") == sizes("sm_120")
    assert sizes("sm_90") == [(2**25, "forward"), (2**25, "backward")]
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert sizes("sm_89")[0] == (2**25, "forward")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert sizes("sm_90")[0] == (2**17, "forward")


def test_a_mask_with_values_becomes_one_without(saw: Seen) -> None:
    mask = torch.ones(2, 1, 256, 256, dtype=torch.bool)
    cuda.sdpa(*qkv(), mask, arch="sm_89")
    made = saw.calls["aten._scaled_dot_product_efficient_attention.default"][1][3]
    assert made.is_meta and made.dtype == BF16 and made.untyped_storage().nbytes() == 2 * 2 * 256**2


class Cuda(TorchFunctionMode):
    """The functions of INTERCEPT take the place of torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cuda.INTERCEPT.get(func, func)(*args, **(kwargs or {}))


def kept(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[tuple[int, torch.dtype]]:
    """Values and dtype of what is saved for backward, the input itself left out."""
    saved: list[Tensor] = []
    x = torch.empty(4, 8, dtype=dtype, device="meta", requires_grad=True)
    with (
        Cuda(),
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(t) or t,  # type: ignore[func-returns-value]
            lambda t: t,
        ),
    ):
        out = function(x)
    out.backward(torch.empty_like(out))
    assert x.grad is not None and x.grad.shape == x.shape and x.grad.dtype == dtype
    return [(t.numel(), t.dtype) for t in saved if t is not x]


def test_dropout_keeps_a_boolean_mask() -> None:
    mask = [(32, torch.bool)]
    assert kept(lambda x: F.dropout(x, 0.1), BF16) == mask
    assert kept(torch.nn.Dropout(0.1), BF16) == mask
    assert kept(lambda x: torch.dropout(x, 0.1, True), BF16) == mask
    assert kept(lambda x: F.dropout(x, 0.1, training=False) * 1, BF16) == []


@pytest.mark.parametrize("function", [F.softmax, torch.softmax, Tensor.softmax, F.log_softmax])
def test_an_fp32_softmax_of_fp16_makes_no_copy(saw: Seen, function: Any) -> None:
    name = "_log_softmax" if function is F.log_softmax else "_softmax"
    assert kept(lambda x: function(x, -1, dtype=FP32), FP16) == [(32, FP32)]
    assert saw.calls[f"aten.{name}.default"][1][2] is True
    assert "aten._to_copy.default" not in saw.calls
    assert kept(lambda x: function(x, -1, dtype=FP32), BF16) == [(32, FP32)]
    assert saw.calls[f"aten.{name}.default"][1][2] is False
    assert "aten._to_copy.default" in saw.calls


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_rms_norm_keeps_a_value_a_row() -> None:
    weight = torch.empty(8, dtype=BF16, device="meta", requires_grad=True)
    found = kept(lambda x: F.rms_norm(x, (8,), weight, 1e-6), BF16)
    assert found == [(8, BF16), (4, FP32)]
    assert weight.grad is not None and weight.grad.shape == (8,)
    assert kept(lambda x: F.rms_norm(x, (8,)), BF16) == [(4, FP32)]
    # Weights of another dtype: torch does not fuse.
    wide = torch.empty(8, device="meta", requires_grad=True)
    assert len(kept(lambda x: F.rms_norm(x, (8,), wide), BF16)) > 2


def test_layer_norm_keeps_two_fp32_values_a_row_anyway() -> None:
    assert kept(lambda x: F.layer_norm(x, (8,)), BF16) == [(4, FP32), (4, FP32)]
