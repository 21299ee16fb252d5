"""The largest tensors at a peak, predicted beside measured: those of a kind in one line.

Both are told in the same words, so that what is alike can stand side by side. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from textual.content import Content

from memwb.engine.memory import CATEGORIES, Alive, Large
from memwb.engine.prediction import Prediction
from memwb.workbench.charts.palette import LETTERS
from memwb.workbench.panels.forecast import MUTED, OLD, SMALL, module_of, wrapped
from memwb.workbench.trace import Trace
from memwb.workbench.units import gib, name

WIDE = 110
"""Columns from which a tensor has one line, with operator and module beside each other."""
OPERATOR = 20
"""Columns of an operator at most: the module says more, and an attention kernel's name is long."""
SIZE = 10
CATEGORY = 14

Kind = tuple[str, str, str, tuple[int, ...], str]


class Pair(NamedTuple):
    """Tensors that are alike, predicted and measured. Bytes; None where a list has none."""

    large: Large
    predicted: int | None
    measured: int | None

    @property
    def most(self) -> int:
        """The larger of both."""
        return max(self.predicted or 0, self.measured or 0)


def paired(predicted: Sequence[Large], measured: Sequence[Large]) -> list[Pair]:
    """The kinds of tensors of both lists, the largest first."""
    here = {_kind(large): large for large in measured}
    there = {_kind(large): large for large in predicted}
    found = []
    for kind, large in (there | here).items():
        sizes = [each[kind].bytes if kind in each else None for each in (there, here)]
        found.append(Pair(large, *sizes))
    return sorted(found, key=lambda pair: -pair.most)


def _kind(large: Large) -> Kind:
    return (large.category, large.module, large.op, large.shape, large.dtype)


def tensors(
    result: Prediction | None,
    alive: Alive | None,
    head: str,
    width: int,
    colours: Mapping[str, str],
    old: bool = False,
) -> list[Content]:
    """The table under its heading. ``old`` says that the prediction is of an earlier plan."""
    rows = paired(result.largest if result else (), alive.largest if alive else ())
    if not rows:
        return []
    return [_head(head), *listed(rows, result, alive, width, colours, old)]


def heading(result: Prediction | None, whose: str, alive: Alive | None, label: str) -> str:
    """What is listed: ``whose`` is the plan that was predicted, ``label`` the run."""
    parts = [f"predicted of {whose}"] if result is not None else []
    if alive is not None:
        what = "alive as memory ran out" if alive.asked is not None else "measured"
        parts.append(f"{what} in {label or 'the run'}")
    return f"Largest tensors: {' | '.join(parts)}"


def missing(trace: Trace | None, width: int) -> list[Content]:
    """Why no tensors of the run that is shown are listed."""
    if trace is None or trace.started is None:
        return []
    label = trace.label or "The run"
    if trace.ended is None:
        said = f"{label} tells what was alive at its peak when it is over."
    else:
        said = f"{label}: what was alive at its peak was not recorded."
    return wrapped(said, width, MUTED)


def request(alive: Alive | None, width: int) -> list[Content]:
    """The allocation that failed, where one did."""
    if alive is None or alive.asked is None:
        return []
    asked = alive.asked
    shape = "×".join(map(str, asked.shape))
    what = f" for {SMALL.get(asked.dtype, asked.dtype)} {shape}" if shape else ""
    where = f" in {module_of(asked)}" if asked.module else ""
    size = gib(asked.bytes) if asked.bytes else "more"
    said = f"Memory ran out as {_op(asked) or 'something'}{where} asked for {size}{what}."
    return wrapped(said, width, "$text-error")


def listed(
    rows: Sequence[Pair],
    result: Prediction | None,
    alive: Alive | None,
    width: int,
    colours: Mapping[str, str],
    old: bool = False,
) -> list[Content]:
    """Bytes predicted and measured, category, shape, dtype, operator, module; narrow, in two
    lines each. Then what is beside the largest, and the sum."""
    wide = width >= WIDE
    shapes = [_shape(pair.large) for pair in rows]
    ops = [_op(pair.large) or "–" for pair in rows]
    if wide:
        ops = [op if len(op) <= OPERATOR else f"{op[: OPERATOR - 1]}…" for op in ops]
    room, op_room = max(5, *map(len, shapes)), max(8, *map(len, ops))
    heads = [(result, "predicted"), (alive, "measured")]
    sizes = "  ".join(f"{title:>{SIZE}}" for side, title in heads if side is not None)
    titles = f"{sizes}  {'category':<{CATEGORY}}  {'shape':<{room}}  {'dtype':<8}"
    titles += f"  {'operator':<{op_room}}  module" if wide else ""
    lines = [Content.styled(titles, MUTED)]
    cut = (bool(result and others_of(result)), bool(alive and alive.others))
    for pair, shape, op in zip(rows, shapes, ops, strict=True):
        module = module_of(pair.large) or "–"
        cells = _cells(pair.predicted, pair.measured, result, alive, cut, old)
        line = Content.assemble(
            cells,
            "  ",
            _category(pair.large.category, colours),
            f"  {shape:<{room}}  ",
            (f"{SMALL.get(pair.large.dtype, pair.large.dtype):<8}", MUTED),
        )
        if wide:
            left = max(8, width - line.cell_length - op_room - 4)
            line = Content.assemble(line, (f"  {op:<{op_room}}", MUTED), f"  {name(module, left)}")
        lines.append(line.truncate(max(20, width), ellipsis=True))
        if not wide:
            below = Content.assemble(" " * (cells.cell_length + 4), module, (f"  {op}", MUTED))
            lines.append(below.truncate(max(20, width), ellipsis=True))
    return lines + _sums(result, alive, width, old)


def others_of(result: Prediction) -> int:
    """What a prediction has beside its largest tensors, with what a GPU's allocator adds."""
    return result.peak.allocated - sum(large.bytes for large in result.largest)


def _sums(result: Prediction | None, alive: Alive | None, width: int, old: bool) -> list[Content]:
    """What is beside the largest tensors, and what all of it adds up to."""
    told: list[tuple[int | None, int | None, str]] = []
    told.append(
        (
            others_of(result) if result is not None else None,
            alive.others if alive is not None else None,
            "others" + (f" ({alive.more:,} tensors measured)" if alive and alive.more else ""),
        )
    )
    if alive is not None and alive.unexplained:
        words = "no tensor's: what the allocator rounds up, workspaces of libraries"
        told.append((None, alive.unexplained, words))
    allocated = (
        result.peak.allocated if result is not None else None,
        alive.allocated if alive is not None else None,
    )
    told.append((*allocated, "allocated"))
    return [
        Content.assemble(
            _cells(predicted, measured, result, alive, (False, False), old, at == len(told) - 1),
            (f"  {words}", MUTED),
        ).truncate(max(20, width), ellipsis=True)
        for at, (predicted, measured, words) in enumerate(told)
    ]


def _cells(
    predicted: int | None,
    measured: int | None,
    result: Prediction | None,
    alive: Alive | None,
    cut: tuple[bool, bool],
    old: bool,
    bold: bool = True,
) -> Content:
    """The bytes of a line: a dash where there are none, dots where they may be among the others."""
    parts: list[Content] = []
    for size, side, shortened, look in (
        (predicted, result, cut[0], OLD if old else ""),
        (measured, alive, cut[1], "bold" if bold else ""),
    ):
        if side is None:
            continue
        text = gib(size) if size is not None else "…" if shortened else "–"
        parts += [Content("  ")] if parts else []
        parts.append(Content.styled(f"{text:>{SIZE}}", look if size is not None else MUTED))
    return Content.assemble(*parts)


def _category(category: str, colours: Mapping[str, str]) -> Content:
    letter = LETTERS[CATEGORIES.index(category)] if category in CATEGORIES else " "
    return Content.assemble(
        (letter, f"bold {colours.get(category, '')}".strip()), f" {category:<{CATEGORY - 2}}"
    )


def _shape(large: Large) -> str:
    times = f"{large.count} × " if large.count > 1 else ""
    return times + "×".join(map(str, large.shape))


def _op(large: Large) -> str:
    return large.op.removeprefix("aten.")


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")
