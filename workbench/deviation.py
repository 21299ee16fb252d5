"""How far two loss curves are apart, in words: one line for every surface."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memwb.engine.guard import Verdict


def verdict_line(verdict: Verdict) -> str:
    """``= #3, identical``, ``≤ 2.1e-4 from #3 (8e-3 allowed)``, or what is outside and where."""
    label = f"#{verdict.run}"
    if not verdict.step:
        return f"= {label}, identical"
    if verdict.within:
        largest = share(verdict.largest, up=True)
        return f"≤ {largest} from {label} ({share(verdict.allowed)} allowed)"
    allowed = f"{share(verdict.allowed)} allowed" if verdict.allowed else "none allowed"
    if math.isinf(verdict.largest):
        return f"✗ outside: a number in only one of this and {label} at step {verdict.step}"
    return f"✗ outside: {share(verdict.largest)} from {label} at step {verdict.step}, {allowed}"


def share(value: float, up: bool = False) -> str:
    """A relative deviation with two digits, rounded up on demand: ``2.1e-4``, ``8e-3``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)))
    if up:
        value = math.ceil(value / 10.0 ** (power - 1) * (1 - 1e-9)) * 10.0 ** (power - 1)
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
