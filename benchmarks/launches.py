"""What memwb's CUDA wrappers would launch, told without a GPU: tensors on meta, launches recorded.

The operators of ``memwb::`` are sent to their CUDA kernels, whose wrappers allocate on the inputs'
device (meta) and launch Triton kernels; every launch is noted and nothing runs. What a wrapper asks
of the CUDA runtime is answered for the chip that is pretended.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


class Chip(NamedTuple):
    """What of a GPU a launch depends on. Shared memory is bytes that one block may have."""

    capability: tuple[int, int]
    shared: int
    processors: int

    @property
    def arch(self) -> int:
        """The capability as Triton's target names it: 90."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def name(self) -> str:
        """As compilers name it: ``sm_90``."""
        return f"sm_{self.arch}"


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; processors: A100,
# RTX 4090, H200.
CHIPS = (
    Chip((8, 0), 163 * 2**10, 108),
    Chip((8, 9), 99 * 2**10, 128),
    Chip((9, 0), 227 * 2**10, 132),
)


class Launch(NamedTuple):
    """One launch of a kernel: what it was given, and over how many programs."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


class _Sent(TorchDispatchMode):
    """Sends operators of memwb to their CUDA kernels, whatever their tensors are on.

    ``see`` takes what each of the other operators gives.
    """

    def __init__(self, see: Callable[[Any], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "namespace", "") == "memwb":
            with self:
                return func.redispatch(_CUDA, *args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        self._see(found)
        return found


@contextlib.contextmanager
def recorded(chip: Chip, see: Callable[[Any], None] = id) -> Iterator[list[Launch]]:
    """The launches of what runs inside, on that chip; the list fills as they come.

    ``see`` takes what each operator gives.
    """
    found: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
        if callable(grid):
            bound = self.signature.bind_partial(
                *args, **{key: value for key, value in options.items() if key in self.arg_names}
            )
            bound.apply_defaults()
            grid = grid(dict(bound.arguments))
        grid = tuple(grid) if isinstance(grid, tuple | list) else (grid,)
        assert all(isinstance(size, int) and size > 0 for size in grid), (self.__name__, grid)
        found.append(Launch(self, grid, args, options))

    properties = SimpleNamespace(
        multi_processor_count=chip.processors,
        major=chip.capability[0],
        minor=chip.capability[1],
        shared_memory_per_block_optin=chip.shared,
    )
    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch("torch.cuda.get_device_capability", lambda *_: chip.capability),
        mock.patch("torch.cuda.get_device_properties", lambda *_: properties),
        mock.patch("torch.cuda.current_device", lambda: 0),
        # Of a device named meta it refuses to say.
        mock.patch("torch.is_autocast_enabled", lambda *_: False),
        _Sent(see),
    ):
        yield found


def held(chip: Chip, call: Callable[[], object], *inputs: torch.Tensor) -> int:
    """The most bytes that exist at once beside the inputs while the wrappers run on that chip.

    Of tensors alone: what a library takes inside an operator, and a sort, is not seen.
    """
    alive = {one.untyped_storage()._cdata: 0 for one in inputs}
    most = 0

    def see(found: Any) -> None:
        nonlocal most
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage._cdata not in alive:
                    alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, alive.pop, storage._cdata)
        most = max(most, sum(alive.values()))

    # A launch that was noted would keep its tensors alive.
    unnoted = mock.patch.object(JITFunction, "run", lambda *_, **__: None)
    with recorded(chip, see), unnoted:
        call()
    return most
