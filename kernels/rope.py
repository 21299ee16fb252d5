"""Rotary positions of queries and keys in one launch; backward is the rotation the other way.

Values are rotated in pairs: half a rotated width apart (GPT-NeoX, Llama and most others), or side
by side (``interleaved``: GPT-J). Where cos and sin are narrower than a head, the rest of each head
passes through. Nothing is kept for backward but cos and sin, which all layers share.

Products and sums are rounded where operators of their own would round them, and nothing is
contracted: the results are those of plain torch bit by bit, in forward and in backward.

It writes to new tensors. Rotating in place would need proof that nobody else reads the projections;
with norms of queries and keys, adapters or hooks on them there is none, and what it would save is
gone again when the layer's attention begins.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

ROPE_CHUNK = 2**18
"""Values that the CPU takes at once: what it holds beside inputs and results are some MiB."""


def rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``q`` and ``k`` (batch, heads, tokens, width) rotated by cos and sin (batch or 1, tokens, n).

    ``cos`` and ``sin`` have a value for each rotated place: those of a pair are given twice.
    """
    if cos.shape != sin.shape or cos.shape[-1] % 2 or cos.shape[-1] > q.shape[-1]:
        raise ValueError(f"heads of {q.shape[-1]} values, cos {cos.shape}, sin {sin.shape}")
    alike = q.shape[0] == k.shape[0] and q.shape[2:] == k.shape[2:]
    if not alike or cos.shape[1] != q.shape[2] or cos.shape[0] not in (1, q.shape[0]):
        raise ValueError(f"queries {tuple(q.shape)}, keys {tuple(k.shape)}, cos {cos.shape}")
    q, k, cos, sin = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, cos, sin))
    rotated_q, rotated_k = _rope(q, k, cos, sin, interleaved)
    return rotated_q, rotated_k


def rope_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch, operator by operator as the families have it."""
    width = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        turned, rest = x[..., :width], x[..., width:]
        if interleaved:
            crossed = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
        else:
            crossed = torch.cat((-turned[..., width // 2 :], turned[..., : width // 2]), -1)
        return torch.cat((turned * cos + crossed * sin, rest), -1)

    return rotated(q), rotated(k)


@torch.library.custom_op("memwb::rope", mutates_args=(), device_types="cpu")
def _rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys, rotated."""
    outputs = _rope_output(q, cos.dtype), _rope_output(k, cos.dtype)
    for x, out in zip((q, k), outputs, strict=True):
        for part in _rope_parts(x):
            o1, o2 = _rope_pairs(out[:, :, part], cos, interleaved)
            x1, x2 = _rope_pairs(x[:, :, part], cos, interleaved)
            c1, c2 = _rope_pairs(cos[:, None, part], cos, interleaved)
            s1, s2 = _rope_pairs(sin[:, None, part], cos, interleaved)
            torch.mul(x1, c1, out=o1).sub_(x2 * s1)
            torch.mul(x2, c2, out=o2).add_(x1 * s2)
            out[:, :, part, cos.shape[-1] :] = x[:, :, part, cos.shape[-1] :]
    return outputs


@torch.library.custom_op("memwb::rope_backward", mutates_args=(), device_types="cpu")
def _rope_backward(
    grad_q: torch.Tensor,
    grad_k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    q_dtype: torch.dtype,
    k_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients rotated the other way, in the precision of what was rotated."""
    outputs = _rope_gradient(grad_q, q_dtype), _rope_gradient(grad_k, k_dtype)
    for x, out in zip((grad_q, grad_k), outputs, strict=True):
        for part in _rope_parts(x):
            o1, o2 = _rope_pairs(out[:, :, part], cos, interleaved)
            x1, x2 = _rope_pairs(x[:, :, part], cos, interleaved)
            c1, c2 = _rope_pairs(cos[:, None, part], cos, interleaved)
            s1, s2 = _rope_pairs(sin[:, None, part], cos, interleaved)
            o1.copy_(x1 * c1).add_((x2 * s2).to(out.dtype))
            o2.copy_(x2 * c2).sub_((x1 * s1).to(out.dtype))
            out[:, :, part, cos.shape[-1] :] = x[:, :, part, cos.shape[-1] :]
    return outputs


def _rope_output(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _rope_gradient(x, torch.promote_types(x.dtype, dtype))


def _rope_gradient(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Token by token, the heads of each side by side: as a projection makes and wants them."""
    return x.transpose(1, 2).new_empty(x.transpose(1, 2).shape, dtype=dtype).transpose(1, 2)


def _rope_parts(x: torch.Tensor) -> list[slice]:
    """Spans of tokens that are about a chunk each."""
    tokens = x.shape[2]
    step = max(1, ROPE_CHUNK * tokens // max(1, x.numel()))
    return [slice(at, at + step) for at in range(0, tokens, step)]


def _rope_pairs(
    x: torch.Tensor, cos: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second of each pair, as views."""
    width = cos.shape[-1]
    if interleaved:
        return x[..., 0:width:2], x[..., 1:width:2]
    return x[..., : width // 2], x[..., width // 2 : width]


@_rope.register_fake
def _rope_fake(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _rope_output(q, cos.dtype), _rope_output(k, cos.dtype)


@_rope_backward.register_fake
def _rope_backward_fake(
    grad_q: torch.Tensor,
    grad_k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    q_dtype: torch.dtype,
    k_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _rope_gradient(grad_q, q_dtype), _rope_gradient(grad_k, k_dtype)


def _rope_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, cos, sin, ctx.interleaved = inputs
    ctx.dtypes = q.dtype, k.dtype
    ctx.save_for_backward(cos, sin)


def _rope_gradients(ctx: Any, grad_q: torch.Tensor, grad_k: torch.Tensor) -> tuple[Any, ...]:
    cos, sin = ctx.saved_tensors
    d_q, d_k = _rope_backward(grad_q, grad_k, cos, sin, ctx.interleaved, *ctx.dtypes)
    return d_q, d_k, None, None, None


_rope.register_autograd(_rope_gradients, setup_context=_rope_setup)


def _rope_device(q: torch.Tensor) -> Any:
    """Where this lasts, kernels are launched on the tensor's GPU, not on whichever is current."""
    return torch.cuda.device(-1 if q.is_meta else q.get_device())


@triton.jit  # type: ignore[untyped-decorator]
def _rope_kernel(  # type: ignore[no-untyped-def]
    q, k, cos, sin, out_q, out_k, tokens, q_heads, k_heads, head_width, q0, q1, q2, k0, k1, k2,
    oq0, oq1, oq2, ok0, ok1, ok2, c0, c1, s0, s1, WIDTH: tl.constexpr, INTERLEAVED: tl.constexpr,
    BACKWARD: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: blocks of query heads, then blocks of key heads."""
    batch = (tl.program_id(0) // tokens).to(tl.int64)
    token = (tl.program_id(0) % tokens).to(tl.int64)
    block = tl.program_id(1)
    blocks = tl.cdiv(q_heads, HEADS)
    cos += batch * c0 + token * c1
    sin += batch * s0 + token * s1
    if block < blocks:
        x = q + batch * q0 + token * q2
        out = out_q + batch * oq0 + token * oq2
        head = block * HEADS
        _rope_heads(x, out, cos, sin, head, q_heads, head_width, q1, oq1,
                    WIDTH, INTERLEAVED, BACKWARD, HEADS, HALF, REST)  # fmt: skip
    else:
        x = k + batch * k0 + token * k2
        out = out_k + batch * ok0 + token * ok2
        head = (block - blocks) * HEADS
        _rope_heads(x, out, cos, sin, head, k_heads, head_width, k1, ok1,
                    WIDTH, INTERLEAVED, BACKWARD, HEADS, HALF, REST)  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _rope_heads(  # type: ignore[no-untyped-def]
    x, out, cos, sin, first_head, heads, head_width, x_stride, out_stride, WIDTH: tl.constexpr,
    INTERLEAVED: tl.constexpr, BACKWARD: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
    REST: tl.constexpr,
):  # fmt: skip
    """A block of heads, each by the same angles."""
    head = (first_head + tl.arange(0, HEADS))[:, None]
    x += head.to(tl.int64) * x_stride
    out += head.to(tl.int64) * out_stride
    pair = tl.arange(0, HALF)[None, :]
    angle_there = pair < WIDTH // 2
    there = (head < heads) & angle_there
    if INTERLEAVED:
        first = 2 * pair
        second = 2 * pair + 1
    else:
        first = pair
        second = pair + WIDTH // 2
    cos1 = tl.load(cos + first, mask=angle_there, other=0.0).to(tl.float32)
    cos2 = tl.load(cos + second, mask=angle_there, other=0.0).to(tl.float32)
    sin1 = tl.load(sin + first, mask=angle_there, other=0.0).to(tl.float32)
    sin2 = tl.load(sin + second, mask=angle_there, other=0.0).to(tl.float32)
    raw = tl.load(x + first, mask=there, other=0.0)
    x1 = raw.to(tl.float32)
    x2 = tl.load(x + second, mask=there, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    if BACKWARD:
        # A product has the gradient's precision before it has that of what was rotated.
        a1 = (x1 * cos1).to(raw.dtype).to(kind).to(tl.float32)
        b1 = (x2 * sin2).to(raw.dtype).to(kind).to(tl.float32)
        a2 = (x2 * cos2).to(raw.dtype).to(kind).to(tl.float32)
        b2 = (x1 * sin1).to(raw.dtype).to(kind).to(tl.float32)
        tl.store(out + first, (a1 + b1).to(kind), mask=there)
        tl.store(out + second, (a2 - b2).to(kind), mask=there)
    else:
        a1 = (x1 * cos1).to(kind).to(tl.float32)
        b1 = (x2 * sin1).to(kind).to(tl.float32)
        a2 = (x2 * cos2).to(kind).to(tl.float32)
        b2 = (x1 * sin2).to(kind).to(tl.float32)
        tl.store(out + first, (a1 - b1).to(kind), mask=there)
        tl.store(out + second, (a2 + b2).to(kind), mask=there)
    if REST > 0:
        place = WIDTH + tl.arange(0, REST)[None, :]
        there = (head < heads) & (place < head_width)
        tl.store(out + place, tl.load(x + place, mask=there, other=0.0).to(kind), mask=there)


@_rope.register_kernel("cuda")
def _rope_cuda(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = _rope_output(q, cos.dtype), _rope_output(k, cos.dtype)
    _rope_launch(q, k, cos, sin, *outputs, interleaved, backward=False)
    return outputs


@_rope_backward.register_kernel("cuda")
def _rope_backward_cuda(
    grad_q: torch.Tensor,
    grad_k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    q_dtype: torch.dtype,
    k_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = _rope_gradient(grad_q, q_dtype), _rope_gradient(grad_k, k_dtype)
    grad_q, grad_k = (x if x.stride(-1) == 1 else x.contiguous() for x in (grad_q, grad_k))
    _rope_launch(grad_q, grad_k, cos, sin, *outputs, interleaved, backward=True)
    return outputs


def _rope_launch(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out_q: torch.Tensor,
    out_k: torch.Tensor,
    interleaved: bool,
    *,
    backward: bool,
) -> None:
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"no kernel for {q.dtype}")
    batch, heads, tokens, width = q.shape
    rotated = cos.shape[-1]
    half = triton.next_power_of_2(max(1, rotated // 2))
    # 1024 pairs a program: 8 a thread, which with heads of 128 values is 16 heads of a token.
    block = min(max(1, 1024 // half), triton.next_power_of_2(heads))
    blocks = triton.cdiv(heads, block) + triton.cdiv(k.shape[1], block)
    if q.numel() == 0:
        return
    # A multiplication and an addition in one would round once where plain torch rounds twice.
    with _rope_device(q):
        _rope_kernel[(batch * tokens, blocks)](
            q, k, cos, sin, out_q, out_k, tokens, heads, k.shape[1], width, *q.stride()[:3],
            *k.stride()[:3], *out_q.stride()[:3], *out_k.stride()[:3], *_rope_angle_strides(cos),
            *_rope_angle_strides(sin), WIDTH=rotated, INTERLEAVED=interleaved, BACKWARD=backward,
            HEADS=block, HALF=half,
            REST=triton.next_power_of_2(width - rotated) if width > rotated else 0,
            enable_fp_fusion=False,
        )  # fmt: skip


def _rope_angle_strides(x: torch.Tensor) -> tuple[int, int]:
    """From row to row of the batch and from token to token; one row may be for all."""
    return x.stride(0) if x.shape[0] > 1 else 0, x.stride(1)
