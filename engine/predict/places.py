"""Where the tensors of a pretended run are: on the target, on its host, or nowhere.

A run that is predicted has its tensors on torch's meta device, where they have shapes and no
memory. A few are real: what comes from the data (token ids, labels, positions, masks) has its
values on this machine's CPU, so that whatever asks for a value is told the true one. Both kinds
can stand for a tensor on the target or on the host, which is noted here by storage.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import IntEnum

import torch

MOST_VALUES = 1 << 24
"""Whole numbers and truth values are kept for real up to this many in a tensor."""


class Place(IntEnum):
    """Where a tensor would be in a real run."""

    NOWHERE = 0
    """On the meta device: a model before it has memory."""
    HOST = 1
    TARGET = 2


class Kept(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a storage that has been seen."""

    __slots__ = ("identity", "name", "place", "real", "size")
    identity: int
    name: int
    """Its name in the trace; 0 while it is not counted."""
    place: Place
    size: int
    real: torch.Tensor | None
    """What it stands for, and keeps from being freed; None where it is itself what is counted."""


class Places:
    """The places of all storages that were seen, for as long as they live."""

    def __init__(self, host: Place) -> None:
        self._host = host
        """Where real tensors are: on the host, which is the target itself when that is a CPU."""
        self._kept: dict[int, Kept] = {}
        self.gone: Callable[[Kept], None] = _nothing

    def find(self, tensor: torch.Tensor) -> Kept | None:
        """What is known of the tensor's storage."""
        storage = storage_of(tensor)
        kept = self._kept.get(storage._cdata) if storage is not None else None
        return kept if kept is not None and kept() is not None else None

    def of(self, storage: torch.UntypedStorage) -> Kept | None:
        """What is known of a storage."""
        kept = self._kept.get(storage._cdata)
        return kept if kept is not None and kept() is not None else None

    def place(self, tensor: torch.Tensor) -> Place:
        """Where it is."""
        storage = storage_of(tensor)
        kept = self._kept.get(storage._cdata) if storage is not None else None
        return kept.place if kept is not None else self.unseen(tensor)

    def unseen(self, tensor: torch.Tensor) -> Place:
        """Where a tensor is that nothing is known of. To be asked with no function mode on."""
        return Place.NOWHERE if tensor.is_meta else self._host

    def put(self, tensor: torch.Tensor, place: Place) -> Kept | None:
        """Note where a storage is; None for tensors that have none (sparse ones)."""
        storage = storage_of(tensor)
        return self.keep(storage, place) if storage is not None else None

    def keep(self, storage: torch.UntypedStorage, place: Place) -> Kept:
        """Note where a storage is."""
        number = int(storage._cdata)
        kept = Kept(storage, self._end)
        kept.identity, kept.name, kept.place, kept.size = number, 0, place, 0
        kept.real = None
        self._kept[number] = kept
        return kept

    def clear(self) -> None:
        """Forget everything; the ends of what still lives are no longer told."""
        self._kept.clear()

    def _end(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(reference, Kept)
        if self._kept.get(reference.identity) is reference:
            del self._kept[reference.identity]
            self.gone(reference)


def _nothing(kept: Kept) -> None:
    """Until somebody wants to hear of ends."""


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The tensor's storage; None for tensors that have none (sparse ones)."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None
