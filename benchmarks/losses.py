"""``python -m benchmarks.losses [--tokens 512] [--hidden 512]``: the losses beside each other.

Time and peak memory of output head, cross-entropy and their backward pass on this machine's CPU,
of the plain loss, of torch's and of memwb's own, in fp32. Memory is what comes to the inputs:
counted to the byte, as bursts count it. Times are the median of interleaved rounds.

``--gpu`` counts instead, without a GPU, what memwb's own allocate on one with Llama 3 8B's head.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from memwb.kernels.cut_cross_entropy import cut_cross_entropy
from memwb.kernels.fused_linear_cross_entropy import fused_linear_cross_entropy

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """All logits at once."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), labels)


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor, size: int = 128) -> Tensor:
    """Chunks whose logits are computed again in backward."""

    def part(x: Tensor, y: Tensor) -> Tensor:
        logits = functional.linear(x, weight).float()
        return functional.cross_entropy(logits, y, reduction="sum")

    pairs = zip(hidden.split(size), labels.split(size), strict=True)
    parts = [checkpoint(part, x, y, use_reentrant=False) for x, y in pairs]
    return torch.stack(parts).sum() / len(labels)


def linear(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """torch's own fused loss, as its defaults have it."""
    return functional.linear_cross_entropy(hidden, weight, labels)


def fused(hidden: Tensor, weight: Tensor, labels: Tensor, size: int = 128) -> Tensor:
    """memwb's, with gradients made in the forward pass."""
    return fused_linear_cross_entropy(hidden, weight, labels, chunk_size=size)


def cut(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """memwb's, with logits computed again."""
    return cut_cross_entropy(hidden, weight, labels)


ARMS: dict[str, Loss] = {"plain": plain, "chunked": chunked, "fused": fused, "cut": cut}
if hasattr(functional, "linear_cross_entropy"):
    ARMS["linear_cross_entropy"] = linear


def run(loss: Loss, hidden: Tensor, weight: Tensor, labels: Tensor) -> float:
    """Processor seconds of a forward and a backward pass: others may be at work beside it."""
    hidden.grad = weight.grad = None
    begun = time.process_time()
    loss(hidden, weight, labels).backward()
    return time.process_time() - begun


def peak(loss: Loss, *inputs: Tensor) -> int:
    """Bytes that come to the inputs at most, gradients and all."""
    from memwb.engine.trainer.cpu import CpuMeter

    meter = CpuMeter(time.perf_counter, lambda samples: None)
    inputs[0].grad = inputs[1].grad = None
    meter.start()
    # The inputs are there in any case.
    meter.sight(0, inputs)
    own = sum(one.untyped_storage().nbytes() for one in inputs)
    run(loss, *inputs)
    meter.settle()
    meter.stop()
    found = meter.peak()
    assert found is not None
    return found.allocated - own


def rows(vocabulary: int, tokens: int, hidden: int, rounds: int) -> list[dict[str, Any]]:
    """What each loss needs at a shape."""
    torch.manual_seed(0)
    inputs = (
        torch.randn(tokens, hidden, requires_grad=True),
        (torch.randn(vocabulary, hidden) / hidden**0.5).requires_grad_(),
        torch.randint(0, vocabulary, (tokens,)),
    )
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(rounds + 1):
        for name, loss in ARMS.items():
            times[name].append(run(loss, *inputs))
    first = {name: statistics.median(found[1:]) for name, found in times.items()}
    return [
        {
            "loss": name,
            "seconds": first[name],
            "ratio": first[name] / first["plain"],
            "bytes": peak(loss, *inputs),
        }
        for name, loss in ARMS.items()
    ]


def on_gpu(name: str, frozen: bool = False, **options: Any) -> tuple[int, int]:
    """Bytes at the peak of memwb's loss with Llama 3 8B's head and 8192 tokens, and of gradients.

    In bf16, with the head frozen or trained: what the CUDA wrapper allocates, on meta tensors.
    """
    from benchmarks.launches import CHIPS, held

    def made(*shape: int, graph: bool = True) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=graph)

    hidden, weight = made(8192, 4096), made(128256, 4096, graph=not frozen)
    labels = torch.empty(8192, dtype=torch.int64, device="meta")
    loss = {"fused": fused_linear_cross_entropy, "cut": cut_cross_entropy}[name]
    found = held(
        CHIPS[-1], lambda: loss(hidden, weight, labels, **options).backward(),
        hidden, weight, labels,
    )  # fmt: skip
    return found, sum(one.nbytes for one in (hidden, weight) if one.requires_grad)


def print_on_gpu() -> None:
    """Print a table of what each loss allocates on a GPU."""
    print("| loss | peak memory | gradients | beyond them | times |\n|---|---:|---:|---:|---:|")
    for name, options in (
        ("fused", {"chunk_size": 1024}),
        ("fused", {"chunk_size": 512}),
        ("cut", {}),
    ):
        for frozen in (False, True):
            found, own = on_gpu(name, frozen, **options)
            told = [name, *(str(one) for one in options.values()), "frozen head" if frozen else ""]
            sizes = " | ".join(f"{size / 2**20:,.1f} MiB" for size in (found, own, found - own))
            print(f"| {' '.join(told).strip()} | {sizes} | {found / own:.3f} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each vocabulary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=__doc__)
    add = parser.add_argument
    add("--vocabularies", default="32000,128256", help="words of the head [%(default)s]")
    add("--tokens", type=int, default=512, help="[%(default)s]")
    add("--hidden", type=int, default=512, help="width of the hidden states [%(default)s]")
    add("--rounds", type=int, default=3, help="after one to warm up [%(default)s]")
    add("--gpu", action="store_true", help="count what the CUDA wrappers allocate")
    args = parser.parse_args(argv)
    vocabularies = [int(one) if one.isdecimal() else 0 for one in args.vocabularies.split(",")]
    for name in ("tokens", "hidden", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is at least 1")
    if not all(vocabularies):
        parser.error(f"--vocabularies {args.vocabularies}: whole numbers, with commas between")
    if args.gpu:
        print_on_gpu()
        return 0
    for vocabulary in vocabularies:
        own = 4 * args.hidden * (vocabulary + args.tokens)
        print(
            f"\n{vocabulary:,} words, {args.tokens:,} tokens, width {args.hidden:,}, fp32, "
            f"{torch.get_num_threads()} threads; the gradients are {own / 2**20:,.0f} MiB\n"
        )
        print("| loss | time | of plain | peak memory | beyond the gradients |")
        print("|---|---:|---:|---:|---:|")
        for row in rows(vocabulary, args.tokens, args.hidden, args.rounds):
            print(
                f"| {row['loss']} | {row['seconds']:.2f} s | {row['ratio']:.2f} | "
                f"{row['bytes'] / 2**20:,.0f} MiB | {(row['bytes'] - own) / 2**20:,.1f} MiB |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
