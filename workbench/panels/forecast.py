"""What is predicted, in a few lines of words and figures: pure functions of an outlook."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from textual.content import Content

from memwb.engine.prediction import Fit, Large, Prediction
from memwb.engine.protocol import CATEGORIES, Device, Peak
from memwb.engine.technique import techniques
from memwb.workbench import outlook as outlooks
from memwb.workbench.charts.scale import byte_unit, figure
from memwb.workbench.foresight import capacity_of, exceeds
from memwb.workbench.outlook import Outlook, ratio
from memwb.workbench.trace import Trace
from memwb.workbench.units import gib, name

MUTED = "$foreground 60%"
OLD = "$foreground 45%"
"""Figures of an earlier plan."""
ROWS = 6
"""Lines of a prediction that is there: its panel has them from the start, and nothing jumps."""
LABEL = 12
TOTALS = ("allocated", "reserved", "device")
SHORT = {"allocated": "alloc", "reserved": "resv", "gradients": "grads", "optimizer": "optim"}
SHORT |= {"activations": "activ", "temporary": "temp"}
MARKS = {"fits": "✓", "tight": "!", "exceeds": "✗"}
LOOKS = {"fits": "$text-success", "tight": "$text-warning", "exceeds": "$text-error"}
SMALL = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


def one_line(outlook: Outlook, device: Device | None) -> str:
    """The most useful line, where there is room for one: the peak, whether it fits, and why."""
    result = outlook.result
    if result is None:
        failed = outlook.state == outlooks.FAILED
        return f"not predicted: {_why(outlook)}" if failed else state_words(outlook)
    if outlook.state == outlooks.PROBLEMS:
        return f"predicted {gib(result.peak.allocated)} before · plan has problems"
    head = f"predicted {gib(result.peak.allocated)}"
    if outlook.state == outlooks.WAITING:
        # Whether it fits was told of an earlier plan.
        return f"{head} …" if outlook.awaited else f"{head} before"
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
    made = module_of(large).rpartition(".")[2] if large.module else large.op.removeprefix("aten.")
    return f"{SMALL.get(large.dtype, large.dtype)} {made or large.category}"


def what_is_large(largest: Sequence[Large]) -> list[str]:
    """The largest tensors at a peak, one a line: ``32.0 MiB  2 × fp32 lm_head``."""
    return [
        f"{gib(large.bytes)}  {f'{large.count} × ' if large.count > 1 else ''}{what(large)}"
        for large in largest
    ]


def module_of(large: Large) -> str:
    """The module's name within the model, without what wraps around all of it."""
    return large.module.removeprefix("base_model.").removeprefix("model.").removeprefix("model.")


def meant(outlook: Outlook) -> str:
    """For what it is predicted, as a title says it."""
    return f"predicted for {outlook.result.target}" if outlook.result else ""


def lines(
    outlook: Outlook,
    peak: Peak | None,
    width: int,
    trace: Trace | None = None,
    device: Device | None = None,
    mark: str = "",
    how: str = "",
) -> Content:
    """The figures, why they are what they are, and what the plan fits, or how to learn that.

    The mark stands before what is of an earlier plan, where colours cannot tell.
    """
    found = table(outlook, peak, width, trace, mark)
    result = outlook.result
    if told := compared(peak, trace):
        found.append(Content.styled(told, MUTED).truncate(width, ellipsis=True))
    if result is not None:
        brief = _brief(result) if len(result.words) == 0 else result.words[0]
        says = state_words(outlook) if outlook.state == outlooks.PROBLEMS else ""
        mark = "" if outlook.current else mark
        said = wrapped(f"{mark}{brief}", width, "" if outlook.current else OLD)
        if says:
            # In the place of a line of it: there are no more of them than without problems.
            found.append(Content.styled(f"{says}; this was predicted before:", "$text-warning"))
            found.append(_cut(said))
        else:
            found += said[:1] if len(said) < 2 else [said[0], _cut(said[1:])]
        line = fits_line(result, width, outlook.current, mark)
        found.append(line if line.plain else _here(outlook, device, mark, how))
    return Content("\n").join(line for line in found if line.plain)


def _cut(rest: Sequence[Content]) -> Content:
    """The last of the lines there is room for, which says so where there were more."""
    return rest[0] + Content("…") if len(rest) > 1 else rest[0]


def _here(outlook: Outlook, device: Device | None, mark: str, how: str) -> Content:
    """Whether it fits this machine, where no GPU was asked about."""
    room = capacity_of(outlook, device)
    if outlook.result is None or not room:
        return Content()
    verdict = "exceeds" if exceeds(outlook.result.peak, room) else "fits"
    line = Content.assemble(
        (f"{verdict:<{LABEL}}", MUTED),
        (MARKS[verdict], f"bold {LOOKS[verdict]}"),
        " this machine",
        (f" {gib(room)}   {how}", MUTED),
    )
    return line if outlook.current else faint(line, mark)


def state_words(outlook: Outlook) -> str:
    """Why there are no figures, or why they are old."""
    match outlook.state:
        case outlooks.PROBLEMS:
            return "plan has problems"
        case outlooks.WAITING:
            return f"{outlook.doing} …" if outlook.awaited else "not predicted: there is no engine"
        case outlooks.FAILED if outlook.failure is not None:
            # One that has nothing but a title says it once.
            told = dict.fromkeys((outlook.failure.title, _why(outlook)))
            return ": ".join(part for part in told if part)
    return "" if outlook.result else "not yet predicted"


def _why(outlook: Outlook) -> str:
    """Why the plan cannot be predicted, with the technique called as its row calls it."""
    known = outlook.failure
    if known is None:
        return ""
    title = techniques()[known.technique].title if known.technique in techniques() else ""
    what = known.what.removeprefix(f"{known.technique}: ") if title else known.what
    return f"{title}: {what}" if title else what or known.title


def measured(trace: Trace | None) -> str:
    """Whose the measured figures are, which need not be the plan's: run, model, device."""
    if trace is None or trace.started is None:
        return trace.label if trace is not None else ""
    return f"{trace.label} {name(trace.started.model, 14)}, {trace.started.device.kind}".strip()


def table(
    outlook: Outlook, peak: Peak | None, width: int, trace: Trace | None = None, mark: str = ""
) -> list[Content]:
    """Predicted over measured: the totals and the categories, each in its column."""
    result = outlook.result
    peaks = [each for each in (result.peak if result else None, peak) if each is not None]
    if not peaks:
        return [
            Content.assemble((f"{'predicted':<{LABEL}}", MUTED), (state_words(outlook), MUTED)),
            Content.assemble((f"{'measured':<{LABEL}}", MUTED), ("not yet measured", MUTED)),
        ]
    unit, unit_name = byte_unit(max(each.device for each in peaks), 2**30)
    who, first = measured(trace) if peak is not None else "", LABEL
    before = "" if outlook.current else mark
    shown = [figure(value(each, key) / unit) for each in peaks for key in (*TOTALS, *CATEGORIES)]
    least = max(map(len, shown)) + len(before)
    columns = _columns(width, LABEL, least)
    if len(who) >= LABEL:
        longer = _columns(width, len(who) + 1, least)
        # A line that is wider than the panel would be broken between its cells.
        if longer[-1][1] == columns[-1][1] and len(who) + 1 + _taken(longer) <= width:
            first, columns = len(who) + 1, longer
        elif trace is not None:
            who = trace.label
    head = "".join(f"{title:>{size}}" for title, _, size in columns)
    lines = [Content.styled(f"{unit_name:<{first}}{head}", MUTED)]
    style = "bold" if outlook.current else OLD
    for label, each, look in (
        ("predicted", result.peak if result else None, style),
        (who or "measured", peak, "bold"),
    ):
        if each is None:
            said = state_words(outlook) if label == "predicted" else "not yet measured"
            lines.append(Content.assemble((f"{label:<{first}}", MUTED), (said, MUTED)))
            continue
        own = label == "predicted"
        cells = [
            (
                f"{_cell(each, key, unit, own, before if own else ''):>{size}}",
                look if key == "allocated" else "",
            )
            for _, key, size in columns
        ]
        if own and not outlook.current:
            cells = [(text, OLD) for text, _ in cells]
            cells.append((f"  {_old(outlook)}", MUTED))
        lines.append(Content.assemble((f"{label:<{first}}", MUTED), *cells))
    return lines


def _cell(peak: Peak, key: str, unit: int, predicted: bool, mark: str = "") -> str:
    return "–" if predicted and untold(peak, key) else mark + figure(value(peak, key) / unit)


def untold(peak: Peak, key: str) -> bool:
    """What a process needs beside tensors is not predicted on a CPU."""
    return key == "device" and peak.device == peak.allocated


def _old(outlook: Outlook) -> str:
    return "…" if outlook.waits else ""


def _columns(width: int, label: int, least: int) -> list[tuple[str, str, int]]:
    """Names, keys and widths of the columns that there is room for, none less than ``least``."""
    keys = (*TOTALS, *CATEGORIES)
    for names, gap in (({}, 3), (SHORT, 2), (SHORT, 1)):
        found = [(names.get(key, key), key) for key in keys]
        sized = [(name, key, max(5, least, len(name)) + gap) for name, key in found]
        if label + _taken(sized) <= width:
            return sized
    return [(key, key, max(9, len(key)) + 2) for key in TOTALS]


def _taken(columns: Sequence[tuple[str, str, int]]) -> int:
    """How wide columns are together, with what may stand after the last."""
    return sum(size for *_, size in columns) + 3


def value(peak: Peak, key: str) -> int:
    """A total, or the bytes of a category."""
    return int(getattr(peak if key in TOTALS else peak.categories, key))


def compared(peak: Peak | None, trace: Trace | None) -> str:
    """The run that is shown held against what was predicted, once its peak is known."""
    if trace is None or trace.ended is None or trace.ended.outcome != "done":
        return ""
    return against(peak, trace.predicted, trace.label)


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


def fits_line(result: Prediction, width: int, current: bool = True, mark: str = "") -> Content:
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
        parts += ["  " if at else "", mark_of(fit), f" {named(fit)}", (f" {_room(fit)}", MUTED)]
    line = Content.assemble(*parts, (" GiB", MUTED))
    return line if current else faint(line, mark)


def mark_of(fit: Fit) -> tuple[str, str]:
    """The mark of a verdict, in its colour."""
    return (MARKS[fit.verdict], f"bold {LOOKS[fit.verdict]}")


def _wide(fit: Fit) -> int:
    return len(f"✓ {named(fit)} {_room(fit)}")


def named(fit: Fit) -> str:
    """The GPU, with a mark where its kernels are not those that were predicted."""
    return fit.gpu if fit.same_kernels else f"~{fit.gpu}"


def _room(fit: Fit) -> str:
    return f"{fit.capacity / 2**30:.1f}"


def wrapped(text: str, width: int, style: str = "") -> list[Content]:
    """A text in lines of that width."""
    return [Content.styled(line, style) for line in textwrap.wrap(text, max(20, width))]


def faint(line: Content, mark: str = "") -> Content:
    """The same, as something of an earlier plan, with the mark between a label and what it says."""
    text = line.plain
    return Content.styled(f"{text[: LABEL - 1]}{mark}{text[LABEL:]}" if mark else text, OLD)
