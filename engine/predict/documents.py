"""The documents of a pretended run: made by the script's own functions, with its own tokenizer.

How many tokens a document has decides how wide rows are (or how many there are), and on a CPU what
the table of all tokens takes. Only full rows of a GPU's run are the same whatever they hold.
"""

from __future__ import annotations

import argparse
import functools
import os
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from memwb.engine.catalog import Model, local_tokenizer
from memwb.engine.plan import Plan, active
from memwb.engine.trainer.burst import TRACED

MOST_KEPT = 1 << 24
"""Up to so many tokens are kept for the next run, which mostly is of the same documents."""

Read = Callable[[argparse.Namespace, Any, int], Iterator["array[int]"]]
State = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of files."""


class Rows(NamedTuple):
    """How a plan's rows come about in a prediction."""

    alike: bool
    """All are full, and nothing else of the data is on the target."""
    tokenizer: Any
    """None where tokens are bytes."""
    missing: str
    """The tokenizer that would be needed and is not on this machine."""
    known_by: State
    """The files of the tokenizer."""


def rows_of(plan: Plan, model: Model, kind: str, trust_remote_code: bool) -> Rows:
    """What to make the rows of a plan with, for a target of that kind; touches no network.

    To be asked before anything is pretended. Raises what loading the tokenizer raises.
    """
    if not model.tokenizer or alike(plan, kind):
        return Rows(alike(plan, kind), None, "", ())
    files = local_tokenizer(model)
    if not files:
        return Rows(False, None, model.tokenizer, ())
    state = tuple(_state(str(file)) for file in files)
    return Rows(False, _loaded(str(files[0].parent), state, trust_remote_code), "", state)


def alike(plan: Plan, kind: str) -> bool:
    """Whether every row is full, and the table of their tokens is not on the target."""
    return "concatenation" in active(plan) and kind != "cpu"


@functools.lru_cache(maxsize=1)
def _loaded(folder: str, state: State, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code
    )


def instead(rows: Rows) -> dict[str, Callable[..., Any]]:
    """What is other in the script: the tokenizer is there already, documents are kept."""

    def load_tokenizer(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda args: rows.tokenizer

    def read_tokens(original: Read) -> Read:
        def read(args: argparse.Namespace, tokenizer: Any, vocabulary: int) -> Iterator[array[int]]:
            key = (args.data, _state(args.data), args.text_field, rows.known_by, vocabulary)
            return _read(key, lambda: original(args, tokenizer, vocabulary))

        return read

    def batches(original: Callable[..., Any]) -> Callable[..., Any]:
        def few(args: argparse.Namespace, *rest: Any, **parameters: Any) -> Any:
            steps = min(args.steps, TRACED)
            return original(
                argparse.Namespace(**{**vars(args), "steps": steps}), *rest, **parameters
            )

        return few if rows.alike else original

    return {"load_tokenizer": load_tokenizer, "read_tokens": read_tokens, "batches": batches}


class _Kept:
    """The documents that were read last, from the first on."""

    def __init__(self, key: object) -> None:
        self.key = key
        self.documents: list[array[int]] = []
        self.tokens = 0
        self.whole = False


_kept = _Kept(None)


def _read(key: object, again: Callable[[], Iterator[array[int]]]) -> Iterator[array[int]]:
    """The documents, those that are kept first; where more are wanted they are read anew."""
    global _kept
    kept = _kept if _kept.key == key else _Kept(key)
    _kept = kept
    yield from kept.documents
    if kept.whole:
        return
    for number, document in enumerate(again()):
        if number < len(kept.documents):
            continue
        if kept.tokens + len(document) <= MOST_KEPT:
            kept.documents.append(document)
            kept.tokens += len(document)
        elif _kept is kept:
            # There is a gap from here on.
            _kept = _Kept(None)
        yield document
    kept.whole = True


def _state(name: str) -> tuple[str, int, int]:
    """What changes when a file does."""
    try:
        found = os.stat(os.path.expanduser(name))
    except OSError:
        return name, 0, 0
    return name, found.st_size, found.st_mtime_ns
