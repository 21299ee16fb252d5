"""The legend under a memory chart: which moment is meant, and its bytes by category."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.engine.protocol import Sample
from memwb.workbench.charts.bands import values
from memwb.workbench.charts.palette import BANDS, LETTERS, NAMES
from memwb.workbench.charts.scale import GIB, KIB, MIB, gib

Part = tuple[str, str, int]
"""Text, its role (key, label, value), and the band of a key."""


def moment(sample: Sample | None, width: int, kind: str) -> list[Part]:
    """One line on a moment: what it is, where in the burst, the three totals as far as they fit."""
    if sample is None:
        return [("no samples yet"[:width], "label", -1)]
    where = "loading" if sample.step == 0 else f"step {sample.step}"
    phase = "" if sample.phase == "load" else sample.phase
    head = " · ".join(part for part in (kind, where, phase) if part)
    totals = [("allocated", sample.allocated)]
    totals += [(name, size) for name, size in _others(sample) if size]
    for shown in range(len(totals), 0, -1):
        parts: list[Part] = [(head, "label", -1)]
        for name, size in totals[:shown]:
            parts += [(f"  {name} ", "label", -1), (gib(size), "value", -1)]
        if length(parts) <= width:
            return parts
    for text in (head, sample.phase):
        short: list[Part] = [(text + "  ", "label", -1), (gib(sample.allocated), "value", -1)]
        if length(short) <= width:
            return short
    return [(gib(sample.allocated)[:width], "value", -1)]


def _others(sample: Sample) -> list[tuple[str, int]]:
    return [("reserved", sample.reserved), ("device", sample.device)]


def categories(sample: Sample | None, width: int, hatched: bool) -> list[Part]:
    """The bands with their bytes at a moment, in the longest form that fits."""
    sizes = values(sample) if sample is not None else (0,) * len(BANDS)
    if sample is not None and sample.categories is None:
        shown: Sequence[int] = (5,)
    else:
        shown = (0, 1, 2, 3, 4, 5) if sizes[5] else (0, 1, 2, 3, 4)
    names = [f"{LETTERS[band]} {NAMES[band]}" if hatched else NAMES[band] for band in range(6)]
    whole = [gib(size) for size in sizes]
    unit, unit_name = _common(sizes)
    short = [_short(size / unit) if unit > 1 else str(size) for size in sizes]
    forms = [
        _form(shown, names, whole, "  ", ""),
        _form(shown, names, short, "  ", unit_name),
        _form(shown, LETTERS, short, "  ", unit_name),
        _form(shown, LETTERS, short, " ", unit_name),
        _form(shown, [""] * 6, short, " ", unit_name),
        _form(shown, LETTERS, [""] * 6, " ", ""),
        _form(shown, [""] * 6, [""] * 6, "", ""),
    ]
    return next((form for form in forms if length(form) <= width), [])


def _form(
    shown: Sequence[int],
    names: Sequence[str],
    figures: Sequence[str],
    gap: str,
    unit: str,
) -> list[Part]:
    parts: list[Part] = []
    for band in shown:
        if parts and gap:
            parts.append((gap, "label", -1))
        parts.append(("", "key", band))
        # A letter stands right beside its mark, a name one space away.
        name = names[band]
        if name:
            parts.append((f" {name}" if len(name) > 1 else name, "label", -1))
        if figures[band]:
            parts.append((f" {figures[band]}" if name else figures[band], "value", -1))
    if unit:
        parts.append((f" {unit}", "label", -1))
    return parts


def _common(sizes: Sequence[int]) -> tuple[int, str]:
    """The unit in which the largest of some sizes is at least one."""
    largest = max(sizes)
    known = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    return next(((unit, name) for unit, name in known if largest >= unit), (1, "B"))


def length(parts: Sequence[Part]) -> int:
    """Cells that the parts take; a key takes one."""
    return sum(1 if role == "key" else len(text) for text, role, _ in parts)


def _short(value: float) -> str:
    """Three significant digits; no exponent for what is too little to be seen."""
    return f"{value:.3g}" if value == 0 or value >= 0.001 else "0.00"
