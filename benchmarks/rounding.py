"""``python -m benchmarks.rounding [--words 128256]``: what the losses' arithmetic on a GPU errs by.

The roundings of the CUDA wrappers are made on the CPU, on the race's inputs (``benchmarks.gpu``):
bf16 operands, products and sums in fp32, each result rounded to bf16 where the GPU rounds it. Told
is the relative error of the gradients of hidden states and weight, against fp64. The width of the
hidden states matters little, and is small here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.problems import losses


def bf16(x: Tensor) -> Tensor:
    """Rounded to bf16, for products in fp32."""
    return x.bfloat16().float()


def slopes(z: Tensor, labels: Tensor, fused: bool) -> tuple[Tensor, Tensor]:
    """The gradient of logits in fp32 before it is rounded, and that of the labels' own logits."""
    rows = torch.arange(len(z))
    lse = z.logsumexp(1, keepdim=True)
    own = (z[rows, labels] - lse[:, 0]).exp() - 1
    if fused:
        # A slice of at most 4096 words at a time, relative to its own maximum, in bf16.
        for part in z.split(4096, 1):
            top = part.amax(1, keepdim=True)
            part.copy_(bf16((part - top).exp()) * (top - lse).exp())
    else:
        z.sub_(lse).exp_()
    z[rows, labels] = own
    return z, own


def errors(tokens: int, hidden: int, words: int, chunk: int, peaky: bool) -> dict[str, list[float]]:
    """Relative error of the gradients of hidden states and weight, by the way they are made."""
    inputs = losses("", tokens, hidden, words, device="cpu", peaky=peaky).inputs
    x, weight = (inputs[name].detach().float() for name in ("hidden", "weight"))
    labels = inputs["labels"]
    true = [torch.zeros_like(one, dtype=torch.float64) for one in (x, weight)]
    ways = ("plain", "fused, all rounded a chunk", "fused, labels apart", "cut")
    found = {way: [torch.zeros_like(one) for one in (x, weight)] for way in ways}
    apart = torch.zeros_like(weight)
    for start in range(0, tokens, chunk):
        part = slice(start, start + chunk)
        y, rows = labels[part], torch.arange(len(labels[part]))
        z = x[part] @ weight.T
        exact = (x[part].double() @ weight.double().T).softmax(1)
        exact[rows, y] -= 1
        true[0][part] = exact @ weight.double() / tokens
        true[1] += exact.T @ x[part].double() / tokens
        for way, (of_hidden, of_weight) in found.items():
            given = bf16(z) if way == "plain" else z.clone()
            slope, own = slopes(given, y, way.startswith("fused"))
            slope = bf16(slope / tokens)
            of_hidden[part] = bf16(slope @ weight)
            if way == "fused, labels apart":
                slope[rows, y] = 0
                apart.index_add_(0, y, own[:, None] / tokens * x[part])
            of_weight += slope.T @ x[part]
            if way.startswith("fused"):
                of_weight.copy_(bf16(of_weight))
    found["fused, labels apart"][1] += apart
    return {
        way: [
            float((bf16(one).double() - exact).norm() / exact.norm())
            for one, exact in zip(both, true, strict=True)
        ]
        for way, both in found.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for flat and one for peaky logits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    for name, usual, what in (
        ("tokens", 8192, "rows"), ("hidden", 64, "width of the hidden states"),
        ("words", 32000, "vocabulary"), ("chunk", 1024, "rows at once"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"{what} [%(default)s]")
    args = parser.parse_args(argv)
    if wrong := [name for name, value in vars(args).items() if value < 1]:
        parser.error(f"--{wrong[0]} is at least 1")
    chunks = math.ceil(args.tokens / args.chunk)
    print(f"{args.tokens:,} tokens in {chunks} chunks, {args.words:,} words, width {args.hidden:,}")
    for peaky in (True, False):
        print(f"\n| {'peaky' if peaky else 'flat'} | hidden states | weight |\n|---|---:|---:|")
        for way, both in errors(*(vars(args)[n] for n in vars(args)), peaky).items():
            print(f"| {way} | {' | '.join(f'{one:.2e}' for one in both)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
