"""Output head and cross-entropy without logits: what backward needs of them is computed again.

Forward keeps two numbers of each row, the maximum of its logits and the sum of their exponentials
relative to it, which a kernel finds block by block without writing one logit. Backward goes through
the vocabulary in slices: it makes the gradient of a slice's logits, from that the slice of the
weight's gradient, written once, and the slice's part of the hidden states' gradient. All sums have
a fixed order. On a CPU gradients are made in forward where that saves a product and costs no
memory.

The idea is that of Cut Cross-Entropy (arXiv:2411.09009), which adds up its gradients in an order
that chance decides. docs/kernels/losses.md says what is done otherwise and why.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def cut_cross_entropy(
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
) -> Tensor:
    """Cross-entropy of ``hidden @ weight.T + bias``, in the least memory.

    ``hidden`` [..., H], ``weight`` [V, H], ``labels`` [...] and ``bias`` [V]; the loss is fp32.
    ``reduction`` is mean, sum or none; ``tokens`` divides the sum in place of the mean's count.
    Logits are ``softcap * tanh(logit_scale * (product + bias) / softcap)``; ``z_loss`` adds that
    factor times the square of their log-sum-exp. With ``shift`` each position predicts the next
    label.

    If all rows are of ``ignore_index``, the mean is nan as torch's, and the gradients are zero. A
    label outside the vocabulary makes nan.
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
    _cce_shapes(hidden, weight, labels, bias)
    if shift:
        labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    flat = labels.reshape(-1).contiguous()
    bias = None if bias is None else bias.contiguous()
    inputs = (
        hidden.reshape(-1, hidden.shape[-1]), weight, bias, flat, ignore_index, label_smoothing,
        softcap, logit_scale, z_loss,
    )  # fmt: skip
    if reduction != "none" and _cce_made_ahead(hidden, weight):
        graph = torch.is_grad_enabled()
        wanted = (one is not None and graph and one.requires_grad for one in (hidden, weight, bias))
        divisor = -1.0 if reduction == "mean" else 1.0
        loss: Tensor = _cce_sum(*inputs, divisor if tokens is None else float(tokens), *wanted)[0]
        return loss
    losses: Tensor = _cce(*inputs)[0]
    if reduction == "none":
        return losses.reshape(labels.shape)
    total = losses.sum()
    if tokens is None and reduction == "mean":
        return total / (flat != ignore_index).sum()
    return total / (1 if tokens is None else tokens)


def _cce_made_ahead(hidden: Tensor, weight: Tensor) -> bool:
    """Whether gradients are made in forward, which saves the logits' second product.

    On a CPU, where 16 MiB hold all logits of 64 rows, without rounding in between: fewer rows at
    once have more to read and to write of the weight's gradient than a product takes.
    """
    return hidden.is_cpu and hidden.dtype.itemsize >= 4 and weight.shape[0] <= 2**16


def _cce_shapes(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
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


def cut_cross_entropy_reference(
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


@torch.library.custom_op("memwb::cut_cross_entropy", mutates_args=(), device_types="cpu")
def _cce(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int,
    label_smoothing: float, softcap: float, logit_scale: float, z_loss: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss of each row; and [2, rows]: the maximum of its logits, and the sum of exponentials
    relative to it. All are 0 where it is ignored.

    Together these are the log-sum-exp. As one number, a large one would round small losses away.
    """
    rows, kept = _cce_rows(labels, ignore_index)
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    losses = torch.zeros(hidden.shape[0], dtype=wide, device=hidden.device)
    norms = losses.new_zeros(2, hidden.shape[0])
    # 1024 x 1024 logits at most: 4 MiB, and half as much again in half precision.
    width, height = min(1024, weight.shape[0]), max(1, min(1024, kept))
    product = hidden.new_empty(height * width)
    for start in range(0, kept, height):
        x, y = _cce_part(hidden, labels, rows, start, min(start + height, kept))
        y = y.unsqueeze(1)
        top = torch.full(y.shape, -math.inf, dtype=wide, device=x.device)
        total, mean = torch.zeros_like(top), torch.zeros_like(top)
        target = torch.full_like(top, math.nan)
        for first in range(0, weight.shape[0], width):
            z = _cce_logits(x, weight, bias, first, width, product)
            _cce_bend(z, softcap, logit_scale, False)
            inside, place = _cce_met(y, first, z.shape[1])
            target = torch.where(inside, z.gather(1, place), target)
            if label_smoothing:
                mean += z.sum(1, keepdim=True)
            higher = torch.maximum(top, z.amax(1, keepdim=True))
            # A slice that a bias masks whole has no maximum to subtract.
            base = higher.clamp(min=torch.finfo(wide).min)
            total.mul_((top - base).exp_()).add_(z.sub_(base).exp_().sum(1, keepdim=True))
            top = higher
        even = mean / weight.shape[0] if label_smoothing else None
        loss = _cce_losses(top, total, target, even, label_smoothing, z_loss)
        for whole, part in ((losses, loss), (norms[0], top), (norms[1], total)):
            _cce_put(whole, rows, start, part.squeeze(1))
    return losses, norms


def _cce_losses(
    top: Tensor, total: Tensor, target: Tensor, mean: Tensor | None, label_smoothing: float,
    z_loss: float,
) -> Tensor:  # fmt: skip
    """Losses of rows, of which ``top`` and ``total`` make the log-sum-exp."""
    rest = total.log()
    losses = rest + (1 - label_smoothing) * (top - target) + z_loss * (top + rest).square()
    return losses if mean is None else losses.add_(label_smoothing * (top - mean))


def _cce_rows(labels: Tensor, ignore_index: int) -> tuple[Tensor | None, int]:
    """The rows that count, None if all do, and their number: the one value that the host reads.

    The host waits for the GPU here, for the number of programs to start. On meta all rows count.
    """
    if labels.is_meta:
        return None, labels.shape[0]
    rows = (labels != ignore_index).nonzero().squeeze(1)
    kept = rows.shape[0]
    return (None if kept == labels.shape[0] else rows), kept


def _cce_part(
    hidden: Tensor, labels: Tensor, rows: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Hidden states and labels of some of the rows that count."""
    if rows is None:
        return hidden[start:stop], labels[start:stop]
    index = rows[start:stop]
    return hidden.index_select(0, index), labels.index_select(0, index)


def _cce_put(whole: Tensor, rows: Tensor | None, start: int, part: Tensor) -> None:
    """Write some rows where they belong."""
    stop = start + part.shape[0]
    if rows is None:
        whole[start:stop].copy_(part)
    else:
        whole.index_copy_(0, rows[start:stop], part)


def _cce_logits(
    x: Tensor, weight: Tensor, bias: Tensor | None, first: int, width: int, memory: Tensor
) -> Tensor:
    """Products and bias of a slice of the vocabulary, in fp32 or fp64, that may be overwritten."""
    columns = weight[first : first + width]
    z = memory[: x.shape[0] * columns.shape[0]].view(x.shape[0], columns.shape[0])
    torch.mm(x, columns.t(), out=z)
    z = z if z.dtype in (torch.float32, torch.float64) else z.float()
    return z if bias is None else z.add_(bias[first : first + width])


def _cce_bend(z: Tensor, softcap: float, logit_scale: float, backward: bool) -> Tensor | None:
    """Scale and cap logits in place; what their gradient is to be multiplied by, if not by 1."""
    if logit_scale != 1:
        z.mul_(logit_scale)
    if not softcap:
        return None
    z.div_(softcap).tanh_()
    slope = torch.addcmul(z.new_ones(()), z, z, value=-1) if backward else None
    z.mul_(softcap)
    return slope


def _cce_met(labels: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Whether each label is in a slice of the vocabulary, and its place there, else some other."""
    inside = (labels >= first) & (labels < first + width)
    return inside, (labels - first).clamp_(0, width - 1)


def _cce_slope(
    z: Tensor, met: tuple[Tensor, Tensor], own: Tensor, bent: Tensor | None, logit_scale: float
) -> Tensor:
    """The gradient of products from that of logits, in place, once labels have added their own."""
    inside, place = met
    z.scatter_add_(1, place, own.masked_fill(~inside, 0))
    z = z if bent is None else z.mul_(bent)
    return z if logit_scale == 1 else z.mul_(logit_scale)


@torch.library.custom_op("memwb::cut_cross_entropy_backward", mutates_args=(), device_types="cpu")
def _cce_backward(
    upstream: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    norms: Tensor, ignore_index: int, label_smoothing: float, softcap: float, logit_scale: float,
    z_loss: float, hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of hidden states, weight and bias; of no elements if not wanted."""
    rows, x, y, factor, norms = _cce_counted(upstream, hidden, labels, norms, ignore_index)
    counted, factor = y.unsqueeze(1), factor.unsqueeze(1)
    top, whole = norms.unsqueeze(2)
    along = factor * (1 + 2 * z_loss * (top + whole.log())) / whole
    d_hidden, d_weight, d_bias = _cce_results(
        hidden, weight, bias, norms.dtype, False, weight_grad, bias_grad
    )
    total = torch.zeros(x.shape if hidden_grad else 0, dtype=norms.dtype, device=x.device)
    # 4 Mi values at most: 16 MiB, and half as much again in half precision.
    width = max(1, min(weight.shape[0], 2**22 // max(1, len(x))))
    product = x.new_empty(len(x) * width)
    part = torch.empty_like(x) if hidden_grad and x.dtype != total.dtype else None
    for first in range(0, weight.shape[0], width):
        z = _cce_logits(x, weight, bias, first, width, product)
        bent = _cce_bend(z, softcap, logit_scale, True)
        z.sub_(top).exp_().mul_(along)
        if label_smoothing:
            z.sub_(factor * (label_smoothing / weight.shape[0]))
        met = _cce_met(counted, first, z.shape[1])
        z = _cce_slope(z, met, factor * (label_smoothing - 1), bent, logit_scale)
        if d_bias.numel():
            torch.sum(z, 0, out=d_bias[first : first + width])
        if z.dtype != x.dtype:
            z = product[: z.numel()].view(z.shape).copy_(z)
        if weight_grad:
            torch.mm(z.t(), x, out=d_weight[first : first + width])
        if part is not None:
            total.add_(torch.mm(z, weight[first : first + width], out=part))
        elif hidden_grad:
            total.addmm_(z, weight[first : first + width])
    if hidden_grad:
        d_hidden = _cce_spread(hidden, total, rows)
    return d_hidden, d_weight, d_bias.to((hidden if bias is None else bias).dtype)


@torch.library.custom_op("memwb::cut_cross_entropy_sum", mutates_args=(), device_types="cpu")
def _cce_sum(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int,
    label_smoothing: float, softcap: float, logit_scale: float, z_loss: float, divisor: float,
    hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The losses' sum and its gradients, of no elements if not wanted; on a CPU alone.

    ``divisor`` divides it; -1 stands for the number of rows that count.
    """
    rows, kept = _cce_rows(labels, ignore_index)
    divisor = float(kept) if divisor < 0 else divisor
    share = 1 / divisor if divisor else math.inf
    loss = hidden.new_zeros(())
    d_hidden, d_weight, d_bias = _cce_results(
        hidden, weight, bias, hidden.dtype, hidden_grad, weight_grad, bias_grad
    )
    # The first chunk writes the weight's, if there is one.
    for one in (d_hidden, d_bias) if kept else (d_hidden, d_weight, d_bias):
        one.zero_()
    backward = hidden_grad or weight_grad or bias_grad
    vocabulary = weight.shape[0]
    # 4 Mi values at most: 16 MiB in fp32.
    height = max(1, min(kept, 2**22 // vocabulary))
    product = hidden.new_empty(height * vocabulary)
    for start in range(0, kept, height):
        x, y = _cce_part(hidden, labels, rows, start, min(start + height, kept))
        y = y.unsqueeze(1)
        z = _cce_logits(x, weight, bias, 0, vocabulary, product)
        bent = _cce_bend(z, softcap, logit_scale, backward)
        met = _cce_met(y, 0, vocabulary)
        target = torch.where(met[0], z.gather(1, met[1]), math.nan)
        mean = z.mean(1, keepdim=True) if label_smoothing else None
        top = z.amax(1, keepdim=True)
        total = z.sub_(top).exp_().sum(1, keepdim=True)
        loss += _cce_losses(top, total, target, mean, label_smoothing, z_loss).sum()
        if not backward:
            continue
        z.mul_(share * (1 + 2 * z_loss * (top + total.log())) / total)
        if label_smoothing:
            z.sub_(share * label_smoothing / vocabulary)
        own = torch.full_like(top, share * (label_smoothing - 1))
        z = _cce_slope(z, met, own, bent, logit_scale)
        if d_bias.numel():
            d_bias += z.sum(0)
        if weight_grad and start == 0:
            torch.mm(z.t(), x, out=d_weight)
        elif weight_grad:
            d_weight.addmm_(z.t(), x)
        # A product that is told where to write is let alone by autocast.
        if hidden_grad and rows is None:
            torch.mm(z, weight, out=d_hidden[start : start + len(x)])
        elif hidden_grad:
            _cce_put(d_hidden, rows, start, torch.mm(z, weight, out=torch.empty_like(x)))
    d_bias = d_bias.to((hidden if bias is None else bias).dtype)
    return loss / divisor, d_hidden, d_weight, d_bias


@_cce_sum.register_fake
def _cce_sum_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int,
    label_smoothing: float, softcap: float, logit_scale: float, z_loss: float, divisor: float,
    hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What comes out, by shape alone."""
    kind = (hidden if bias is None else bias).dtype
    wanted = hidden_grad, weight_grad, bias_grad
    return hidden.new_empty(()), *_cce_results(hidden, weight, bias, kind, *wanted)


def _cce_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep the gradients that were made."""
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.made, ctx.wanted, ctx.rest = output[1:], inputs[-3:], (None,) * (len(inputs) - 3)


def _cce_sum_derivative(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """The gradients, times the upstream gradient; given away, not copied, if not kept for more."""
    if upstream is None:
        return (None, None, None, *ctx.rest)
    if torch.is_grad_enabled():
        raise RuntimeError("cut_cross_entropy has no second derivative")
    if ctx.made is None:
        raise RuntimeError(
            "cut_cross_entropy gave its gradients to the first backward pass: "
            "call that with retain_graph=True if there is to be another"
        )
    made = ctx.made
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    # A compiler's tensors are not of the plain type: it traces values, and has memory of its own.
    if (asked is not None and asked()) or type(upstream) is not Tensor:
        made = [one * upstream for one in made]
    else:
        # Whoever takes a gradient makes it his own only if nobody else holds it.
        ctx.made = None
        for one in made:
            one.mul_(upstream)
    found = [one if wanted else None for one, wanted in zip(made, ctx.wanted, strict=True)]
    return (*found, *ctx.rest)


_cce_sum.register_autograd(_cce_sum_derivative, setup_context=_cce_sum_setup)


def _cce_counted(
    upstream: Tensor, hidden: Tensor, labels: Tensor, norms: Tensor, ignore_index: int
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """The rows that go into the products: which, hidden states, labels, upstream gradient, norms.

    Rows that count are copied out only if they are few: the copy is of the size of the gradient,
    and with one ignored label in each sequence, as usual, it would not be worth a quarter more.
    """
    rows, kept = _cce_rows(labels, ignore_index)
    if rows is None:
        return None, hidden, labels, upstream.contiguous(), norms
    if 4 * kept <= 3 * len(labels):
        found = [one.index_select(0, rows) for one in (hidden, labels, upstream)]
        return rows, found[0], found[1], found[2], norms.index_select(1, rows)
    ignored = labels == ignore_index
    # exp(z - 1e30) is nothing, whatever the logits.
    return None, hidden, labels, upstream.masked_fill(ignored, 0), norms.masked_fill(ignored, 1e30)


def _cce_results(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, wide: torch.dtype,
    hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Memory for the gradients, of no elements where not wanted; ``wide`` is of the bias's."""
    wanted = bias is not None and bias_grad
    return (
        hidden.new_empty(hidden.shape if hidden_grad else 0),
        torch.empty_like(weight) if weight_grad else weight.new_empty(0),
        weight.new_empty(weight.shape[:1] if wanted else 0, dtype=wide),
    )


def _cce_spread(hidden: Tensor, total: Tensor, rows: Tensor | None) -> Tensor:
    """The gradient of the hidden states from that of the rows that were counted."""
    if rows is None:
        return total if total.dtype == hidden.dtype else total.to(hidden.dtype)
    return hidden.new_zeros(hidden.shape).index_copy_(0, rows, total.to(hidden.dtype))


@_cce.register_kernel("cuda")
def _cce_cuda(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int,
    label_smoothing: float, softcap: float, logit_scale: float, z_loss: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same on a GPU: each program goes through a share of the vocabulary for a block of rows.

    It keeps the running log-sum-exp of each row in registers; the shares are put together after.
    """
    if hidden.dtype == torch.float64:
        raise TypeError("cut_cross_entropy computes in fp32 on a GPU, and this is fp64")
    rows, kept = _cce_rows(labels, ignore_index)
    losses = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    norms = losses.new_zeros(2, hidden.shape[0])
    if not kept:
        return losses, norms
    vocabulary = weight.shape[0]
    form = _cce_form(hidden, softcap)
    # As many shares as give each row block's tiles to about 64 programs: partial results of 128
    # numbers a row, and thousands of programs with a thousand rows already.
    tiles = math.ceil(vocabulary / form["BLOCK_V"])
    each = math.ceil(tiles / 64)
    shares, blocks = math.ceil(tiles / each), math.ceil(kept / form["BLOCK_N"])
    seen = torch.empty(2, shares, kept, dtype=torch.float32, device=hidden.device)
    sums = torch.empty(
        shares if label_smoothing else 0, kept, dtype=torch.float32, device=hidden.device
    )
    target = torch.full((kept,), math.nan, dtype=torch.float32, device=hidden.device)
    with _cce_device(weight):
        _cce_lse_kernel[(blocks * shares,)](
            hidden, weight, bias, rows, labels, seen, sums, target, kept, vocabulary,
            hidden.shape[1], hidden.stride(0), hidden.stride(1), weight.stride(0),
            weight.stride(1), softcap, logit_scale, blocks, shares, each,
            HAS_BIAS=bias is not None, HAS_ROWS=rows is not None, HAS_CAP=softcap != 0,
            HAS_SMOOTHING=label_smoothing != 0, **form,
        )  # fmt: skip
    top = seen[0].amax(0)
    total = seen[0].sub_(top).exp_().mul_(seen[1]).sum(0)
    mean = sums.sum(0) / vocabulary if label_smoothing else None
    loss = _cce_losses(top, total, target, mean, label_smoothing, z_loss)
    for whole, part in ((losses, loss), (norms[0], top), (norms[1], total)):
        _cce_put(whole, rows, 0, part)
    return losses, norms


def _cce_form(hidden: Tensor, softcap: float) -> dict[str, Any]:
    """Sizes of a tile, warps and stages of its pipeline, by dtype, width and compute capability.

    Half precision: the largest tile whose sums stay in registers, 64 of each thread and on Hopper,
    whose products read from shared memory, 128; as many stages as the shared memory of a block
    holds: 3 x 32 KiB of 99 on 8.9, 4 x 48 of 227 on 9.0. The cap takes registers of its own. Rows
    that do not come in whole pieces are loaded through registers, and fp32 that may not be rounded
    to tf32 is multiplied there: small tiles.
    """
    half = hidden.dtype != torch.float32
    tf32 = not half and torch.backends.cuda.matmul.allow_tf32
    hopper = torch.cuda.get_device_capability(hidden.device)[0] == 9
    large = half and hidden.shape[1] % 64 == 0
    sizes = (128, 128, 64) if large else (64, 64, 32)
    sizes = (128, 256, 64) if large and hopper and not softcap else sizes
    names = dict(zip(("BLOCK_N", "BLOCK_V", "BLOCK_K"), sizes, strict=True))
    return {
        **names, "WHOLE": hidden.shape[1] % sizes[2] == 0, "PRECISION": "tf32" if tf32 else "ieee",
        "num_warps": 8, "num_stages": 4 if large and hopper else 3,
    }  # fmt: skip


def _cce_device(x: Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if x.is_meta else x.get_device())


@triton.jit  # type: ignore[untyped-decorator]
def _cce_tile(  # type: ignore[no-untyped-def]
    hidden, weight, bias, lines, columns, vocabulary, width, hidden_n, hidden_k, weight_v,
    weight_k, softcap, logit_scale, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The logits [BLOCK_N, BLOCK_V] of some rows and words, in fp32.

    Rows and words past the end are read as the last ones: a mask would slow down every load.
    """
    words = tl.minimum(columns, vocabulary - 1).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    x_at = hidden + lines[:, None] * hidden_n + k[None, :] * hidden_k
    w_at = weight + words[None, :] * weight_v + k[:, None] * weight_k
    z = tl.zeros((BLOCK_N, BLOCK_V), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        if WHOLE:
            x = tl.load(x_at)
            w = tl.load(w_at)
        else:
            x = tl.load(x_at, mask=k[None, :] < width - start, other=0.0)
            w = tl.load(w_at, mask=k[:, None] < width - start, other=0.0)
        z = tl.dot(x, w, z, input_precision=PRECISION)
        x_at += BLOCK_K * hidden_k
        w_at += BLOCK_K * weight_k
    if HAS_BIAS:
        z += tl.load(bias + words).to(tl.float32)[None, :]
    z *= logit_scale
    if HAS_CAP:
        # tanh by exp, which ends in 1 and -1 where that overflows.
        z = softcap * (1 - 2 / (tl.exp(2 * z / softcap) + 1))
    return z


@triton.jit
def _cce_place(program, blocks, shares):  # type: ignore[no-untyped-def]
    """The block of rows and the share of words of a program.

    Programs that run at once share 16 blocks of rows, so that these stay in the cache.
    """
    group = program // (16 * shares)
    size = tl.minimum(blocks - group * 16, 16)
    within = program % (16 * shares)
    return group * 16 + within % size, within // size


@triton.jit  # type: ignore[untyped-decorator]
def _cce_lse_kernel(  # type: ignore[no-untyped-def]
    hidden, weight, bias, rows, labels, seen, sums, target, kept, vocabulary, width, hidden_n,
    hidden_k, weight_v, weight_k, softcap, logit_scale, blocks, shares, each,
    HAS_BIAS: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_CAP: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of ``each`` tiles and a block of rows the maxima, the sums of exponentials relative to them,
    and the target logits that are met there."""
    block, share = _cce_place(tl.program_id(0), blocks, shares)
    line = block * BLOCK_N + tl.arange(0, BLOCK_N)
    within = line < kept
    lines = tl.minimum(line, kept - 1).to(tl.int64)
    at = lines
    if HAS_ROWS:
        lines = tl.load(rows + lines)
    label = tl.load(labels + lines)
    top = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    added = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for tile in range(share * each, share * each + each):
        columns = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        z = _cce_tile(
            hidden, weight, bias, lines, columns, vocabulary, width, hidden_n, hidden_k, weight_v,
            weight_k, softcap, logit_scale, HAS_BIAS, HAS_CAP, BLOCK_N, BLOCK_V, BLOCK_K, WHOLE,
            PRECISION,
        )  # fmt: skip
        inside = columns < vocabulary
        chosen = (columns[None, :] == label[:, None]) & inside[None, :]
        met = (label >= tile * BLOCK_V) & (label < tile * BLOCK_V + BLOCK_V) & (label < vocabulary)
        tl.store(target + at, tl.sum(tl.where(chosen, z, 0.0), 1), mask=within & met)
        if HAS_SMOOTHING:
            added += tl.sum(tl.where(inside[None, :], z, 0.0), 1)
        z = tl.where(inside[None, :], z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, 1))
        # Where all is masked there is no maximum to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(z - base[:, None]), 1)
        top = higher
    tl.store(seen + share * kept + at, top, mask=within)
    tl.store(seen + (shares + share) * kept + at, total, mask=within)
    if HAS_SMOOTHING:
        tl.store(sums + share * kept + at, added, mask=within)


@_cce_backward.register_kernel("cuda")
def _cce_backward_cuda(
    upstream: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    norms: Tensor, ignore_index: int, label_smoothing: float, softcap: float, logit_scale: float,
    z_loss: float, hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The same on a GPU: a kernel makes the gradient of a slice's logits, torch multiplies it.

    In half precision the gradient of the hidden states is added up in fp32, in the end of the
    weight's gradient as long as that is not written: memory that is there in any case. The words
    that belong there are gone through twice.
    """
    rows, x, y, factor, norms = _cce_counted(upstream, hidden, labels, norms, ignore_index)
    d_hidden, d_weight, d_bias = _cce_results(
        hidden, weight, bias, torch.float32, False, weight_grad, bias_grad
    )
    vocabulary, half = weight.shape[0], x.dtype != torch.float32
    total, borrowed = _cce_borrowed(d_weight, x) if half and hidden_grad else (None, 0)
    if total is not None:
        total.zero_()
    elif hidden_grad:
        total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    width = _cce_width(x, vocabulary)
    d_logits = x.new_empty(len(x), width)
    form = _cce_form(x, softcap)
    passes = [(0, vocabulary - borrowed, weight_grad, hidden_grad)]
    if borrowed:
        passes += [(vocabulary - borrowed, vocabulary, False, True)]
        passes += [(vocabulary - borrowed, vocabulary, True, False)]
    for begin, end, of_weight, of_hidden in passes:
        if total is not None and not of_hidden:
            # Done, and out of the way of what is written now.
            d_hidden, total = _cce_spread(hidden, total, rows), None
        for first in range(begin, end, width):
            stop = min(first + width, end)
            z = d_logits[:, : stop - first]
            columns = weight[first:stop]
            blocks = triton.cdiv(len(x), form["BLOCK_N"])
            tiles = triton.cdiv(stop - first, form["BLOCK_V"])
            with _cce_device(weight):
                _cce_slope_kernel[(blocks * tiles,)](
                    x, weight, bias, y, norms, factor, z, len(x), vocabulary, first, stop,
                    x.shape[1], x.stride(0), x.stride(1), weight.stride(0), weight.stride(1), width,
                    softcap, logit_scale, label_smoothing, z_loss, blocks, tiles,
                    HAS_BIAS=bias is not None, HAS_CAP=softcap != 0, **form,
                )  # fmt: skip
            if d_bias.numel() and (of_weight or not borrowed):
                d_bias[first:stop] = z.sum(0, dtype=torch.float32)
            if of_weight:
                torch.mm(z.t(), x, out=d_weight[first:stop])
            if of_hidden and total is not None:
                _cce_add(total, z, columns)
    if total is not None:
        d_hidden = _cce_spread(hidden, total, rows)
    return d_hidden, d_weight, d_bias.to((hidden if bias is None else bias).dtype)


def _cce_borrowed(d_weight: Tensor, x: Tensor) -> tuple[Tensor | None, int]:
    """fp32 memory like ``x`` in the last words of the weight's gradient, and how many these are.

    None where nothing is to be added up, where that is not there or not aligned, or where half the
    words would be gone through twice, which is an eighth more work.
    """
    count, width = x.shape
    borrowed = 2 * count
    if not count or not d_weight.is_contiguous() or width % 8:
        return None, 0
    if 2 * borrowed > d_weight.shape[0]:
        return None, 0
    return d_weight[-borrowed:].view(-1).view(torch.float32).view(count, width), borrowed


def _cce_width(x: Tensor, vocabulary: int) -> int:
    """Words of a slice: 16 MiB of gradients of logits, and 256 words at least.

    At 8192 tokens in half precision 1024 words: reading and writing the fp32 sum of the hidden
    states' gradient still takes less time than the product that is added to it.
    """
    words = 2**24 // (max(1, x.shape[0]) * x.element_size()) // 256 * 256
    return min(max(256, words), math.ceil(vocabulary / 16) * 16)


def _cce_add(total: Tensor, z: Tensor, columns: Tensor) -> None:
    """Add the product of two matrices to an fp32 one."""
    if z.dtype == torch.float32:
        total.addmm_(z, columns)
    elif total.is_meta:
        # What torch 2.11 has for meta takes no out_dtype, which changes nothing there.
        torch.addmm(total, z, columns, out=total)
    else:
        torch.addmm(total, z, columns, out_dtype=torch.float32, out=total)


@triton.jit  # type: ignore[untyped-decorator]
def _cce_slope_kernel(  # type: ignore[no-untyped-def]
    hidden, weight, bias, labels, norms, factor, out, kept, vocabulary, first, stop, width,
    hidden_n, hidden_k, weight_v, weight_k, pitch, softcap, logit_scale, label_smoothing, z_loss,
    blocks, tiles, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the logits of one tile, from logits that are computed here."""
    block, tile = _cce_place(tl.program_id(0), blocks, tiles)
    line = block * BLOCK_N + tl.arange(0, BLOCK_N)
    lines = tl.minimum(line, kept - 1).to(tl.int64)
    columns = first + tile * BLOCK_V + tl.arange(0, BLOCK_V)
    z = _cce_tile(
        hidden, weight, bias, lines, columns, vocabulary, width, hidden_n, hidden_k, weight_v,
        weight_k, softcap, logit_scale, HAS_BIAS, HAS_CAP, BLOCK_N, BLOCK_V, BLOCK_K, WHOLE,
        PRECISION,
    )  # fmt: skip
    label = tl.load(labels + lines)
    top = tl.load(norms + lines)
    total = tl.load(norms + kept + lines)
    scale = tl.load(factor + lines) * logit_scale
    slope = tl.exp(z - top[:, None]) * ((1 + 2 * z_loss * (top + tl.log(total))) / total)[:, None]
    slope -= label_smoothing / vocabulary
    slope = tl.where(columns[None, :] == label[:, None], slope - (1 - label_smoothing), slope)
    if HAS_CAP:
        z /= softcap
        slope *= 1 - z * z
    slope *= scale[:, None]
    at = out + lines[:, None] * pitch + (columns - first)[None, :]
    inside = (line < kept)[:, None] & (columns < stop)[None, :]
    tl.store(at, slope.to(out.dtype.element_ty), mask=inside)


@_cce.register_fake
def _cce_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int,
    label_smoothing: float, softcap: float, logit_scale: float, z_loss: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What comes out, by shape alone."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    rows = labels.shape[0]
    return hidden.new_empty(rows, dtype=wide), hidden.new_empty(2, rows, dtype=wide)


@_cce_backward.register_fake
def _cce_backward_fake(
    upstream: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
    norms: Tensor, ignore_index: int, label_smoothing: float, softcap: float, logit_scale: float,
    z_loss: float, hidden_grad: bool, weight_grad: bool, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What comes out, by shape alone."""
    kind = (hidden if bias is None else bias).dtype
    return _cce_results(hidden, weight, bias, kind, hidden_grad, weight_grad, bias_grad)


def _cce_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep the inputs and what makes the log-sum-exp."""
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.options = inputs[4:]


def _cce_derivative(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """The gradients, made anew in each backward pass."""
    rest = (None,) * (len(ctx.options) + 1)
    if upstream is None:
        return (None, None, None, *rest)
    if torch.is_grad_enabled():
        raise RuntimeError("cut_cross_entropy has no second derivative")
    needed = ctx.needs_input_grad[:3]
    made = _cce_backward(upstream, *ctx.saved_tensors, *ctx.options, *needed)
    found = [one if need else None for one, need in zip(made, needed, strict=True)]
    return (*found, *rest)


_cce.register_autograd(_cce_derivative, setup_context=_cce_setup)
