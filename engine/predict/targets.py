"""What a prediction must know of the device it is made for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from memwb.engine.allocator_settings import Settings, settings_of
from memwb.engine.gpus import Gpu, target_of
from memwb.engine.predict.meter import ScratchBytes


class Target(NamedTuple):
    """A device, and what its kernels do that torch's meta kernels do not."""

    id: str
    """The id of a GPU, or cpu."""
    kind: str
    """cuda or cpu."""
    name: str
    arch: str
    """As ``sm_90``; empty on a CPU."""
    capacity: int
    multiprocessors: int | None
    """None on a CPU, and where nobody tells how many a GPU has."""
    instead: Mapping[Any, Callable[..., Any]]
    """What to call in place of a torch function."""
    scratch: ScratchBytes
    """What an operator's kernel allocates for itself."""
    results: Mapping[str, Callable[[Sequence[Any], Any], Any]] = {}
    """What else an operator's kernel gives than the meta kernel does."""
    workspaces: Mapping[str, int] = {}
    """Bytes that the matrix library takes once and keeps, by the phase of its first product."""
    allocator: Settings = Settings()
    """Of the caching allocator: those that PYTORCH_ALLOC_CONF sets here."""


def target_named(text: str) -> Target:
    """The target of that name; nothing means this machine's GPU, or else its CPU."""
    gpu = target_of(text)
    return cpu() if gpu is None else cuda(gpu)


def cpu() -> Target:
    """This machine's CPU."""
    from memwb.engine.predict.cpu import INSTEAD, RESULTS

    return Target("cpu", "cpu", "CPU", "", 0, None, INSTEAD, {}, RESULTS)


def cuda(gpu: Gpu) -> Target:
    """A GPU, here or not."""
    from torch.nn import functional

    from memwb.engine.predict.cuda import INTERCEPT, SCRATCH, nbytes, sdpa, workspaces

    def sizes(overload: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
        found = SCRATCH[overload](*args, **kwargs, arch=gpu.arch)
        return [nbytes((one,)) for one in found]

    attention = partial(sdpa, arch=gpu.arch)
    return Target(
        id=gpu.id,
        kind="cuda",
        name=gpu.name,
        arch=gpu.arch,
        capacity=gpu.capacity,
        multiprocessors=gpu.multiprocessors,
        instead={**INTERCEPT, functional.scaled_dot_product_attention: attention},
        scratch={overload: partial(sizes, overload) for overload in SCRATCH},
        workspaces={one.when: one.bytes for one in workspaces(gpu.arch)},
        allocator=settings_of(os.environ),
    )
