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
        rows = (("not known", explanation.unknown),)
    told = list(explanation.sections)
    if rows:
        told.insert(1, Section(f"Bytes by arithmetic: {explanation.setting}", rows))
    return told


def change(effect: Effect) -> str:
    """The bytes without and with the technique: ``5.75 GiB → 35.1 MiB``."""
    before, after = gib(effect.before), gib(effect.after)
    text = f"{before} → {after}" if effect.before != effect.after else f"{after}, the same"
    if effect.category == "temporary" and not effect.before:
        text = after
    text += ", each layer" if effect.each else ""
    return f"{text}, in the {effect.phase} phase" if effect.phase else text
