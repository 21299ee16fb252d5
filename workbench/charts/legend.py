"""The legend under a memory chart: which moment is meant, and its bytes by category."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.engine.protocol import Sample
from memwb.workbench.charts.bands import NONE, Hidden, values
from memwb.workbench.charts.palette import BANDS, LETTERS, NAMES
from memwb.workbench.charts.scale import GIB, KIB, MIB, gib

Part = tuple[str, str, int]
"""Text, its role (key, off, label, value), and the band of a key; ``off`` marks a hidden one."""

KEYS = ("key", "off")


def place(sample: Sample) -> str:
    """Where in a burst a sample is: ``step 2 · backward``."""
    where = "loading" if sample.step == 0 else f"step {sample.step}"
    return f"{where} · {sample.phase}" if sample.phase and sample.phase != "load" else where


def seconds(time: float) -> str:
    """A moment's time since the burst began, fine enough to tell samples of one step apart."""
    return f"{time:.4f} s" if time < 100 else f"{time:,.3f} s"


def moment(sample: Sample | None, width: int, kind: str, timed: bool = False) -> list[Part]:
    """One line on a moment: what it is, where in the burst, the three totals as far as they fit.

    ``timed`` has it say the time too, which is the first to go where there is little room.
    """
    if sample is None:
        return [("no samples yet"[:width], "label", -1)]
    head = " · ".join(part for part in (kind, place(sample)) if part)
    totals = [(name, size) for name, size in totals_of(sample) if size or name == "allocated"]
    heads = [f"{head} · {seconds(sample.time)}", head] if timed else [head]
    for shown in range(len(totals), 0, -1):
        for text in heads:
            parts: list[Part] = [(text, "label", -1)]
            for name, size in totals[:shown]:
                parts += [(f"  {name} ", "label", -1), (gib(size), "value", -1)]
            if length(parts) <= width:
                return parts
    for text in (head, sample.phase):
        short: list[Part] = [(text + "  ", "label", -1), (gib(sample.allocated), "value", -1)]
        if length(short) <= width:
            return short
    return [(gib(sample.allocated)[:width], "value", -1)]


def totals_of(sample: Sample) -> list[tuple[str, int]]:
    """The three figures that are never added to each other."""
    return [
        ("allocated", sample.allocated),
        ("reserved", sample.reserved),
        ("device", sample.device),
    ]


def bands_of(sample: Sample | None) -> Sequence[int]:
    """The bands that a moment has: those of the categories as far as they are known."""
    if sample is not None and sample.categories is None:
        return (5,)
    return (0, 1, 2, 3, 4, 5) if sample is not None and values(sample)[5] else (0, 1, 2, 3, 4)


def band_at(parts: Sequence[Part], x: int) -> int | None:
    """The band whose mark, name or figure is in a column of the line; None beyond them."""
    at, band = 0, None
    for part in parts:
        text, role, of = part
        at += length([part])
        # The gap before a mark is nobody's.
        band = of if role in KEYS else None if not text.strip() else band
        if x < at:
            return band
    return None


def categories(
    sample: Sample | None, width: int, hatched: bool, hidden: Hidden = NONE
) -> list[Part]:
    """The bands with their bytes at a moment, in the longest form that fits.

    Those that are hidden are told as well: their bytes are there, only not drawn.
    """
    sizes = values(sample) if sample is not None else (0,) * len(BANDS)
    shown = bands_of(sample)
    names = [f"{LETTERS[band]} {NAMES[band]}" if hatched else NAMES[band] for band in range(6)]
    whole = [gib(size) for size in sizes]
    unit, unit_name = _common(sizes)
    short = [_short(size / unit) if unit > 1 else str(size) for size in sizes]
    brief = [f"{size / unit:.{int(0 < size < 10 * unit)}f}" for size in sizes]
    forms = [
        _form(shown, names, whole, "  ", ""),
        _form(shown, names, short, "  ", unit_name),
        _form(shown, LETTERS, short, "  ", unit_name),
        _form(shown, LETTERS, short, " ", unit_name),
        _form(shown, [""] * 6, short, " ", unit_name),
        _form(shown, [""] * 6, brief, " ", unit_name),
        _form(shown, LETTERS, [""] * 6, " ", ""),
        _form(shown, [""] * 6, [""] * 6, "", ""),
    ]
    form = next((form for form in forms if length(form) <= width), [])
    return _without(form, hidden) if hidden else form


def _without(form: Sequence[Part], hidden: Hidden) -> list[Part]:
    """The form with other marks and paler figures for what is hidden."""
    found: list[Part] = []
    band = -1
    for text, role, of in form:
        band = of if role == "key" else band
        away = band in hidden and bool(role == "key" or text.strip())
        found.append((text, {"key": "off", "value": "label"}.get(role, role) if away else role, of))
    return found


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
    return sum(1 if role in KEYS else len(text) for text, role, _ in parts)


def _short(value: float) -> str:
    """Three significant digits; no exponent for what is too little to be seen."""
    return f"{value:.3g}" if value == 0 or value >= 0.001 else "0.00"
