"""What the screen of the peak says: figures with bars, and the gaps in words.

Pure functions of what was predicted and what was measured. The tensors: see ``peak_tensors``.
"""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from memwb.engine.prediction import Prediction
from memwb.engine.protocol import CATEGORIES, Alive, Peak
from memwb.workbench.charts.palette import LETTERS
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.forecast import (
    MUTED,
    OLD,
    TOTALS,
    measured,
    state_words,
    untold,
    value,
    wrapped,
)
from memwb.workbench.screens.peak_tensors import request
from memwb.workbench.trace import Trace
from memwb.workbench.units import gib

LABEL = 13
FIGURE = 10
BAR = 30
FEWEST = 6
"""Columns of the shortest bar."""


def figures(
    outlook: Outlook,
    trace: Trace | None,
    width: int,
    colours: Mapping[str, str],
    mark: str = "",
) -> list[Content]:
    """A line for each category and total: predicted, measured, one by the other, and bars.

    The mark stands before figures of an earlier plan, where colours cannot tell.
    """
    result = outlook.result
    first = result.peak if result is not None else None
    second = trace.peak if trace is not None else None
    who = measured(trace) if second is not None else "measured"
    # Where there is no room for the device, the model tells more than a part of it.
    who = who if len(who) <= FIGURE + 10 else who.rpartition(",")[0]
    heads = [
        f"{'':<{LABEL}}{'predicted':>{FIGURE}}  ",
        f"{'':>5}  ",
        f"{who:<{FIGURE + 11}.{FIGURE + 10}}",
    ]
    # One by the other says something only where both are of one plan.
    done = trace is not None and trace.ended is not None and trace.ended.outcome == "done"
    own = done and first is not None and trace is not None and trace.predicted == first
    whole = max((peak.allocated for peak in (first, second) if peak is not None), default=0)
    room = min(BAR, (width - LABEL - 2 * FIGURE - 24) // 2)
    if room >= FEWEST:
        bars = ("predicted", "measured") if room > len("predicted") else ("pred.", "meas.")
        heads += [f"{bars[0]:<{room}}  {bars[1]}"]
    lines = [Content.styled("".join(heads), MUTED)]
    look = OLD if not outlook.current else ""
    for key in (*CATEGORIES, *TOTALS):
        told = gib(value(first, key)) if first and not untold(first, key) else "–"
        found = gib(value(second, key)) if second else "–"
        # Beside what it is a share of.
        share = _share(first, key)
        after = _share(second, key) if first is None else _ratio(first, second, key) if own else ""
        bold = "bold" if key == "allocated" else ""
        letter = LETTERS[CATEGORIES.index(key)] if key in CATEGORIES else ""
        parts: list[tuple[str, str] | Content | str] = [
            (f"{letter} ", f"bold {colours.get(key, '')}".strip()) if letter else "",
            (f"{key:<{LABEL - 2 * bool(letter)}}", MUTED),
            (f"{mark if look else ''}{told}".rjust(FIGURE) + "  ", look or bold),
            (f"{share:>5}  ", MUTED),
            (f"{found:>{FIGURE}}  ", bold),
            (f"{after:<9}", MUTED),
        ]
        if key in CATEGORIES and room >= FEWEST:
            look_of = colours.get(key, "")
            parts += [_bar(first, key, whole, room, look_of), "  "]
            parts += [_bar(second, key, whole, room, look_of)]
        lines.append(Content.assemble(*parts))
        if key == CATEGORIES[-1]:
            lines.append(Content())
    where = [
        f"predicted {first.phase}, {_step(result)}, for {result.target}"
        if first and result
        else "",
        f"measured {second.phase or 'in an untraced step'}" if second else "",
    ]
    lines.append(Content.styled("peak         " + " · ".join(filter(None, where)), MUTED))
    if said := state_words(outlook):
        lines += wrapped(said, width, "$text-warning")
    return lines


def _share(peak: Peak | None, key: str) -> str:
    if peak is None or key not in CATEGORIES:
        return ""
    return f"{value(peak, key) / max(1, peak.allocated):>5.0%}"


def _ratio(predicted: Peak | None, found: Peak | None, key: str) -> str:
    if predicted is None or found is None or untold(predicted, key):
        return ""
    before = value(predicted, key)
    return f"{value(found, key) / before:.3f} ×" if before else ""


def _bar(peak: Peak | None, key: str, whole: int, room: int, colour: str) -> Content:
    if peak is None or not whole:
        return Content(" " * room)
    filled = round(value(peak, key) / whole * room)
    return Content.assemble(("━" * filled, colour), ("─" * (room - filled), "$foreground 15%"))


def _step(result: Prediction) -> str:
    return f"step {result.step}" if result.step else "while loading"


def gaps(outlook: Outlook, trace: Trace | None, width: int) -> list[Content]:
    """Where the peak is and what lies between the totals, in words: predicted, then measured."""
    found: list[Content] = []
    result = outlook.result
    if result is not None:
        found += [Content(), _head("Predicted")]
        look = "" if outlook.current else OLD
        found += [line for text in result.words for line in wrapped(text, width, look)]
    peak = trace.peak if trace is not None else None
    if peak is not None and trace is not None:
        found += [Content(), _head(f"Measured, {trace.label}".rstrip(", "))]
        alive = alive_of(trace)
        words = [*alive.words, *gap_words(peak, trace)[1:]] if alive else gap_words(peak, trace)
        found += request(alive, width)
        found += [line for text in words for line in wrapped(text, width)]
    return found


def alive_of(trace: Trace | None) -> Alive | None:
    """What a run had alive at its peak; None while it goes on, and of a run that did not record."""
    return trace.ended.alive if trace is not None and trace.ended is not None else None


def gap_words(peak: Peak, trace: Trace) -> list[str]:
    """What lies between the totals of a run, as sentences."""
    kind = trace.device.kind if trace.device is not None else ""
    sizes = {name: value(peak, name) for name in CATEGORIES}
    most = max(sizes, key=lambda name: sizes[name])
    share = sizes[most] / max(1, peak.allocated)
    words = [f"Most of it is {most}: {gib(sizes[most])}, {share:.0%} of what is allocated."]
    held, used = peak.reserved - peak.allocated, peak.device - peak.reserved
    if kind == "cpu":
        words.append("On a CPU nothing is held beyond what is allocated.")
        if used > 0:
            words.append(
                f"The burst's process took {gib(used)} beside its tensors: Python, torch and its "
                "libraries, and what malloc keeps."
            )
        return words
    if held > 0:
        part = held / max(1, peak.allocated)
        words.append(
            f"The allocator held {gib(held)} more ({part:.0%}): freed blocks it keeps for the "
            "next allocation, and what is left over between blocks."
        )
    if used > 0:
        words.append(
            f"The driver counted {gib(used)} beyond that: the CUDA context, loaded kernels and "
            "what libraries allocate for themselves."
        )
    return words


def notes(outlook: Outlook, width: int) -> list[Content]:
    """What was assumed, and what the prediction does not know."""
    result = outlook.result
    if result is None or not result.notes:
        return []
    return [
        Content(),
        _head("Notes"),
        *(line for text in result.notes for line in wrapped(text, width, MUTED)),
    ]


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")
