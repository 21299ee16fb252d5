"""Output head and cross-entropy in one operator whose gradients are made in the forward pass.

The tokens go through the head in chunks, so that the logits of all tokens never exist at once: a
chunk's logits become its losses and the gradient of its logits, two products turn that into its
part of the gradients of hidden states and weight, and its memory serves the next chunk.

The idea is Liger's (arXiv:2410.10989). docs/kernels/losses.md says what is done otherwise and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def fused_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    tokens: int | None = None,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    logit_scale: float = 1.0,
    z_loss: float = 0.0,
    shift: bool = False,
    chunk_size: int = 1024,
) -> Tensor:
    """Cross-entropy of ``hidden @ weight.T + bias``, without the logits of all tokens.

    ``hidden`` [..., H], ``weight`` [V, H], ``labels`` [...] and ``bias`` [V]; the loss is fp32.
    ``reduction`` is mean, sum or none; ``tokens`` divides the sum in place of the mean's count.
    Logits are ``softcap * tanh(logit_scale * (product + bias) / softcap)``; ``z_loss`` adds that
    factor times the square of their log-sum-exp. With ``shift`` each position predicts the next
    label.

    Rows of ``ignore_index`` cost nothing. If all are ignored, the mean is nan as torch's, and the
    gradients are zero. A label outside the vocabulary raises on a CPU and makes nan on a GPU.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    if tokens is not None and reduction == "none":
        raise ValueError("tokens divides a sum, and reduction 'none' has none")
    if tokens is not None and tokens < 0:
        raise ValueError(f"tokens is a number of tokens, not {tokens}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is a share between 0 and 1, not {label_smoothing}")
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} and weight is {weight.dtype}: cast one of them")
    _flce_shapes(hidden, weight, labels, bias)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if shift:
        labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    shape, labels = labels.shape, labels.reshape(-1).contiguous()
    bias = None if bias is None else bias.contiguous()
    graph = torch.is_grad_enabled()
    divisor = 1.0 if reduction != "mean" else -1.0
    divisor = divisor if tokens is None else float(tokens)
    # In fp16 a gradient that is divided by thousands of tokens underflows before a gradient
    # scaler's factor reaches it: there the sum is made, and its upstream gradient brings both.
    late = hidden.dtype == torch.float16 and divisor != 1
    loss: Tensor = _flce(
        hidden.reshape(-1, hidden.shape[-1]), weight, bias, labels, None, ignore_index,
        1.0 if late else divisor, label_smoothing, softcap, logit_scale, z_loss, chunk_size,
        graph and hidden.requires_grad, graph and weight.requires_grad,
        graph and bias is not None and bias.requires_grad, reduction != "none",
    )[0]  # fmt: skip
    if late:
        loss = loss / (tokens if tokens is not None else (labels != ignore_index).sum())
    return loss.reshape(shape) if reduction == "none" else loss


def _flce_shapes(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError for what does not fit: a GPU would read past the end, and say nothing."""
    if not hidden.dim() or not hidden.is_floating_point():
        raise ValueError(f"hidden is {tuple(hidden.shape)} of {hidden.dtype}: states are needed")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels are {labels.dtype}, and have to be int64 or int32")
    if not hidden.device == weight.device == labels.device:
        devices = f"hidden on {hidden.device}, weight on {weight.device}, labels on {labels.device}"
        raise ValueError(f"all have to be on one device: {devices}")
    rows, width, words = hidden.shape[:-1], hidden.shape[-1], weight.shape[0]
    if labels.shape != rows:
        raise ValueError(f"labels are {tuple(labels.shape)}, rows of hidden {tuple(rows)}")
    if weight.dim() != 2 or weight.shape[1] != width or not words:
        raise ValueError(f"weight is {tuple(weight.shape)}, for hidden states of width {width}")
    if bias is not None and bias.shape != (words,):
        raise ValueError(f"bias is {tuple(bias.shape)}, for a vocabulary of {words:,}")


def fused_linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *,
    ignore_index: int = -100, label_smoothing: float = 0.0, softcap: float = 0.0,
    logit_scale: float = 1.0, z_loss: float = 0.0,
) -> Tensor:  # fmt: skip
    """The loss of each row by torch's own operators, with all logits: what the others must give."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = logits * logit_scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    losses = torch.nn.functional.cross_entropy(
        logits, labels, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    return losses + z_loss * logits.logsumexp(1).square() * (labels != ignore_index)


@torch.library.custom_op("memwb::fused_linear_cross_entropy", mutates_args=(), device_types="cpu")
def _flce(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    row_weights: Tensor | None, ignore_index: int, divisor: float, label_smoothing: float,
    softcap: float, logit_scale: float, z_loss: float, chunk_size: int, hidden_grad: bool,
    weight_grad: bool, bias_grad: bool, reduce: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss and the gradients of hidden states, weight and bias, of no elements if not wanted.

    ``divisor`` -1 stands for the number of rows that count. ``row_weights`` [N] are upstream
    gradients of single rows. Without ``reduce`` the losses of the rows, and no gradients.
    """
    rows, kept = _flce_rows(labels, ignore_index)
    divisor = float(kept) if divisor < 0 else divisor
    factor = 1 / divisor if divisor else math.inf
    losses, d_hidden, d_weight, d_bias = _flce_results(
        hidden, weight, bias, rows, kept, hidden_grad and reduce, weight_grad and reduce,
        bias_grad and reduce,
    )  # fmt: skip
    backward = reduce and (hidden_grad or weight_grad or bias_grad)
    chunk = _flce_chunk(kept, chunk_size)
    logits = hidden.new_empty(chunk, weight.shape[0])
    # A few rows at once: their fp32 copies stay in the caches, and are of 4 MiB at most.
    block = max(1, 2**20 // weight.shape[0])
    for start in range(0, kept, chunk):
        stop = min(start + chunk, kept)
        x, y, g = _flce_slice(hidden, labels, row_weights, rows, start, stop)
        z = torch.mm(x, weight.t(), out=logits[: stop - start])
        found = torch.cat([
            _flce_block(
                z[i : i + block], y[i : i + block], bias, None if g is None else g[i : i + block],
                d_bias, factor, label_smoothing, softcap, logit_scale, z_loss, backward,
            )
            for i in range(0, stop - start, block)
        ])  # fmt: skip
        _flce_put(losses, rows, start, stop, found)
        _flce_to_hidden(z, weight, d_hidden, rows, start, stop)
        _flce_to_weight(z, x, d_weight, start)
    if reduce:
        losses = losses.sum() / divisor
    return losses, d_hidden, d_weight, d_bias if bias is None else d_bias.to(bias.dtype)


def _flce_rows(labels: Tensor, ignore_index: int) -> tuple[Tensor | None, int]:
    """The rows that count, None if all do, and their number: the one value that the host reads.

    The host waits for the GPU here. Training loops that count the labels of a step do so too, and
    nothing else tells how many products there are to start. On meta all rows count.
    """
    if labels.is_meta:
        return None, labels.shape[0]
    rows = (labels != ignore_index).nonzero().squeeze(1)
    kept = rows.shape[0]
    return (None if kept == labels.shape[0] else rows), kept


def _flce_chunk(kept: int, chunk_size: int) -> int:
    """Rows of a chunk: equal shares of all rows, in multiples of 16 for the products' sake."""
    count = max(1, math.ceil(kept / chunk_size))
    return min(chunk_size, math.ceil(max(1, kept) / count / 16) * 16, max(1, kept))


def _flce_slice(
    hidden: Tensor, labels: Tensor, row_weights: Tensor | None, rows: Tensor | None,
    start: int, stop: int,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Hidden states, labels and upstream gradients of a chunk of the rows that count."""
    parts: list[Any] = [hidden, labels, row_weights]
    if rows is None:
        parts = [None if part is None else part[start:stop] for part in parts]
    else:
        index = rows[start:stop]
        parts = [None if part is None else part.index_select(0, index) for part in parts]
    return parts[0], parts[1], parts[2]


def _flce_put(whole: Tensor, rows: Tensor | None, start: int, stop: int, part: Tensor) -> None:
    """Write a chunk's rows where they belong."""
    if rows is None:
        whole[start:stop].copy_(part)
    else:
        whole.index_copy_(0, rows[start:stop], part)


def _flce_results(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, kept: int,
    hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Memory for losses and gradients; what no chunk writes is zero."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    losses = torch.zeros(hidden.shape[0], dtype=wide, device=hidden.device)
    d_hidden = d_weight = d_bias = None
    if hidden_grad:
        d_hidden = torch.empty_like(hidden) if rows is None else torch.zeros_like(hidden)
    if weight_grad:
        d_weight = torch.empty_like(weight) if kept else torch.zeros_like(weight)
    if bias is not None and bias_grad:
        d_bias = torch.zeros(bias.shape, dtype=wide, device=hidden.device)
    return (
        losses,
        hidden.new_empty(0) if d_hidden is None else d_hidden,
        weight.new_empty(0) if d_weight is None else d_weight,
        hidden.new_empty(0) if d_bias is None else d_bias,
    )


def _flce_to_weight(d_logits: Tensor, x: Tensor, d_weight: Tensor, start: int) -> None:
    """A chunk's part of the weight's gradient. The first chunk writes it, others add."""
    if d_weight.numel() and start == 0:
        torch.mm(d_logits.t(), x, out=d_weight)
    elif d_weight.numel():
        d_weight.addmm_(d_logits.t(), x)


def _flce_to_hidden(
    d_logits: Tensor, weight: Tensor, d_hidden: Tensor, rows: Tensor | None, start: int, stop: int
) -> None:
    """The gradient of a chunk's hidden states."""
    if d_hidden.numel() and rows is None:
        torch.mm(d_logits, weight, out=d_hidden[start:stop])
    elif d_hidden.numel():
        part = d_hidden.new_empty(stop - start, d_hidden.shape[1])
        _flce_put(d_hidden, rows, start, stop, torch.mm(d_logits, weight, out=part))


def _flce_block(
    z: Tensor, y: Tensor, bias: Tensor | None, row_weights: Tensor | None, d_bias: Tensor,
    share: float, label_smoothing: float, softcap: float, logit_scale: float, z_loss: float,
    backward: bool,
) -> Tensor:  # fmt: skip
    """The losses of a few rows; their products ``z`` become the gradient of these in place."""
    part = z if z.dtype in (torch.float32, torch.float64) else z.float()
    part = part if bias is None else part.add_(bias)
    part = part if logit_scale == 1 else part.mul_(logit_scale)
    slope = None
    if softcap:
        part.div_(softcap).tanh_()
        slope = torch.addcmul(part.new_ones(()), part, part, value=-1) if backward else None
        part.mul_(softcap)
    y = y.unsqueeze(1)
    top, target = part.amax(1, keepdim=True), part.gather(1, y)
    mean = part.mean(1, keepdim=True) if label_smoothing else target
    total = part.sub_(top).exp_().sum(1, keepdim=True)
    rest = total.log()
    lse = top + rest
    # Not the log-sum-exp less the target: of a large one the small loss would be rounded away.
    losses = rest + (1 - label_smoothing) * (top - target) + z_loss * lse.square()
    if label_smoothing:
        losses += label_smoothing * (top - mean)
    if backward:
        factor = torch.full_like(lse, share)
        factor = factor if row_weights is None else factor * row_weights.unsqueeze(1)
        along = factor * (1 + 2 * z_loss * lse)
        part.mul_(along / total)
        if label_smoothing:
            part.sub_(factor * (label_smoothing / part.shape[1]))
        part.scatter_add_(1, y, factor * (label_smoothing - 1))
        part = part if slope is None else part.mul_(slope)
        part = part if logit_scale == 1 else part.mul_(logit_scale)
        if d_bias.numel():
            d_bias.add_(part.sum(0))
        if part is not z:
            z.copy_(part)
    return losses.squeeze(1)


@_flce.register_kernel("cuda")
def _flce_cuda(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    row_weights: Tensor | None, ignore_index: int, divisor: float, label_smoothing: float,
    softcap: float, logit_scale: float, z_loss: float, chunk_size: int, hidden_grad: bool,
    weight_grad: bool, bias_grad: bool, reduce: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The same on a GPU: torch's products, and Triton's passes over what comes out of them.

    A chunk goes through the head in slices of the vocabulary whose logits are fp32, never rounded,
    and small enough for the second-level cache. A pass turns a slice into exponentials relative to
    its own maximum, of the model's precision; when all slices are there, another makes of these
    the gradient of the logits.

    What the labels' own logits add to the weight's gradient is most of it: it is left out of the
    chunks' sums, which are rounded after each, and added in the end.
    """
    if hidden.dtype == torch.float64:
        raise TypeError("fused_linear_cross_entropy computes in fp32 on a GPU, and this is fp64")
    rows, kept = _flce_rows(labels, ignore_index)
    divisor = float(kept) if divisor < 0 else divisor
    factor = 1 / divisor if divisor else math.inf
    losses, d_hidden, d_weight, d_bias = _flce_results(
        hidden, weight, bias, rows, kept, hidden_grad and reduce, weight_grad and reduce,
        bias_grad and reduce,
    )  # fmt: skip
    backward = reduce and (hidden_grad or weight_grad or bias_grad)
    vocabulary, device = weight.shape[0], hidden.device
    counted = labels if rows is None else labels.index_select(0, rows)
    # Before the chunks' memory: sorting takes some of its own.
    order = counted.argsort(stable=True) if d_weight.numel() else counted[:0]
    own = torch.empty(kept if backward else 0, dtype=torch.float32, device=device)
    chunk = _flce_chunk(kept, chunk_size)
    width, slices = _flce_width(vocabulary)
    block, count = triton.next_power_of_2(width), triton.next_power_of_2(slices)
    logits = torch.empty(chunk * width, dtype=torch.float32, device=device)
    # Rows begin at multiples of 32 bytes, whatever the vocabulary: products are slow otherwise.
    pitch = math.ceil(vocabulary / 16) * 16
    powers = hidden.new_empty(chunk if backward else 0, pitch)
    # Of each slice and row the maximum, the sum of exponentials, the sum of logits.
    seen = torch.empty(3, slices, chunk, dtype=torch.float32, device=device)
    target = torch.empty(chunk, dtype=torch.float32, device=device)
    found = torch.empty(chunk, dtype=torch.float32, device=device)
    for start in range(0, kept, chunk):
        stop = min(start + chunk, kept)
        size = stop - start
        x, y, g = _flce_slice(hidden, labels, row_weights, rows, start, stop)
        for part, first in enumerate(range(0, vocabulary, width)):
            columns = weight[first : first + width]
            z = logits[: size * columns.shape[0]].view(size, columns.shape[0])
            if hidden.dtype == torch.float32:
                torch.mm(x, columns.t(), out=z)
            else:
                torch.mm(x, columns.t(), out_dtype=torch.float32, out=z)
            with _flce_device(weight):
                _flce_slice_kernel[(size,)](
                    z, bias, y, powers, seen, target, first, columns.shape[0], part, pitch, slices,
                    chunk, softcap, logit_scale, HAS_BIAS=bias is not None, HAS_CAP=softcap != 0,
                    BACKWARD=backward, BLOCK=block, num_warps=8,
                )  # fmt: skip
        with _flce_device(weight):
            _flce_finish_kernel[(size, slices if backward else 1)](
                powers, seen, target, y, g, found, own[start:], vocabulary, width, pitch, slices,
                chunk, factor, label_smoothing, softcap, logit_scale, z_loss,
                HAS_WEIGHTS=g is not None, HAS_CAP=softcap != 0, BACKWARD=backward, COUNT=count,
                BLOCK=block, num_warps=8,
            )  # fmt: skip
        _flce_put(losses, rows, start, stop, found[:size])
        d_logits = powers[:size, :vocabulary]
        if d_bias.numel():
            d_bias.add_(d_logits.sum(0, dtype=torch.float32))
        _flce_to_hidden(d_logits, weight, d_hidden, rows, start, stop)
        if d_weight.numel():
            with _flce_device(weight):
                _flce_clear_kernel[(triton.cdiv(size, 128),)](
                    powers, y, vocabulary, pitch, size, BLOCK=128
                )
        _flce_to_weight(d_logits, x, d_weight, start)
    if d_weight.numel() and kept:
        with _flce_device(weight):
            _flce_labels_kernel[(kept, triton.cdiv(hidden.shape[1], 512))](
                hidden, rows, counted, order, own, d_weight, kept, vocabulary, hidden.shape[1],
                hidden.stride(0), hidden.stride(1), d_weight.stride(0), d_weight.stride(1),
                HAS_ROWS=rows is not None, ROWS=4, BLOCK=512,
            )  # fmt: skip
    if reduce:
        losses = losses.sum() / divisor
    return losses, d_hidden, d_weight, d_bias if bias is None else d_bias.to(bias.dtype)


def _flce_width(vocabulary: int) -> tuple[int, int]:
    """Words of a slice, and how many slices: equal shares of 4096 at most.

    4096 fp32 values are 16 registers of each thread of 8 warps, so that a row of a slice is read
    once; 1024 rows of them are 16 MiB, which second-level caches of 40 MiB and more hold, and whose
    product is one round of tiles of 128 × 256 on Hopper's 132 multiprocessors.
    """
    slices = math.ceil(vocabulary / 4096)
    return min(vocabulary, math.ceil(vocabulary / slices / 64) * 64), slices


def _flce_device(x: Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if x.is_meta else x.get_device())


@triton.jit(do_not_specialize=["part"])  # type: ignore[untyped-decorator]
def _flce_slice_kernel(  # type: ignore[no-untyped-def]
    logits, bias, labels, powers, seen, target, first, width, part, pitch, slices, chunk, softcap,
    logit_scale, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of a slice: exp(z - its maximum) into ``powers``, and what is seen of the row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    z = tl.load(logits + row * width + columns, mask=inside, other=0.0)
    if HAS_BIAS:
        z += tl.load(bias + first + columns, mask=inside, other=0.0).to(tl.float32)
    z *= logit_scale
    if HAS_CAP:
        # tanh by exp, which ends in 1 and -1 where that overflows.
        z = softcap * (1 - 2 / (tl.exp(2 * z / softcap) + 1))
    place = tl.load(labels + row) - first
    if (place >= 0) & (place < width):
        tl.store(target + row, tl.sum(tl.where(columns == place, z, 0.0), 0))
    total = tl.sum(tl.where(inside, z, 0.0), 0)
    z = tl.where(inside, z, float("-inf"))
    top = tl.max(z, 0)
    # A slice that a bias masks whole has no maximum to subtract.
    power = tl.exp(z - tl.where(top == float("-inf"), 0.0, top))
    seen += part * chunk + row
    tl.store(seen, top)
    tl.store(seen + slices * chunk, tl.sum(power, 0))
    tl.store(seen + 2 * slices * chunk, total)
    if BACKWARD:
        power = power.to(powers.dtype.element_ty)
        tl.store(powers + row * pitch + first + columns, power, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _flce_finish_kernel(  # type: ignore[no-untyped-def]
    powers, seen, target, labels, row_weights, losses, own, vocabulary, width, pitch, slices, chunk,
    factor, label_smoothing, softcap, logit_scale, z_loss, HAS_WEIGHTS: tl.constexpr,
    HAS_CAP: tl.constexpr, BACKWARD: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row's loss, and of one of its slices the gradient of the logits, in place."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    each = tl.arange(0, COUNT)
    at = seen + each * chunk + row
    tops = tl.load(at, mask=each < slices, other=float("-inf"))
    sums = tl.load(at + slices * chunk, mask=each < slices, other=0.0)
    top = tl.max(tops, 0)
    total = tl.sum(sums * tl.exp(tops - top), 0)
    # The log-sum-exp is kept in two parts: of a large one a small loss would be rounded away.
    rest = tl.log(total)
    lse = top + rest
    label = tl.load(labels + row)
    known = (label >= 0) & (label < vocabulary)
    z = tl.load(target + row, mask=known, other=float("nan"))
    if part == 0:
        totals = tl.load(at + 2 * slices * chunk, mask=each < slices, other=0.0)
        mean = tl.sum(totals, 0) / vocabulary
        # Without smoothing not even a mean that is infinite has a part in it.
        even = tl.where(label_smoothing == 0, 0.0, label_smoothing * (top - mean))
        loss = rest + (1 - label_smoothing) * (top - z) + even
        tl.store(losses + row, loss + z_loss * lse * lse)
    if BACKWARD:
        if HAS_WEIGHTS:
            factor *= tl.load(row_weights + row)
        columns = part * width + tl.arange(0, BLOCK)
        inside = (tl.arange(0, BLOCK) < width) & (columns < vocabulary)
        power = tl.load(powers + row * pitch + columns, mask=inside, other=0.0).to(tl.float32)
        slice_top = tl.load(seen + part * chunk + row)
        chosen = columns == label
        # What was rounded serves all words but the target, whose share may be all but 1.
        share = tl.where(chosen, tl.exp(z - top), power * tl.exp(slice_top - top)) / total
        slope = share * (1 + 2 * z_loss * lse) - label_smoothing / vocabulary
        slope = tl.where(chosen, slope - (1 - label_smoothing), slope)
        if HAS_CAP:
            # The capped logit is known of its exponential, whose rounding moves it little.
            bent = tl.where(chosen, z, slice_top + tl.log(power)) / softcap
            slope *= tl.where((power > 0) | chosen, 1 - bent * bent, 0.0)
        slope *= factor * logit_scale
        tl.store(powers + row * pitch + columns, slope.to(powers.dtype.element_ty), mask=inside)
        if (label >= part * width) & (label < part * width + width) & known:
            tl.store(own + row, tl.sum(tl.where(chosen, slope, 0.0), 0))


@triton.jit  # type: ignore[untyped-decorator]
def _flce_clear_kernel(powers, labels, vocabulary, pitch, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Take the labels' own logits out of the gradient of a chunk's logits."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + row, mask=row < size, other=-1)
    at = powers + row.to(tl.int64) * pitch + label
    nothing = tl.zeros((BLOCK,), powers.dtype.element_ty)
    tl.store(at, nothing, mask=(label >= 0) & (label < vocabulary))


@triton.jit  # type: ignore[untyped-decorator]
def _flce_labels_kernel(  # type: ignore[no-untyped-def]
    hidden, rows, labels, order, own, d_weight, kept, vocabulary, width, hidden_n, hidden_k,
    weight_v, weight_k, HAS_ROWS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to a word's gradient what the logits of the rows that have it as their label do.

    ``order`` has rows of one label side by side, in their own order: the first one's program adds
    them all up in fp32, some at a time, the others' have nothing to do.
    """
    place = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    label = tl.load(labels + tl.load(order + place))
    before = tl.load(order + place - 1, mask=place > 0, other=0)
    first = (place == 0) | (tl.load(labels + before) != label)
    if first & (label >= 0) & (label < vocabulary):
        at = d_weight + label * weight_v + columns * weight_k
        total = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        met = ROWS
        while met == ROWS:
            places = place + tl.arange(0, ROWS)
            row = tl.load(order + places, mask=places < kept, other=0)
            same = (places < kept) & (tl.load(labels + row) == label)
            factor = tl.load(own + row, mask=same, other=0.0)
            if HAS_ROWS:
                row = tl.load(rows + row)
            x_at = hidden + row[:, None] * hidden_n + columns[None, :] * hidden_k
            x = tl.load(x_at, mask=same[:, None] & inside[None, :], other=0.0)
            total += tl.sum(factor[:, None] * x.to(tl.float32), 0)
            met = tl.sum(same.to(tl.int32), 0)
            place += ROWS
        tl.store(at, total.to(d_weight.dtype.element_ty), mask=inside)


@_flce.register_fake
def _flce_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    row_weights: Tensor | None, ignore_index: int, divisor: float, label_smoothing: float,
    softcap: float, logit_scale: float, z_loss: float, chunk_size: int, hidden_grad: bool,
    weight_grad: bool, bias_grad: bool, reduce: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What comes out, by shape alone."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    has_bias = bias is not None and bias_grad and reduce
    return (
        hidden.new_empty(() if reduce else labels.shape, dtype=wide),
        torch.empty_like(hidden) if hidden_grad and reduce else hidden.new_empty(0),
        torch.empty_like(weight) if weight_grad and reduce else weight.new_empty(0),
        torch.empty_like(bias) if bias is not None and has_bias else hidden.new_empty(0),
    )


def _flce_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep the gradients that were made; of single losses, what they are made of."""
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[5:]
    if inputs[-1]:
        ctx.made = output[1:]
    else:
        ctx.made = ()
        ctx.save_for_backward(*inputs[:4])


def _flce_backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """The gradients, times the upstream gradient; given away, not copied, if not kept for more."""
    rest = (None,) * (len(ctx.options) + 2)
    wanted = ctx.options[-4:-1]
    if upstream is None:
        return (None, None, None, *rest)
    if torch.is_grad_enabled():
        raise RuntimeError("fused_linear_cross_entropy has no second derivative")
    if not ctx.options[-1]:
        hidden, weight, bias, labels = ctx.saved_tensors
        ignore_index, _, *options, _ = ctx.options
        made = _flce(
            hidden, weight, bias, labels, upstream.contiguous(), ignore_index, 1.0, *options, True
        )[1:]
        return (*_flce_given(made, wanted), *rest)
    if ctx.made is None:
        raise RuntimeError(
            "fused_linear_cross_entropy gave its gradients to the first backward pass: "
            "call that with retain_graph=True if there is to be another"
        )
    made = ctx.made
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    # A compiler's tensors are not of the plain type: it traces values, and has memory of its own.
    if (asked is not None and asked()) or type(upstream) is not Tensor:
        return (*_flce_given([one * upstream for one in made], wanted), *rest)
    # Whoever takes a gradient makes it his own only if nobody else holds it.
    ctx.made = None
    for one in made:
        if one.numel():
            _flce_scale(one, upstream)
    return (*_flce_given(made, wanted), *rest)


def _flce_given(made: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients that are asked for; those of no rows are of no elements."""
    return [one if asked else None for one, asked in zip(made, wanted, strict=True)]


_flce.register_autograd(_flce_backward, setup_context=_flce_setup)


@torch.library.custom_op(
    "memwb::fused_linear_cross_entropy_scale", mutates_args=("gradient",), device_types="cpu"
)
def _flce_scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiply a gradient by a factor of one element, in place."""
    gradient.mul_(factor)


@_flce_scale.register_kernel("cuda")
def _flce_scale_cuda(gradient: Tensor, factor: Tensor) -> None:
    """On a GPU the kernel looks at the factor: the host need not, and 1 costs nothing."""
    size = gradient.numel()
    with _flce_device(gradient):
        _flce_scale_kernel[(triton.cdiv(size, 8192),)](
            gradient, factor, size, BLOCK=8192, num_warps=8
        )


@_flce_scale.register_fake
def _flce_scale_fake(gradient: Tensor, factor: Tensor) -> None:
    """Nothing is made."""


@triton.jit  # type: ignore[untyped-decorator]
def _flce_scale_kernel(gradient, factor, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scale a block of a gradient that fills its memory, in whatever order."""
    value = tl.load(factor)
    if value != 1:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        found = tl.load(gradient + places, mask=places < size, other=0.0).to(tl.float32) * value
        tl.store(gradient + places, found.to(gradient.dtype.element_ty), mask=places < size)
