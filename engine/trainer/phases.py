"""Finds where forward ends, backward begins and the optimizer acts, and takes itself off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from memwb.engine.trainer.meter import Meter
from memwb.engine.trainer.trace import GRADIENTS


class Phases:
    """Tells a meter the phase of the running step.

    forward: from the begin of the step, or of ``loss``; loss: from the end of the decoder, so
    with the output head; backward: within ``torch.autograd.backward``; optimizer: from its step
    to the end of the training step. ``detach`` removes every trace of it.
    """

    def __init__(self, meter: Meter) -> None:
        self.step = 0
        self.phase = "load"
        self._meter = meter
        self._in_backward = False
        self._undo: list[Callable[[], None]] = []

    def enter(self, phase: str, step: int | None = None) -> None:
        """The phase begins, unless it runs already."""
        if step is not None or phase != self.phase:
            self.step = self.step if step is None else step
            self.phase = phase
            self._meter.mark(self.step, phase)

    def attach(self, model: torch.nn.Module) -> None:
        """Hook the finished model, the optimizers' step and ``torch.autograd.backward``."""
        self._keep(decoder_of(model).register_forward_hook(self._decoder_done))
        for parameter in model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._gradient)  # type: ignore[no-untyped-call]
                self._keep(handle)
        self._keep(register_optimizer_step_pre_hook(self._optimizer_begins))
        self._keep(register_optimizer_step_post_hook(self._optimizer_done))
        original = torch.autograd.backward
        torch.autograd.backward = self._around(original)

        def restore() -> None:
            torch.autograd.backward = original

        self._undo.append(restore)

    def detach(self) -> None:
        """Remove every hook."""
        while self._undo:
            self._undo.pop()()

    def _keep(self, handle: Any) -> None:
        self._undo.append(handle.remove)

    def _around(self, original: Callable[..., None]) -> Callable[..., None]:
        def backward(*args: Any, **kwargs: Any) -> None:
            # Reentrant checkpointing calls backward from within backward.
            if self._in_backward:
                return original(*args, **kwargs)
            self._in_backward = True
            self.enter("backward")
            try:
                return original(*args, **kwargs)
            finally:
                self._in_backward = False

        return backward

    def _decoder_done(self, *_: Any) -> None:
        if not self._in_backward:
            self.enter("loss")

    def _gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._meter.sight(GRADIENTS, (parameter.grad,))

    def _optimizer_begins(self, *_: Any) -> None:
        self.enter("optimizer")

    def _optimizer_done(self, *_: Any) -> None:
        # An optimizer that acts within backward hands the phase back.
        if self._in_backward:
            self.enter("backward")


def decoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """The model below its output head, adapters unwrapped; the model itself if it has none."""
    inner: Any = model
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    found = inner.get_decoder() if hasattr(inner, "get_decoder") else inner
    return found if isinstance(found, torch.nn.Module) else model
