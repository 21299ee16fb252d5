"""When it is worth saying how many positions train nothing."""

from __future__ import annotations

from collections.abc import Iterable

from memwb.engine.technique import OTHER_ROWS, group_of, techniques
from memwb.workbench.units import padding


def waste(share: float | None, named: Iterable[str]) -> str:
    """The padding of a run with these techniques; empty where it is none, and none was to expect.

    Rows that are cut out of a stream of text have none. Where documents are kept whole, none at
    all is news.
    """
    return padding(share) if share or any(map(_keeps_documents, named)) else ""


def _keeps_documents(name: str) -> bool:
    technique = techniques().get(name)
    if technique is None or technique.exact:
        return False
    return group_of(technique.group).instead == OTHER_ROWS
