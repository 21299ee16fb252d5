"""What a technique does to memory, as arithmetic that one can check with a pencil.

Each technique's file may have ``effects(params, facts)``: a list of ``Effect``, the bytes of a
category without and with it for the facts of a plan. Help texts show them; the tests hold them
against what a burst measures.
"""

from __future__ import annotations

import msgspec

from memwb.engine.plan import Workload
from memwb.engine.shapes import Shape, Weight


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the arithmetic of a technique may use of a plan and its model."""

    shape: Shape
    workload: Workload
    weight_bytes: int
    """Bytes of one weight that is not quantized: 4 in fp32 and under autocast, 2 in bf16."""
    compute_bytes: int
    """Bytes of one activation: 2 under autocast."""
    trained: tuple[Weight, ...]
    """The tensors that get gradients: all, or the adapters."""

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.workload.batch_size * self.workload.sequence_length

    @property
    def trainable(self) -> int:
        """How many values are trained."""
        return sum(weight.size * weight.count for weight in self.trained)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one category without and with a technique, and how they are reckoned."""

    category: str
    """weights, gradients, optimizer, activations or temporary."""
    before: int
    after: int
    formula: str
    """The reckoning in words and numbers: ``2 moments x 4 B x 1.54 B weights``."""
    each: bool = False
    """True when it is said of each decoder layer or step, not of the whole category."""
