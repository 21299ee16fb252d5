"""What a run on the meta device does to memory, as it is noted: fast, and by columns.

It is to the meter of such a run what a trace is to the others, and finds the same categories, by
the same rules (see trainer/trace.py); but nobody looks at it while the run lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from memwb.engine.predict.stream import Birth, Columns, Stream
from memwb.engine.trainer.alive import Origin
from memwb.engine.trainer.trace import ACTIVATIONS, MARK, TEMPORARY, WEIGHTS, kept_for_backward


class Record:
    """Changes of storages and begins of phases, in order.

    Whoever notes a change appends to ``storages`` and ``changes`` both: the lists hold numbers
    alone, which Python's collector need not look at.
    """

    def __init__(self) -> None:
        self.storages: list[int] = []
        self.changes: list[int] = []
        self._marks: list[tuple[int, int, str]] = []
        """Where each phase begins, and its step and name."""
        self._labels: dict[int, int] = {}
        self._categories: dict[int, int] = {}
        self._settled = 0
        self._phase = "load"
        """The one that ran when the last span was over."""

    def mark(self, step: int, phase: str) -> None:
        """From now on changes belong to this step and phase."""
        self._marks.append((len(self.storages), step, phase))
        self.storages.append(MARK)
        self.changes.append(0)

    def label(self, storage: int, category: int) -> None:
        """What a living storage turned out to be; the first label counts, but weights always."""
        if category == WEIGHTS:
            self._labels[storage] = category
        else:
            self._labels.setdefault(storage, category)

    def settle(self) -> None:
        """The span is over: its categories hold from here on.

        What is labelled later (a gradient made in step 1 is seen in step 2) keeps its first label.
        """
        first, self._settled = self._settled, len(self.storages)
        begins = [mark for mark in self._marks if mark[0] >= first]
        phases: list[str] = []
        for (at, _, phase), (end, _, _) in pairwise(
            [(first, 0, self._phase), *begins, (self._settled, 0, "")]
        ):
            phases += [phase] * (end - at)
        if begins:
            self._phase = begins[-1][2]
        moments = zip(phases, self.storages[first:], self.changes[first:], strict=True)
        for storage in kept_for_backward(moments, set(self.storages[:first]), self._phase):
            self._labels.setdefault(storage, ACTIVATIONS)
        self._categories = {**self._labels, **self._categories}

    def stream(self, births: Mapping[int, Origin], titles: Mapping[int, str]) -> Stream:
        """Everything that was noted; ``titles`` are better names than those of modules."""
        # What never had a byte is nothing in particular.
        counted = set(self.storages)
        found = {}
        for storage, (module, op, shape, dtype) in births.items():
            known = self._categories.get(storage, TEMPORARY)
            category = known if storage in counted else TEMPORARY
            found[storage] = Birth(category, titles.get(storage, module), op, shape, dtype)
        names = tuple(dict.fromkeys(phase for _, _, phase in self._marks))
        begins = [at for at, _, _ in self._marks]
        lengths = np.diff(begins, append=len(self.storages))
        columns = Columns(
            np.repeat(np.array([step for _, step, _ in self._marks], np.int64), lengths),
            np.repeat(np.array([names.index(p) for _, _, p in self._marks], np.int64), lengths),
            np.array(self.storages, np.int64),
            np.array(self.changes, np.int64),
            names,
        )
        return Stream(columns, found)
