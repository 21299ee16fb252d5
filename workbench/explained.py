"""An explanation with its bytes written out: what every surface shows, each in its own way."""

from __future__ import annotations

from memwb.engine.arithmetic import Effect
from memwb.engine.explain import Explanation, Section
from memwb.workbench.units import gib


def sections(explanation: Explanation) -> list[Section]:
    """Every section of the text; the arithmetic comes before the parameters, which are many."""
    rows = tuple(
        (each.category, f"{change(each)}   {each.formula}") for each in explanation.effects
    )
    if explanation.unknown:
        rows = (("no arithmetic", explanation.unknown),)
    told = list(explanation.sections)
    if rows:
        told.insert(1, Section(f"Bytes by arithmetic: {explanation.setting}", rows))
    return told


def change(effect: Effect) -> str:
    """The bytes without and with the technique: ``5.75 GiB → 35.1 MiB``.

    Without the first where they depend on the kernels that run.
    """
    after = gib(effect.after)
    text = f"→ {after}" if effect.before is None else f"{gib(effect.before)} → {after}"
    text = f"{after}, the same" if effect.before == effect.after else text
    text += " each layer" if effect.each else ""
    return f"{text}, in the {effect.phase} phase" if effect.phase else text
