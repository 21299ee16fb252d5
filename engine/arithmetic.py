"""What a technique does to memory, as arithmetic that one can check with a pencil.

Each technique's file may have ``effects(params, facts)``: a list of ``Effect``, the bytes of a
category without and with it for the facts of a plan. Help texts show them; the tests hold them
against what a burst measures, to the byte. Of each category is told:

- weights: all parameters and what reads them (scales); a model's buffers are not in it;
- gradients: the most there are at once;
- optimizer: its state after a step, counters of steps and shared maps included;
- activations: only the part that the technique changes, the rest being the same;
- temporary: the most that comes to what stands all through the phase.

Where a plain run's share depends on kernels, ``before`` is None, and only what is left is told.
A technique of which nothing exact can be said, or not with every parameter, says in
``NO_ARITHMETIC`` on what its bytes depend.

Facts come from what these files say beside their declaration:

- a precision: ``WEIGHT_BYTES`` and ``COMPUTE_BYTES``, 4 unless it says otherwise;
- an adapter: ``trained(params, shape)``, the tensors it trains in place of the model's own, and
  ``TRAINED_BYTES`` of one value of them where they keep a precision of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from memwb.engine.plan import Plan, Workload, active
from memwb.engine.protocol import Device
from memwb.engine.shapes import Shape, Weight, shape_of
from memwb.engine.technique import module_of, techniques


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the arithmetic of a technique may use of a plan in which it is on, and of its model."""

    shape: Shape
    workload: Workload
    weight_bytes: int
    """Bytes of one weight that is not quantized: 4 in fp32 and under autocast, 2 in bf16."""
    compute_bytes: int
    """Bytes of one activation: 2 under autocast."""
    trained: tuple[Weight, ...]
    """The tensors that get gradients: all, or the adapters."""
    device: str = ""
    """cuda or cpu; empty while it is not known."""
    trained_bytes: int = 4
    """Bytes of one value of them: 4 in adapters, else that of a weight. So have gradients."""

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.workload.batch_size * self.workload.sequence_length

    @property
    def adapters(self) -> tuple[Weight, ...]:
        """The tensors that are trained beside the model's own; empty when these are trained."""
        return () if self.trained == self.shape.weights else self.trained

    @property
    def trainable(self) -> int:
        """How many values are trained."""
        return sum(weight.size * weight.count for weight in self.trained)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one category without and with a technique, and how they are reckoned."""

    category: str
    """weights, gradients, optimizer, activations or temporary."""
    before: int | None
    """None where it depends on the kernels that run."""
    after: int
    formula: str
    """The reckoning in words and numbers: ``2 moments x 4 B x 1.54 B weights``."""
    each: bool = False
    """True when it is said of each decoder layer, not of the whole category."""
    phase: str = ""
    """The phase of a step that it is said of, where not of the step: forward, optimizer."""


def facts_of(plan: Plan, config: Mapping[str, Any], device: Device | None = None) -> Facts | None:
    """The facts of a plan whose model has this config.json; None for a family not known."""
    shape = shape_of(config)
    if shape is None:
        return None
    weight_bytes = compute_bytes = 4
    trained, trained_bytes = shape.weights, 0
    for name, params in active(plan).items():
        module = module_of(name)
        if techniques()[name].group == "precision":
            weight_bytes = getattr(module, "WEIGHT_BYTES", 4)
            compute_bytes = getattr(module, "COMPUTE_BYTES", 4)
        if hasattr(module, "trained"):
            trained = module.trained(params, shape)
            trained_bytes = getattr(module, "TRAINED_BYTES", 0)
    return Facts(
        shape=shape,
        workload=plan.workload,
        weight_bytes=weight_bytes,
        compute_bytes=compute_bytes,
        trained=trained,
        device=device.kind if device else "",
        trained_bytes=trained_bytes or weight_bytes,
    )


def effects_of(name: str, params: Any, facts: Facts) -> list[Effect]:
    """What a technique says of the bytes of its categories; empty when it says nothing."""
    effects = getattr(module_of(name), "effects", None)
    return list(effects(params, facts)) if effects else []


def has_arithmetic(name: str) -> bool:
    """Whether a technique says anything of its bytes, with some parameters at least."""
    return hasattr(module_of(name), "effects")


def no_arithmetic(name: str) -> str:
    """On what the bytes of a technique depend where there is no arithmetic of them."""
    return str(getattr(module_of(name), "NO_ARITHMETIC", ""))


def precision_effects(facts: Facts) -> list[Effect]:
    """What a precision does against fp32: the weights' bytes, and the gradients' if they train.

    Optimizer states and activations follow, but how far is for the techniques that own them.
    """
    width = facts.weight_bytes
    own = facts.shape.parameters
    beside = facts.trained_bytes * facts.trainable if facts.adapters else 0
    formula = f"{width} B × {amount(own)} weights, fp32 has 4 B"
    if beside:
        formula += f"; and {facts.trained_bytes} B × {amount(facts.trainable)} in adapters"
    found = [
        Effect(
            category="weights", before=4 * own + beside, after=width * own + beside, formula=formula
        )
    ]
    if not beside:
        formula = f"{width} B × {amount(own)} weights: a gradient has its weight's precision"
        found.append(
            Effect(category="gradients", before=4 * own, after=width * own, formula=formula)
        )
    return found


def amount(count: int) -> str:
    """A number of values as formulas write it: ``1.54 B``, ``4.6 M``, ``12,288``."""
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,}"
