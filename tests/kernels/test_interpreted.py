"""The interpreter's fixture: kernels run on CPU tensors, and nothing is left behind."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _shifted(value, by):
    return value + by


@triton.jit
def _sum_kernel(out, rows, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    x = tl.load(rows + row * count + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + row, _shifted(tl.sum(x, axis=0), 1.0) * tl.sigmoid(100.0))


@torch.library.custom_op("memwb_test::sum", mutates_args=(), device_types="cpu")
def summed(rows: torch.Tensor) -> torch.Tensor:
    return rows.sum(dim=1) + 1


@summed.register_kernel("cuda")
def _sum_cuda(rows: torch.Tensor) -> torch.Tensor:
    count = torch.cuda.get_device_properties(rows.device).multi_processor_count
    assert count == 2
    out = torch.empty(rows.shape[0])
    _sum_kernel[(rows.shape[0],)](out, rows, rows.shape[1], BLOCK=8, num_warps=2)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_cuda_wrapper_runs_on_the_cpu(interpreted: Any, dtype: torch.dtype) -> None:
    from interpreted import PLACES

    rows = torch.arange(15, dtype=dtype).view(3, 5)
    before = [dict(vars(place)) for place in PLACES]
    for _ in range(2):
        with interpreted(sys.modules[__name__]) as launched:
            torch.testing.assert_close(summed(rows), rows.float().sum(dim=1) + 1)
        assert launched == ["_sum_kernel"]
    assert [dict(vars(place)) for place in PLACES] == before
    summed(rows)
    assert launched == ["_sum_kernel"]


def test_bf16_is_refused(interpreted: Any) -> None:
    with interpreted(sys.modules[__name__]), pytest.raises(AssertionError, match="bf16"):
        summed(torch.ones(2, 5, dtype=torch.bfloat16))
