"""How many of a burst's positions are trained on: counted in the batches as they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

IGNORED = -100
"""The label of a position that the loss passes over."""


class Labels:
    """Counts the labels of a stream of batches.

    A row's first label is nobody's next token, so it does not count, as a position or a token; nor
    does the first token of a document that is packed with others.
    """

    def __init__(self) -> None:
        self._positions = 0
        self._trained = 0
        self._taken = 0
        self.length = 0
        """Tokens in the longest row so far."""

    @property
    def padding(self) -> float | None:
        """The share of all positions so far that trained nothing; None before the first."""
        return 1 - self._trained / self._positions if self._positions else None

    def taken(self) -> int:
        """The tokens trained on since this was last asked."""
        tokens = self._trained - self._taken
        self._taken = self._trained
        return tokens

    def watch(self, stream: Any) -> Any:
        """The same batches, counted as they are drawn; what is no stream is left as it is."""
        return self._counted(stream) if isinstance(stream, Iterator) else stream

    def _counted(self, stream: Iterator[Any]) -> Iterator[Any]:
        for batch in stream:
            labels = batch.get("labels") if isinstance(batch, dict) else None
            if isinstance(labels, torch.Tensor) and labels.ndim == 2 and _has_values(labels):
                # As numpy, on the host: the count must not allocate what the meter would see.
                self.length = max(self.length, labels.shape[1])
                next_tokens = labels.cpu().numpy()[:, 1:]
                places = batch.get("position_ids")
                begun = 0 if places is None else int((places.cpu().numpy()[:, 1:] == 0).sum())
                self._positions += next_tokens.size - begun
                self._trained += int((next_tokens != IGNORED).sum())
            yield batch


def _has_values(tensor: torch.Tensor) -> bool:
    """Whether there is something to count: not while a run is only pretended.

    Asked past whatever answers in place of torch, which says that a tensor is on the target.
    """
    with torch._C.DisableTorchFunction():
        return not tensor.is_meta
