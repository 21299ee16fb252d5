"""TensorFloat-32: fp32 everywhere, but matrix products read 10 bits of each mantissa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts, precision_effects
from memwb.engine.technique import Params, Technique

if TYPE_CHECKING:
    from memwb.engine.protocol import Device

technique = Technique(
    name="tf32",
    title="tf32",
    group="precision",
    saves="No memory: the time of fp32's matrix products, which run on the matrix units.",
    costs="Factors of matrix products are rounded to 11 significant bits; sums stay in fp32.",
    not_when="Memory is short: weights, gradients and activations are those of fp32.",
    source="https://docs.pytorch.org/docs/stable/notes/cuda.html (TensorFloat-32)",
    # As amp_bf16 derives it, with 11 significant bits in place of 8, and a result that is not
    # rounded: (2 x 2 + 2) x 2^-11, and the next power of two.
    tolerance=2**-8,
)


def unavailable(params: Params, device: Device | None) -> str:
    """Why it cannot run there: only CUDA devices have such products."""
    if device is not None and device.kind != "cuda":
        return "only CUDA devices of compute capability 8.0 (Ampere) or later have TF32"
    return ""


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Load every weight in fp32, and let matrix products use TF32."""
    import torch

    # torch.backends.cuda.matmul.fp32_precision does the same, but torch.compile, which reads
    # the setting of all devices, fails after it.
    torch.set_float32_matmul_precision("high")
    return {**options, "dtype": torch.float32}


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Those of fp32: only the products differ."""
    return precision_effects(facts)
