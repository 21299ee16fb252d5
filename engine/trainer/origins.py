"""Which module is at work when an operator runs, and what the tensors of a model are called.

In forward the modules' own hooks tell. Backward runs operators of graph nodes, which are numbered
in the order in which forward made them: an operator there belongs to the module that was at work
when its node was made.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules import module as modules

from memwb.engine.trainer import inventory
from memwb.engine.trainer.alive import Origin

LOSS = "loss"
"""The phase from the decoder's end to backward, and what names its tensors that no module made."""


class Origins:
    """See the module. A burst's, or that of a run on the meta device."""

    def __init__(self) -> None:
        self.module = ""
        """The name of the module at work."""
        self._step = 0
        self._in_loss = False
        self._sequence: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._titles: dict[int, str] = {}
        self._stack: list[str] = []
        self._hooks: list[Any] = []

    def mark(self, step: int, phase: str) -> None:
        """A phase begins."""
        self._in_loss = phase == LOSS
        if step != self._step:
            # The nodes of the step before are gone. (On a GPU a thread of its own runs backward,
            # with numbers of its own, which those of a later forward pass may be too.)
            self._step = step
            self._sequence.clear()

    def meet(self, model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, str]]:
        """The finished model, before its optimizer is built; gives its parameters with names."""
        self._names = {id(module): name for name, module in model.named_modules()}
        # What is compiled has no modules that could be told apart: a hook on each would be compiled
        # with it, and break it up.
        if not self._hooks and not any(map(_is_compiled, model.modules())):
            before = modules.register_module_forward_pre_hook(self._enter)
            after = modules.register_module_forward_hook(self._leave, always_call=True)
            self._hooks = [before, after]
        for name, parameter in model.named_parameters():
            self._titles[id(parameter)] = name
            yield parameter, name

    def states(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, str]]:
        """The tensors of an optimizer's state, each with the name of its parameter."""
        for parameter, state in optimizer.state.items():
            for tensor in inventory.tensors_in(state):
                yield tensor, self._titles.get(id(parameter), "")

    def detach(self) -> None:
        """Take every hook off."""
        while self._hooks:
            self._hooks.pop().remove()

    def pass_by(self) -> None:
        """An operator runs: the node of the graph that it made, if it made one, is its module's."""
        made = self.module or (LOSS if self._in_loss else "")
        if made:
            # Who makes no node finds the last one there is, which belongs to somebody already.
            self._sequence.setdefault(torch._C._autograd._get_sequence_nr() - 1, made)

    def at_work(self) -> str:
        """The module at work, or the loss: in backward what made the node in forward."""
        if self.module:
            return self.module
        if self._in_loss:
            return LOSS
        node: Any = torch._C._current_autograd_node()
        return self._sequence.get(node._sequence_nr(), "") if node is not None else ""

    def origin(self, tensor: torch.Tensor, op: str) -> Origin:
        """Of a tensor that an operator has just made."""
        return Origin(self.at_work(), op, tuple(tensor.shape), name_of(tensor.dtype))

    def _enter(self, module: torch.nn.Module, *_: Any) -> None:
        self._stack.append(self.module)
        name = self._names.get(id(module))
        if name is not None:
            self.module = name

    def _leave(self, module: torch.nn.Module, *_: Any) -> None:
        if self._stack:
            self.module = self._stack.pop()


@functools.cache
def name_of(dtype: torch.dtype) -> str:
    """As ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def filled_by(origin: Origin, func: Any) -> Origin:
    """Of what an operator gives back, whose kernel is Python code that runs others: if it was made
    empty, it is the operator's, which has filled it."""
    return origin._replace(op=op_of(func)) if origin.op in _EMPTY else origin


_EMPTY = frozenset(("aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty"))


def op_of(func: Any) -> str:
    """An operator's name without its overload, as ``aten.mm``; empty for none."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return str(func) if func is not None else ""
    return str(schema.name).replace("::", ".", 1)


def _is_compiled(module: torch.nn.Module) -> bool:
    """Whether its forward function is one that ``torch.compile`` gave."""
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
