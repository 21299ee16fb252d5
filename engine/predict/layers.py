"""Which decoder layers are alike, by a model's config, and how many of them are worth tracing."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

FIXED = 3
"""What a trace costs beside its decoder layers, in layers: reading, embedding, loss and head."""


_Test = Callable[[dict[str, Any], int, int], Hashable]
"""A property of a layer from a config's fields, the layer's number, and how many there are."""


class Pattern(NamedTuple):
    """How layers differ: after ``head`` of their own kind, every ``period`` layers are alike."""

    period: int
    head: int = 0


def pattern(config: Any, every: Iterable[int] = ()) -> Pattern:
    """The pattern of a transformers config's decoder layers, from whatever lists or counts it has.

    ``every`` are the periods of what is done to every n-th layer. Of the patterns that describe
    the layers, the one of which the fewest have to be traced. The names of fields are those of
    transformers' configs.
    """
    text = config.get_text_config()
    count = int(text.num_hidden_layers)
    kinds = list(zip(*_kinds(text, count), strict=True))
    best = Pattern(max(count, 1))
    for candidate in range(1, count // 2 + 1):
        head = count - candidate
        while head and kinds[head - 1] == kinds[head - 1 + candidate]:
            head -= 1
        if head + 2 * candidate < best.head + 2 * best.period:
            best = Pattern(candidate, head)
    return Pattern(math.lcm(best.period, *every), best.head)


def _kinds(text: Any, count: int) -> Iterable[list[Hashable]]:
    """For each property of layers that the config tells, its value for each layer."""
    fields = {name: value for name, value in vars(text).items() if not name.startswith("_")}
    for name, value in fields.items():
        if "layer" not in name or not isinstance(value, list | tuple):
            continue
        numbers = all(isinstance(one, int) for one in value) and len(set(value)) == len(value)
        if numbers and count > 2:
            # The layers that are something, by their numbers.
            yield [index in value for index in range(count)]
        elif len(value) == count:
            yield [str(one) for one in value]
    for test in _TESTS:
        yield [test(fields, index, count) for index in range(count)]


def _number(fields: dict[str, Any], name: str, default: int) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _every(name: str, offset: int = 0, start: str = "") -> _Test:
    """Whether a layer is one of every n-th, n being a field's value."""

    def test(fields: dict[str, Any], index: int, count: int) -> bool:
        step = max(_number(fields, name, 1), 1)
        return (index + offset - _number(fields, start, 0)) % step == 0

    return test


def _below(name: str) -> _Test:
    return lambda fields, index, count: index < _number(fields, name, 0)


_TESTS: tuple[_Test, ...] = (
    _every("sliding_window_pattern", 1),
    _every("decoder_sparse_step", 1),
    _every("moe_layer_freq"),
    _every("interleave_moe_layer_step", 1),
    _every("moe_layer_interval", 1),
    _every("no_rope_layer_interval", 1),
    _every("attn_layer_period", 0, "attn_layer_offset"),
    _every("expert_layer_period", 0, "expert_layer_offset"),
    _below("first_k_dense_replace"),
    _below("moe_layer_start_index"),
    lambda fields, index, count: index > _number(fields, "moe_layer_end_index", -1) >= 0,
    # Counted from the last layer, so that with fewer layers others are meant: no two are alike.
    lambda fields, index, count: index if _number(fields, "num_kv_shared_layers", 0) else 0,
)


def depths(
    config_layers: int, period: int, head: int = 0, ends: bool = True
) -> tuple[int, int] | None:
    """Two depths to trace instead of all layers; None where all of them cost no more.

    The short one has a first layer, a whole period after it, and, where what is done to the last
    layer is not what is done to those before it (``ends``), that one beside; the long one has a
    period more. Both end in the pattern where the whole model does.
    """
    least = max(head, 1) + period + ends
    short = least + (config_layers - least) % period
    long = short + period
    if short + long + FIXED >= config_layers:
        return None
    return short, long


def shorten(config: Any, layers: int) -> None:
    """Take from a config all layers but the first ``layers``, also where it lists them."""
    text = config.get_text_config()
    count = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
