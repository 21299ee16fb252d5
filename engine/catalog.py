"""The models a plan can name: catalogue, local folders, the Hugging Face cache, hub ids."""

from __future__ import annotations

from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A causal language model as far as it is known without loading it."""

    name: str
    """As a plan names it."""
    source: str
    """catalogue, folder, cache or hub."""
    location: str
    """What ``from_pretrained`` is given: a hub id or an absolute folder."""
    weights: str
    """pretrained when weights are at hand (or will be fetched from the hub), else random."""
    config: dict[str, Any] | None = None
    """config.json as data; None for a hub id that is not on this machine."""
    tokenizer: str = ""
    """Where a tokenizer is at hand: a hub id or folder; empty means bytes."""
    parameters: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    licence: str = ""
