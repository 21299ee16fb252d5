"""A checkpoint read in a pretended run: transformers' own loading, over what file headers tell.

Names, shapes and types stand in the headers of safetensors files, and that is all that decides what
loading allocates. So ``from_pretrained`` runs as it is: it renames, casts, merges experts,
quantizes, ties, and fills what is missing, and what it makes is counted as in the rest of a
prediction. What differs is what reads: a tensor has no values, and the bytes that it would be
mapped to are taken note of.

Source: safetensors 0.4 to 0.8 (``PySafeSlice``), and ``modeling_utils.py`` and
``core_model_loading.py`` of transformers 5.17 to 5.23.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from memwb.engine.checkpoint import header
from memwb.engine.predict.meter import MetaMeter
from memwb.engine.predict.places import Place

_INDEX = re.compile(r"((?:[^.]*\.)*?)(\d+)\.")
"""The first whole number of a tensor's name, and what stands before it."""


@contextlib.contextmanager
def reading(
    files: Sequence[Path], meter: MetaMeter, host: Place, layers: int, few: int
) -> Iterator[None]:
    """Have transformers load from the headers of these files while this lasts.

    ``host`` is where what is read lies. Of the ``layers`` that the files hold the first ``few`` are
    there.
    """
    from transformers import core_model_loading, modeling_utils

    beyond = deeper((name for file in files for name in header(file)), layers, few)

    def opened(file: Any, *_: Any, **__: Any) -> _Opened:
        entries = {name: one for name, one in header(Path(file)).items() if name not in beyond}
        return _Opened(entries, meter, host)

    with contextlib.ExitStack() as stack:
        for module, name, value in (
            (modeling_utils, "safe_open", opened),
            (core_model_loading, "ThreadPoolExecutor", _AtOnce),
            (core_model_loading, "tqdm", lambda rows, **_: rows),
            (torch, "equal", _alike),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def deeper(names: Iterable[str], layers: int, few: int) -> frozenset[str]:
    """The names of tensors of all layers but the first ``few``.

    Empty where it is not clear which are layers: then transformers takes them for such as no one
    asked for, and does not read them either, after having looked at each name for long.
    """
    lists: defaultdict[str, defaultdict[int, list[str]]]
    lists = defaultdict(lambda: defaultdict(list))
    for name in names:
        found = _INDEX.match(name)
        if found:
            lists[found[1]][int(found[2])].append(name)
    whole = [one for one in lists.values() if one.keys() >= set(range(layers))]
    if len(whole) != 1:
        return frozenset()
    return frozenset(name for at, names in whole[0].items() if at >= few for name in names)


class _Opened:
    """What ``safe_open`` gives, as far as loading asks for it."""

    def __init__(self, entries: dict[str, Any], meter: MetaMeter, host: Place) -> None:
        self._entries, self._meter, self._host = entries, meter, host

    def keys(self) -> list[str]:
        return list(self._entries)

    def metadata(self) -> dict[str, str]:
        return {"format": "pt"}

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self._entries[name], self._meter, self._host)

    def get_tensor(self, name: str) -> torch.Tensor:
        return self.get_slice(name)[...]

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class _Slice:
    """A tensor that has not been read yet."""

    def __init__(self, entry: dict[str, Any], meter: MetaMeter, host: Place) -> None:
        self._entry, self._meter, self._host = entry, meter, host

    def get_shape(self) -> list[int]:
        return list(self._entry["shape"])

    def get_dtype(self) -> str:
        return str(self._entry["dtype"])

    def __getitem__(self, index: Any) -> torch.Tensor:
        """The part that is asked for. All of the tensor's bytes are mapped for it, each time anew,
        to a storage of their own."""
        from transformers.modeling_utils import str_to_torch_dtype

        shape, dtype, meter = self.get_shape(), str_to_torch_dtype[self.get_dtype()], self._meter
        with torch._C.DisableTorchFunction():
            meter.paused, before = True, meter.paused
            mapped = torch.empty(
                math.prod(shape) * dtype.itemsize, dtype=torch.uint8, device="meta"
            )
            meter.paused = before
            # By that operator safetensors gives a tensor the file's bytes.
            meter.see(mapped, self._host, "aten.set_")
        part: torch.Tensor = mapped.view(dtype).view(shape)[index]
        return part


class _AtOnce:
    """In place of the pool of threads that read and cast: one thread that is always done in time.

    On a machine a few threads are at work at the same time, and each holds what it casts beside
    what it makes of it: with each thread more, one tensor more of those that are cast.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        """However many threads are asked for."""

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(job(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing is under way."""


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tied weights that are stored twice are taken to be equal: transformers asks, then ties."""
    return one.shape == other.shape
