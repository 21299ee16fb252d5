"""The history in another order, and what of it contains a text: one way for every surface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.technique import techniques

if TYPE_CHECKING:
    from memwb.engine.runs import Summary


class Order(NamedTuple):
    """One thing that runs are sorted by."""

    name: str
    key: Callable[[Summary], float | str | tuple[str, int] | None]
    """None where a run has no such figure: it comes last, whichever way."""
    down: bool
    """Whether the largest comes first unless it is turned: what one looks for is at the top."""
    says: str
    """How it is sorted, in words; then how it is when turned."""
    turned: str


def _loss(run: Summary) -> float | None:
    """The final loss; None where it is no number."""
    return run.losses[-1] if run.losses and math.isfinite(run.losses[-1]) else None


COMPARABLE = ("done", "oom")
"""Outcomes of runs whose peak says something of their plan: it was reached, or was too much."""


def whole_peak(run: Summary) -> int | None:
    """The bytes of a run's peak; None of one that was cut short, perhaps before its peak."""
    return run.peak.allocated if run.peak is not None and run.outcome in COMPARABLE else None


def at_least(run: Summary) -> str:
    """The mark before a peak that is only the most until the run was cut short."""
    return "≥" if run.peak is not None and whole_peak(run) is None else ""


ORDERS = {
    order.name: order
    for order in (
        Order("time", lambda run: (run.created, run.run), True, "newest first", "oldest first"),
        Order(
            "peak",
            whole_peak,
            False,
            "smallest peak first",
            "largest peak first",
        ),
        Order("speed", lambda run: run.tokens_per_second, True, "fastest first", "slowest first"),
        Order("loss", _loss, False, "lowest final loss first", "highest final loss first"),
        Order("name", lambda run: run.name.casefold() or None, False, "name A–Z", "name Z–A"),
        Order("model", lambda run: run.model.casefold() or None, False, "model A–Z", "model Z–A"),
        Order("outcome", lambda run: run.outcome, False, "outcome A–Z", "outcome Z–A"),
    )
}
"""By name; the first is how a history begins."""


def order_named(name: str) -> Order:
    """The order of that name. Raises MemwbError when there is none."""
    if name not in ORDERS:
        raise MemwbError(
            f"Runs cannot be sorted by {name!r}",
            nearest(name, ORDERS),
            f"Sort by {', '.join(ORDERS)}.",
        )
    return ORDERS[name]


def sorted_runs(runs: Sequence[Summary], name: str, turned: bool = False) -> list[Summary]:
    """The runs in an order; equal ones stay as they were, those without the figure come last."""
    order = ORDERS.get(name, ORDERS["time"])
    known = [(order.key(run), run) for run in runs]
    having = [pair for pair in known if pair[0] is not None]
    # Python's own sort keeps equal ones in their order, reversed too.
    having.sort(key=lambda pair: pair[0], reverse=order.down != turned)  # type: ignore[arg-type, return-value]
    return [run for _, run in having] + [run for key, run in known if key is None]


def matching(
    runs: Sequence[Summary], text: str, called: Mapping[str, tuple[str, str]] | None = None
) -> list[Summary]:
    """The runs that contain every word of a text, in whatever a list or a note says of them.

    ``called`` is what they are called by their plans, as ``library.called`` tells it.
    """
    words = text.casefold().split()
    if not words:
        return [*runs]
    told = [_words(run, (called or {}).get(run.folder, ())) for run in runs]
    return [run for run, text in zip(runs, told, strict=True) if all(w in text for w in words)]


def _words(run: Summary, called: Sequence[str]) -> str:
    known = techniques()
    titles = [known[name].title for name in run.techniques if name in known]
    said = (
        f"#{run.run}",
        run.name,
        run.model,
        run.weights,
        run.device,
        run.device_name,
        run.outcome,
        run.created,
        "pinned" if run.pinned else "",
        run.note,
        *run.techniques,
        *titles,
        *called,
    )
    return "\n".join(said).casefold()
