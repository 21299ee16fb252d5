"""The CUDA caching allocator's settings, as ``PYTORCH_ALLOC_CONF`` gives them. Pure: no torch.

Keys, bounds and defaults are those of ``c10/core/AllocatorConfig.cpp`` and
``c10/cuda/CUDAAllocatorConfig.cpp`` of torch 2.11 to 2.13. What only touches pinned host memory,
locks or graph captures is accepted and has no effect here; what changes device memory in a way
that is not modelled is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from memwb.engine.errors import MemwbError, nearest

MIB = 2**20
MIN_BLOCK = 512
"""Sizes are multiples of this (``kMinBlockSize``)."""

_INTERVALS = 16
# Sizes from 1 MiB on have a power of two's own divisions; those below share the first.
_FIRST_INTERVAL = 20

_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_KEYS = (
    "backend",
    "expandable_segments",
    "garbage_collection_threshold",
    "large_segment_size_mb",
    "max_non_split_rounding_mb",
    "max_split_size_mb",
    "per_process_memory_fraction",
    "roundup_power2_divisions",
    "throw_on_cudamalloc_oom",
)
_HARMLESS = frozenset(
    (
        "expandable_segments_reserve",
        "expandable_segments_reserve_by_class",
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "pinned_use_hip_host_register",
        "release_lock_on_cudamalloc",
        "release_lock_on_hipmalloc",
    )
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the caching allocator is set up; the defaults are torch's. Bytes."""

    expandable_segments: bool = False
    large_segment_size: int = 20 * MIB
    """The segment that requests from 1 to 10 MiB are cut from, and an expandable page."""
    max_split_size: int | None = None
    """Blocks of this size or more are not split. None: every block may be."""
    max_non_split_rounding: int = 20 * MIB
    """A request of ``max_split_size`` or more may take a block that is larger by less than this."""
    garbage_collection_threshold: float = 0.0
    """The part of the allowed memory from which unused segments are freed. 0: never. It acts only
    together with a ``memory_fraction`` below 1, as in torch."""
    memory_fraction: float = 1.0
    """The part of the device's memory that is allowed (``per_process_memory_fraction``)."""
    roundup_power2_divisions: tuple[int, ...] = ()
    """Divisions by power of two, from 1 MiB (and below) to 32 GiB (and above). Empty: off."""


def settings_from(text: str) -> Settings:
    """Settings from the text of PYTORCH_ALLOC_CONF, as ``max_split_size_mb:128``.

    Raises MemwbError for a key that torch does not know, a value it would refuse, or a setting
    whose effect on memory is not modelled.
    """
    given = list(_pairs(text))
    values: dict[str, object] = {}
    # The size of large segments bounds others, wherever it stands in the text.
    large = 20 * MIB
    for key, value in given:
        if key == "large_segment_size_mb":
            large = _megabytes(key, value, above=10)
            values["large_segment_size"] = large
            values["max_non_split_rounding"] = large
    for key, value in given:
        if key == "large_segment_size_mb" or key in _HARMLESS:
            continue
        if key == "expandable_segments":
            values[key] = _boolean(key, value)
        elif key == "max_split_size_mb":
            values["max_split_size"] = _megabytes(key, value, least=large // MIB)
        elif key == "max_non_split_rounding_mb":
            values["max_non_split_rounding"] = _megabytes(key, value, least=large // MIB)
        elif key == "garbage_collection_threshold":
            values[key] = _fraction(key, value, closed=False)
        elif key == "per_process_memory_fraction":
            values["memory_fraction"] = _fraction(key, value, closed=True)
        elif key == "roundup_power2_divisions":
            values[key] = _divisions(key, value)
        elif key == "backend":
            if value != "native":
                raise _not_modelled(key, value, "backend:native, or leave it out")
        elif key == "throw_on_cudamalloc_oom":
            if _boolean(key, value):
                raise _not_modelled(key, value, f"{key}:False, or leave it out")
        else:
            known = {*_KEYS, *_HARMLESS}
            raise MemwbError(
                f"The allocator has no setting {key!r}",
                f"in {text!r}; {nearest(key, known)}".rstrip("; "),
                "See PYTORCH_ALLOC_CONF in torch's notes on CUDA.",
            )
    return msgspec.convert(values, Settings)


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a process with these environment variables runs with.

    ``PYTORCH_CUDA_ALLOC_CONF`` counts before ``PYTORCH_ALLOC_CONF`` (the order in which
    ``CUDAAllocatorConfig::instance`` asks for them). Raises MemwbError as ``settings_from`` does,
    with the name of the variable, and also where it allows a part of the memory only: a prediction
    has the memory that a plan needs, not what it makes of less. Without that,
    ``garbage_collection_threshold`` has no effect.
    """
    name = variable_of(environment)
    if not name:
        return Settings()
    try:
        found = settings_from(environment[name])
    except MemwbError as error:
        raise MemwbError(error.title, f"{name}: {error.what}", error.fix) from None
    if found.memory_fraction < 1:
        raise MemwbError(
            f"{name} sets what cannot be predicted",
            f"per_process_memory_fraction:{found.memory_fraction:g} is a limit of the process's "
            "own, and a prediction has none: it is compared with whole GPUs",
            f"Take it out of {name}.",
        )
    return found


def variable_of(environment: Mapping[str, str]) -> str:
    """The variable that sets up the allocator, or nothing."""
    return next((name for name in _VARIABLES if name in environment), "")


def rounded(size: int, settings: Settings) -> int:
    """The bytes of the block for a request of ``size`` > 0 (``round_size``).

    A multiple of 512; with ``roundup_power2_divisions`` a large request is rounded up to the
    next of so many steps between two powers of two (``roundup_power2_next_division``).
    """
    if size < MIN_BLOCK:
        return MIN_BLOCK
    if settings.roundup_power2_divisions:
        power = size.bit_length() - 1
        interval = min(max(power - _FIRST_INTERVAL, 0), _INTERVALS - 1)
        divisions = settings.roundup_power2_divisions[interval]
        if divisions > 1 and size > MIN_BLOCK * divisions:
            step = (1 << power) // divisions
            return -(-size // step) * step
    return -(-size // MIN_BLOCK) * MIN_BLOCK


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values; commas inside brackets do not part them, and spaces do not count."""
    part, depth = "", 0
    # The last comma may be there or not, as for torch.
    for letter in "".join(text.split()).removesuffix(",") + ",":
        if letter == "," and depth == 0:
            key, colon, value = part.partition(":")
            if key and not (colon and value):
                raise _wrong(key, value, "a key, a colon and a value, as key:value")
            if not key and (part or text.strip()):
                raise MemwbError(
                    "The allocator's settings cannot be read",
                    f"{text!r} has a part without a key",
                    "Write key:value, parted by commas.",
                )
            if key:
                yield key, value
            part = ""
            continue
        depth += (letter == "[") - (letter == "]")
        part += letter
    if depth or part:
        raise MemwbError(
            "The allocator's settings cannot be read",
            f"{text!r} has a bracket without its other half",
            "Write lists as key:[value,value].",
        )


def _wrong(key: str, value: str, expected: str) -> MemwbError:
    return MemwbError(
        f"The allocator's setting {key} is wrong", f"{value!r}: expected {expected}", "Change it."
    )


def _not_modelled(key: str, value: str, instead: str) -> MemwbError:
    return MemwbError(
        "This setting of the allocator cannot be predicted",
        f"{key}:{value} changes what memory is held in a way that memwb does not model",
        f"Use {instead}.",
    )


def _boolean(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise _wrong(key, value, "True or False")
    return value == "True"


def _number(key: str, value: str, expected: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise _wrong(key, value, expected)
    return int(value)


def _megabytes(key: str, value: str, *, least: int = 0, above: int = -1) -> int:
    expected = f"an integer > {above}" if above >= 0 else f"an integer ≥ {least}"
    number = _number(key, value, expected)
    if number < least or number <= above:
        raise _wrong(key, value, expected)
    return number * MIB


def _fraction(key: str, value: str, *, closed: bool) -> float:
    expected = "a number from 0 to 1" if closed else "a number between 0 and 1"
    try:
        number = float(value)
    except ValueError:
        raise _wrong(key, value, expected) from None
    if not (0 <= number <= 1 if closed else 0 < number < 1):
        raise _wrong(key, value, expected)
    return number


def _divisions(key: str, value: str) -> tuple[int, ...]:
    """One number for all sizes, or a list as ``[64:8,256:4,>:1]`` (boundaries in MiB).

    A boundary's divisions hold from that power of two up to the next; the first one's also below
    it, and ``>`` for all powers above the last (``parseRoundUpPower2Divisions``).
    """
    power = "a power of 2"
    if not value.startswith("["):
        divisions = _number(key, value, power)
        if divisions.bit_count() != 1:
            raise _wrong(key, value, power)
        return (divisions,) * _INTERVALS
    found = [0] * _INTERVALS
    last = None
    for entry in filter(None, value[1:-1].split(",")):
        boundary, _, number = entry.partition(":")
        divisions = _number(key, number, f"{power}, or 0, in {entry!r}")
        if divisions.bit_count() > 1:
            raise _wrong(key, entry, f"{power}, or 0")
        if boundary == ">":
            begin = 0 if last is None else last
            found[begin + 1 :] = [divisions] * (_INTERVALS - begin - 1)
            continue
        size = _number(key, boundary, f"{power} of MiB before the colon in {entry!r}")
        if size.bit_count() != 1:
            raise _wrong(key, entry, f"{power} of MiB before the colon")
        place = min(size.bit_length() - 1, _INTERVALS - 1)
        if last is None:
            found[:place] = [divisions] * place
        found[place] = divisions
        last = place
    return tuple(found)
