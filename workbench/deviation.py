"""How far two loss curves are apart, in words: one line for every surface."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from memwb.engine.technique import group_of, techniques

if TYPE_CHECKING:
    from memwb.engine.guard import Verdict


def verdict_line(verdict: Verdict) -> str:
    """``= #3, identical``, ``≤ 2.1e-4 from #3 (8e-3 allowed)``, or what is outside and where.

    Where curves need not match, by which techniques: ``2.1e-5 from #1 (SGD takes other steps: need
    not match)``.
    """
    return verdict_forms(verdict)[0]


def verdict_forms(verdict: Verdict) -> list[str]:
    """The line, then shorter forms of it; what is outside is the first thing that each says."""
    label = f"#{verdict.run}"
    if not verdict.step:
        return [f"= {label}, identical", f"= {label}"]
    if not verdict.within:
        return _outside(verdict, label)
    if math.isinf(verdict.largest):
        apart = f"a number in only one of this and {label} at step {verdict.step}"
    elif verdict.allowed is None:
        apart = f"{gap(verdict.largest)} from {label}"
    else:
        apart = f"≤ {share(verdict.largest, up=True)} from {label}"
    if verdict.allowed is None:
        names = ", ".join(titles(verdict.free))
        return [
            f"{apart} ({_why_free(verdict)}: need not match)",
            f"{apart} ({names}: need not match)",
            f"{apart} (need not match)",
            apart,
        ]
    allowed = f"{share(verdict.allowed)} allowed"
    if verdict.largest <= verdict.allowed:
        return [f"{apart} ({allowed})", apart]
    # Further on than where a tolerance holds.
    return [f"{apart} ({allowed} in steps 1–{verdict.held})", f"{apart} (not held)", apart]


def _outside(verdict: Verdict, label: str) -> list[str]:
    bound = verdict.first if verdict.allowed is None else verdict.allowed
    allowed = f"{share(bound)} allowed" if bound else "none allowed"
    at = f"at step {verdict.step}"
    if math.isinf(verdict.largest):
        whole = f"✗ outside: a number in only one of this and {label} {at}"
        return [whole, f"✗ a number in one only {at}"]
    apart = f"{share(verdict.largest)} from {label}"
    return [
        f"✗ outside: {apart} {at}, {allowed}",
        f"✗ outside: {apart} ({allowed})",
        f"✗ {apart} ({allowed})",
        f"✗ {apart}",
    ]


def _why_free(verdict: Verdict) -> str:
    names = " + ".join(titles(verdict.free))
    if len(verdict.free) > 1:
        return names
    return f"{names} {group_of(techniques()[verdict.free[0]].group).instead}"


def titles(names: Iterable[str]) -> list[str]:
    """What people call techniques."""
    return [techniques()[name].title for name in names]


def share(value: float, up: bool = False) -> str:
    """A relative deviation with two digits, rounded up on demand: ``2.1e-4``, ``8e-3``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)))
    if up:
        value = math.ceil(value / 10.0 ** (power - 1) * (1 - 1e-9)) * 10.0 ** (power - 1)
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def gap(value: float) -> str:
    """A deviation that nothing bounds: a large one in percent, or beside the losses themselves it
    would be read as one of them."""
    percent = 100 * float(f"{value:.1e}")
    if not 1 <= percent < math.inf:
        return share(value)
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %".replace(".0 ", " ")
