"""What is predicted, in words and figures: pure functions from an outlook to text and spans."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from textual.content import Content

from memwb.engine.prediction import Change, Fit, Large, Prediction
from memwb.engine.protocol import CATEGORIES, Device, Peak
from memwb.engine.technique import techniques
from memwb.workbench import outlook as outlooks
from memwb.workbench.charts.scale import byte_unit, figure
from memwb.workbench.foresight import capacity_of, exceeds, need
from memwb.workbench.outlook import Outlook, ratio
from memwb.workbench.panels.rows import Spans
from memwb.workbench.trace import Trace
from memwb.workbench.units import delta, gib

MUTED = "$foreground 60%"
OLD = "$foreground 45%"
"""Figures of an earlier plan."""
LABEL = 12
FIT = 57
"""Columns of one GPU in the fit list."""
TOTALS = ("allocated", "reserved", "device")
SHORT = {"allocated": "alloc", "reserved": "resv", "gradients": "grads", "optimizer": "optim"}
SHORT |= {"activations": "activ", "temporary": "temp"}
MARKS = {"fits": "✓", "tight": "!", "exceeds": "✗"}
LOOKS = {"fits": "$text-success", "tight": "$text-warning", "exceeds": "$text-error"}
SMALL = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
MOST_SAVING = 3
"""How many toggles are named that would save the most."""


# Beside the techniques of the plan.


def toggle_spans(outlook: Outlook, name: str, device: Device | None) -> Spans:
    """What toggling a technique would change of the predicted peak, for the end of its row.

    The mark after it says that the plan would fit then, or would not any more.
    """
    result, changed = outlook.result, outlook.changes.get(name)
    waits = outlook.state == outlooks.WAITING or (outlook.current and not outlook.complete)
    if not outlook.current or name not in outlook.fresh or result is None or changed is None:
        old = outlook.gaps.get(name)
        if old is not None:
            return ((f" {_gap(old)}", "old"), (" … " if waits else "   ", "muted"))
        return ((" …  ", "muted"),) if waits else ()
    if changed.peak is None:
        return ((" ?  ", "muted"),)
    gap = changed.peak.allocated - result.peak.allocated
    room = capacity_of(outlook, device)
    before, after = exceeds(result.peak, room), exceeds(changed.peak, room)
    mark, style = (" ✓ ", "on") if before and not after else ("   ", "muted")
    if after and not before:
        mark, style = " ! ", "warning"
    look = "muted" if not gap else "saves" if gap < 0 else "warning"
    return ((f" {_gap(gap)}", look), (mark, style))


def _gap(gap: int) -> str:
    return delta(gap) if gap else "±0"


def toggle_words(outlook: Outlook, name: str, device: Device | None) -> str:
    """The same in words: the peak that it would make, or why that cannot be told."""
    result, changed = outlook.result, outlook.changes.get(name)
    if not (outlook.current and name in outlook.fresh) or result is None or changed is None:
        return ""
    doing = "on" if changed.on else "off"
    if changed.peak is None:
        return f"turning it {doing} is not predicted: {changed.reason}"
    gap = changed.peak.allocated - result.peak.allocated
    room = capacity_of(outlook, device)
    before, after = exceeds(result.peak, room), exceeds(changed.peak, room)
    ends = ""
    if before != after:
        ends = ", and it would no longer fit" if after else ", and it would fit"
    return (
        f"turning it {doing} {_gap(gap)}: a peak of "
        f"{gib(changed.peak.allocated)} in {changed.peak.phase}{ends}"
    )


def savings(outlook: Outlook, capacity: int | None) -> list[str]:
    """The toggles that save the most, the best first, each as a line."""
    result = outlook.result
    if result is None or not outlook.current:
        return []
    found = [
        (need(change.peak), change)
        for name, change in outlook.changes.items()
        if name in outlook.fresh and change.peak and need(change.peak) < need(result.peak)
    ]
    found.sort(key=lambda pair: pair[0])
    return [_saving(change, result, capacity) for _, change in found[:MOST_SAVING]]


def _saving(change: Change, result: Prediction, capacity: int | None) -> str:
    assert change.peak is not None
    title = techniques()[change.technique].title
    gap = need(change.peak) - need(result.peak)
    ends = "" if exceeds(change.peak, capacity) else ", then it fits"
    return f"{title} {'on' if change.on else 'off'}: {delta(gap)}{ends}"


def doubt(outlook: Outlook, capacity: int, device: Device | None) -> tuple[str, str]:
    """The question before a run that will not fit: a title and a text."""
    assert outlook.result is not None
    wanted = need(outlook.result.peak)
    what = "this GPU" if device is not None and device.kind == "cuda" else "this machine"
    lines = [f"Predicted {gib(wanted)}, {what} has {gib(capacity)}: run anyway?"]
    if best := savings(outlook, capacity):
        lines += ["", "What would save the most:", *(f"  {each}" for each in best)]
    return "This plan will probably not fit", "\n".join(lines)


# The peak panel.


def one_line(outlook: Outlook, device: Device | None) -> str:
    """The most useful line, where there is room for one: the peak, whether it fits, and why."""
    result = outlook.result
    if result is None:
        return ""
    if outlook.state == outlooks.PROBLEMS:
        return f"predicted {gib(result.peak.allocated)} before · plan has problems"
    head = f"predicted {gib(result.peak.allocated)}"
    head += " …" if outlook.state == outlooks.WAITING else ""
    parts = [head]
    fit, room = outlooks.fit_of(result), capacity_of(outlook, device)
    if fit is not None:
        parts.append(f"{MARKS[fit.verdict]} {_verb(fit)} {fit.gpu}")
    elif room:
        parts.append("✗ exceeds this machine" if exceeds(result.peak, room) else "✓ fits here")
    return " · ".join([*parts, _brief(result)])


def _verb(fit: Fit) -> str:
    return "tight on" if fit.verdict == "tight" else fit.verdict


def _brief(result: Prediction) -> str:
    """Where the peak is, and its largest tensors."""
    where = f"peak in {result.peak.phase}"
    if not result.largest:
        return where
    first = result.largest[0]
    return f"{where}: {what(first)} {gib(first.bytes)}"


def what(large: Large) -> str:
    """Tensors in a few words: dtype, and the module or operator that made them."""
    made = large.module.rpartition(".")[2] if large.module else large.op.removeprefix("aten.")
    return f"{SMALL.get(large.dtype, large.dtype)} {made or large.category}"


def meant(outlook: Outlook) -> str:
    """For what it is predicted, as a title says it."""
    return f"predicted for {outlook.result.target}" if outlook.result else ""


def lines(
    outlook: Outlook,
    peak: Peak | None,
    width: int,
    trace: Trace | None = None,
    device: Device | None = None,
) -> Content:
    """The figures, why they are what they are, and what the plan fits: four lines or five."""
    found = table(outlook, peak, width)
    result = outlook.result
    if trace is not None and (told := against(peak, trace.predicted, trace.label)):
        found.append(Content.styled(told, MUTED).truncate(width, ellipsis=True))
    if result is not None:
        brief = _brief(result) if len(result.words) == 0 else result.words[0]
        says = state_words(outlook) if outlook.state == outlooks.PROBLEMS else ""
        said = _wrapped(brief, width, "" if outlook.current else OLD)
        if says:
            found.append(Content.styled(f"{says}; this was predicted before:", "$text-warning"))
        found += said[:1] if len(said) < 2 else [said[0], _cut(said[1:])]
        line = fits_line(result, width, outlook.current)
        found.append(line if line.plain else _here(outlook, device))
    return Content("\n").join(line for line in found if line.plain)


def _cut(rest: Sequence[Content]) -> Content:
    """The second of two lines, which says so where there were more."""
    return rest[0] + Content("…") if len(rest) > 1 else rest[0]


def _here(outlook: Outlook, device: Device | None) -> Content:
    """Whether it fits this machine, where no GPU was asked about."""
    room = capacity_of(outlook, device)
    if outlook.result is None or not room:
        return Content()
    verdict = "exceeds" if exceeds(outlook.result.peak, room) else "fits"
    line = Content.assemble(
        (f"{verdict:<{LABEL}}", MUTED),
        (MARKS[verdict], f"bold {LOOKS[verdict]}"),
        " this machine",
        (f" {gib(room)}   t predicts for a GPU", MUTED),
    )
    return line if outlook.current else _faint(line)


def state_words(outlook: Outlook) -> str:
    """Why there are no figures, or why they are old."""
    match outlook.state:
        case outlooks.PROBLEMS:
            return "plan has problems"
        case outlooks.WAITING:
            return "predicting …"
        case outlooks.FAILED if outlook.failure is not None:
            known = outlook.failure
            return ": ".join(part for part in (known.title, known.what) if part)
    return "" if outlook.result else "not yet predicted"


def table(outlook: Outlook, peak: Peak | None, width: int) -> list[Content]:
    """Predicted over measured: the totals and the categories, each in its column."""
    result = outlook.result
    peaks = [each for each in (result.peak if result else None, peak) if each is not None]
    if not peaks:
        return [
            Content.assemble((f"{'predicted':<{LABEL}}", MUTED), (state_words(outlook), MUTED)),
            Content.assemble((f"{'measured':<{LABEL}}", MUTED), ("not yet measured", MUTED)),
        ]
    unit, unit_name = byte_unit(max(each.device for each in peaks), 2**30)
    columns = _columns(width)
    head = "".join(f"{name:>{size}}" for name, _, size in columns)
    lines = [Content.styled(f"{unit_name:<{LABEL}}{head}", MUTED)]
    style = "bold" if outlook.current else OLD
    for label, each, look in (
        ("predicted", result.peak if result else None, style),
        ("measured", peak, "bold"),
    ):
        if each is None:
            said = state_words(outlook) if label == "predicted" else "not yet measured"
            lines.append(Content.assemble((f"{label:<{LABEL}}", MUTED), (said, MUTED)))
            continue
        own = label == "predicted"
        cells = [
            (f"{_cell(each, key, unit, own):>{size}}", look if key == "allocated" else "")
            for _, key, size in columns
        ]
        if label == "predicted" and not outlook.current:
            cells = [(text, OLD) for text, _ in cells]
            cells.append((f"  {_old(outlook)}", MUTED))
        lines.append(Content.assemble((f"{label:<{LABEL}}", MUTED), *cells))
    return lines


def _cell(peak: Peak, key: str, unit: int, predicted: bool) -> str:
    return "–" if predicted and _untold(peak, key) else figure(_value(peak, key) / unit)


def _untold(peak: Peak, key: str) -> bool:
    """What a process needs beside tensors is not predicted on a CPU."""
    return key == "device" and peak.device == peak.allocated


def _old(outlook: Outlook) -> str:
    return "…" if outlook.state == outlooks.WAITING else ""


def _columns(width: int) -> list[tuple[str, str, int]]:
    """Names, keys and widths of the columns that there is room for."""
    keys = (*TOTALS, *CATEGORIES)
    for names, gap in (({}, 3), (SHORT, 2), (SHORT, 1)):
        found = [(names.get(key, key), key) for key in keys]
        sized = [(name, key, max(5, len(name)) + gap) for name, key in found]
        if LABEL + sum(size for *_, size in sized) + 3 <= width:
            return sized
    return [(key, key, max(9, len(key)) + 2) for key in TOTALS]


def _value(peak: Peak, key: str) -> int:
    return int(getattr(peak if key in TOTALS else peak.categories, key))


def against(peak: Peak | None, predicted: Peak | None, label: str) -> str:
    """A measured run held against what had been predicted of it; empty where nothing had."""
    if peak is None or predicted is None:
        return ""
    # On a CPU nothing is told of the others: they are what is allocated.
    rest = ", ".join(
        f"{name} {getattr(peak, name) / getattr(predicted, name):.3f} ×"
        for name in ("reserved", "device")
        if getattr(predicted, name) > predicted.allocated
    )
    told = ratio(peak.allocated, predicted.allocated)
    return f"{label} measured {told} {gib(predicted.allocated)}" + (f" ({rest})" if rest else "")


def fits_line(result: Prediction, width: int, current: bool = True) -> Content:
    """The target's verdict, then those of the GPUs around the edge of what fits."""
    if not result.fits:
        return Content()
    first = outlooks.fit_of(result) or result.fits[0]
    others = (fit for fit in result.fits if fit is not first)
    rest = sorted(others, key=lambda fit: (fit.capacity, fit.gpu))
    edge = next((at for at, fit in enumerate(rest) if fit.verdict != "exceeds"), len(rest))
    near = sorted(range(len(rest)), key=lambda at: abs(at - edge + 0.5))
    used, taken = LABEL + _wide(first) + len(" GiB"), []
    for at in near:
        used += 2 + _wide(rest[at])
        if used > width:
            break
        taken.append(at)
    shown = [first, *(rest[at] for at in sorted(taken))]
    parts: list[Content | tuple[str, str] | str] = [(f"{'fits':<{LABEL}}", MUTED)]
    for at, fit in enumerate(shown):
        parts += ["  " if at else "", _mark(fit), f" {fit.gpu}", (f" {_room(fit)}", MUTED)]
    line = Content.assemble(*parts, (" GiB", MUTED))
    return line if current else _faint(line)


def _mark(fit: Fit) -> tuple[str, str]:
    return (MARKS[fit.verdict], f"bold {LOOKS[fit.verdict]}")


def _wide(fit: Fit) -> int:
    return len(f"✓ {fit.gpu} {_room(fit)}")


def _room(fit: Fit) -> str:
    return f"{fit.capacity / 2**30:.0f}"


# Where the panel has the screen for itself.


def whole(
    outlook: Outlook,
    peak: Peak | None,
    trace: Trace | None,
    width: int,
    device: Device | None = None,
) -> Content:
    """Everything: figures beside each other, words, the fit list, the tensors, the notes."""
    result = outlook.result
    figures = _pairs(outlook, peak)
    if trace is not None and (told := against(peak, trace.predicted, trace.label)):
        figures += _wrapped(told, width, MUTED)
    said = state_words(outlook)
    if said:
        figures += [Content(), *_wrapped(said, width, "$text-warning")]
    if result is None:
        return Content("\n").join(figures)
    found = [Content(), *(line for text in result.words for line in _wrapped(text, width))]
    found.append(fits_line(result, width))
    if result.largest:
        found += [Content(), _head(f"Largest at the peak, in {result.peak.phase}")]
        found += _largest(result.largest, width)
    if result.fits:
        found += [Content(), _head("Fits"), *_beside(result.fits, width)]
    if result.notes:
        found += [Content(), _head("Notes")]
        found += [line for text in result.notes for line in _wrapped(text, width, MUTED)]
    return Content("\n").join([*figures, *(found if outlook.current else map(_faint, found))])


def _pairs(outlook: Outlook, peak: Peak | None) -> list[Content]:
    """The figures, one a line: predicted, then measured."""
    result = outlook.result
    first = result.peak if result is not None else None
    head = f"{'':<{LABEL}}{'predicted':>11}{'':>7}{'measured':>12}"
    lines = [Content.styled(head, MUTED)]
    plain = "" if outlook.current else OLD
    for key in (*CATEGORIES, *TOTALS):
        told = gib(_value(first, key)) if first and not _untold(first, key) else "–"
        found = gib(_value(peak, key)) if peak else "–"
        share = f"{_value(first, key) / max(1, first.allocated):.0%}" if first else ""
        look = "bold" if key == "allocated" else ""
        where = ""
        if result is not None and key == "allocated":
            where = f"   in {result.peak.phase}, {_step(result)}"
        lines.append(
            Content.assemble(
                (f"{key:<{LABEL}}", MUTED),
                (f"{told:>11}", plain or look),
                (f"{share if key in CATEGORIES else '':>7}", MUTED),
                (f"{found:>12}", look),
                (where, MUTED),
            )
        )
    return lines


def _step(result: Prediction) -> str:
    return f"step {result.step}" if result.step else "while loading"


def _beside(fits: Sequence[Fit], width: int) -> list[Content]:
    """The fit list in as many columns as there is room for, each read downwards."""
    count = max(1, min(3, width // FIT))
    rows = -(-len(fits) // count)
    lines = []
    for row in range(rows):
        parts: list[Content | str] = []
        for fit in fits[row::rows]:
            told = _fit(fit)
            parts += [told, " " * (FIT - told.cell_length)]
        lines.append(Content.assemble(*parts[:-1]))
    return lines


def _fit(fit: Fit) -> Content:
    free = f"{gib(fit.free)} free" if fit.free >= 0 else f"{gib(-fit.free)} short"
    return Content.assemble(
        _mark(fit),
        (f" {fit.verdict:<8}", LOOKS[fit.verdict]),
        f" {fit.gpu:<17}",
        (f"{gib(fit.capacity):>9}  {free}", MUTED),
    )


def _largest(largest: Sequence[Large], width: int) -> list[Content]:
    """Bytes, category, shape and dtype, operator, module: what may be long comes last."""
    cells = [
        (
            f"{f'{large.count} × ' if large.count > 1 else ''}{'×'.join(map(str, large.shape))} "
            f"{SMALL.get(large.dtype, large.dtype)}",
            large.op.removeprefix("aten.") or "–",
        )
        for large in largest
    ]
    shapes, ops = (max(len(row[at]) for row in cells) for at in (0, 1))
    return [
        Content.assemble(
            f"{gib(large.bytes):>9}  ",
            (f"{large.category:<13}", MUTED),
            f"{shape:<{shapes}}  ",
            (f"{op:<{ops}}  ", MUTED),
            large.module or "–",
        ).truncate(max(20, width), ellipsis=True)
        for large, (shape, op) in zip(largest, cells, strict=True)
    ]


def _wrapped(text: str, width: int, style: str = "") -> list[Content]:
    return [Content.styled(line, style) for line in textwrap.wrap(text, max(20, width))]


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")


def _faint(line: Content) -> Content:
    return Content.styled(line.plain, OLD)
