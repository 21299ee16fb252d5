"""What differs between two to four runs, as a table."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from memwb.engine.plan import Plan, override
from memwb.engine.protocol import Ended, Event, Step
from memwb.engine.runs import Summary
from memwb.workbench.comparing import (
    Line,
    Side,
    apart,
    called,
    figures,
    lines,
    plan_differences,
    side_of,
)
from memwb.workbench.deviation import gap
from memwb.workbench.panels.compared import Compared, comparison, held_against
from memwb.workbench.trace import Trace, trace_of
from memwb.workbench.units import delta, gib

Play = Callable[[str], list[Event]]


def a_side(
    play: Play, name: str, *changes: str, run: int = 1, padding: float | None = None
) -> Side:
    plan = Plan(model="tiny")
    for change in changes:
        plan = override(plan, change)
    trace = trace_of(play(name), f"#{run}")
    if padding is not None and trace.ended is not None:
        trace.apply(msgspec.structs.replace(trace.ended, padding=padding))
    summary = Summary(
        run=run, folder="", outcome="done", device="cpu", techniques=[*plan.techniques]
    )
    return side_of(summary, plan, trace)


def table(*sides: Side, brief: bool = False) -> dict[str, Line]:
    return {line.name: line for line in lines(sides, brief)}


def text(*sides: Side, width: int = 0) -> list[str]:
    return comparison(Compared(sides, (None,) * (len(sides) - 1)), width).plain.splitlines()


def test_the_plan_explains_the_rest_and_comes_first(play: Play) -> None:
    one = a_side(play, "full")
    two = a_side(play, "lora", "lora.rank=64", "batch_size=4", "bf16=on")
    three = a_side(play, "lora", "lora=on", "batch_size=4", "bf16=on")
    assert plan_differences([one, two])["techniques.lora.rank"] == [None, 64]
    found = table(one, two, three)
    assert found["workload.batch_size"].values == ("1", "4", "4")
    assert found["techniques.bf16"].values == ("–", "on", "on")
    assert found["techniques.lora"].values == ("–", "rank 64", "rank 16"), "what is not the same"
    assert table(one, three)["techniques.lora"].values == ("–", "on"), "and nothing usual"
    assert [line.plan for line in found.values()][:4] == [True, True, True, False]


def test_bytes_and_losses_are_held_against_the_first(play: Play) -> None:
    one, two = a_side(play, "full"), a_side(play, "lora", run=2)
    assert one.peak and two.peak
    found = table(one, two, one)
    change = delta(two.peak.allocated - one.peak.allocated)
    assert found["peak allocated"].values == tuple(gib(s.peak.allocated) for s in (one, two, one))
    assert found["peak allocated"].gaps == (change, "±0 B")
    assert figures([one, two])["weights"] == [
        each.peak.categories.weights for each in (one, two) if each.peak
    ]
    pairs = zip(one.losses, two.losses, strict=True)
    furthest = max(abs(b - a) / abs(a) for a, b in pairs)
    told = found["largest loss gap"].gaps
    assert told[0].startswith(gap(furthest)) and told[1] == "identical"
    assert apart([one, one]) == [(0.0, 0)]
    assert found["time"].gaps[1] == "±0 %" and found["speed"].gaps[1] == "±0 %"


def test_what_is_not_known_is_a_dash_and_has_no_difference(play: Play) -> None:
    whole = a_side(play, "full")
    bare = whole._replace(peak=None, losses=(), tokens_per_second=None, seconds=None, plan={})
    found = table(whole, bare)
    assert found["peak weights"].values[1] == "–" and found["peak weights"].gaps == ("",)
    assert found["speed"].values[1] == "–" and found["largest loss gap"].gaps == ("–",)
    assert not any(line.plan for line in found.values())
    assert text(bare, bare)[0].split() == ["A", "#1", "B", "#1", "B", "−", "A"]


def test_padding_is_told_where_there_is_any_or_none_was_to_expect(play: Play) -> None:
    plain = a_side(play, "full", "bf16=on", padding=0.0)
    kept = a_side(play, "full", "padding=on", padding=0.25)
    assert table(plain, kept)["waste"].values == ("0 % padding", "25 % padding")
    assert "waste" not in table(plain, plain)
    unknown = a_side(play, "full", "bf16=on")
    assert table(unknown, kept)["waste"].values == ("–", "25 % padding")


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("width", [46, 60, 70, 76, 130])
def test_the_table_fits_its_panel(play: Play, count: int, width: int) -> None:
    """At every width no line is longer, and every run has a column."""
    sides = [a_side(play, "full", run=8)]
    sides += [
        a_side(play, "lora", "lora=on", "activation_checkpointing=on", run=run)
        for run in range(9, 8 + count)
    ]
    if width < 60 and count > 2:
        width = 60
    drawn = text(*sides, width=width)
    assert max(map(len, drawn)) <= width
    for letter, side in zip("ABCD", sides, strict=False):
        assert f"{letter} #{side.run}" in drawn[0]
    assert any(line.startswith("activation c") for line in drawn)
    assert any(line.startswith("peak alloc") for line in drawn)


def test_losses_that_cannot_be_held_against_each_other_say_why(play: Play) -> None:
    one, two = a_side(play, "full"), a_side(play, "full", "batch_size=4", "lora=on", run=2)
    assert "B #2 not judged: another batch size" in text(one, two)
    alike = one._replace(run=3, outcome="running")
    assert "B #1 not judged: #3 has not ended" in text(alike, one)
    assert table(one, two)["last loss"].gaps == ("±0.0000",)
    lower = two._replace(losses=[*two.losses[:-1], two.losses[-1] - 0.5])
    assert table(one, lower)["last loss"].gaps == ("−0.5000",)
    assert table(one, two._replace(losses=two.losses[:-1]))["last loss"].gaps == ("",)
    elsewhere = one._replace(device="cuda")
    assert "B #1 not judged: another device" in text(one, elsewhere)


def test_a_plan_is_called_by_what_is_not_usual_of_it() -> None:
    plan = override(override(Plan(model="tiny"), "lora.rank=64"), "bf16=on")
    assert called(plan) == ("bf16 + LoRA rank 64", "1 × 1024")
    assert called(Plan(model="tiny")) == ("plain", "1 × 1024")
    assert called(override(plan, "gradient_accumulation=4"))[1] == "1 × 1024 × 4"


def test_equal_plans_are_said_to_be_equal(play: Play) -> None:
    one = a_side(play, "full")
    assert text(one, one)[1] == "the same plan"


def test_a_run_is_held_against_the_pinned_one(play: Play) -> None:
    ended = next(event for event in play("full") if isinstance(event, Ended))
    pinned = Summary(
        run=1,
        folder="",
        outcome="done",
        name="plain\x1b",
        peak=ended.peak,
        tokens_per_second=ended.tokens_per_second,
    )
    told = held_against(trace_of(play("lora"), "#2"), pinned).plain
    assert told.startswith("◆ to #1") and "peak" in told and "tok/s" in told and "\x1b" not in told
    assert not held_against(trace_of(play("full"), "#1"), pinned).plain, "not against itself"
    assert not held_against(Trace("#2"), pinned).plain
    assert not held_against(trace_of(play("full"), "#2"), None).plain


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(play: Play) -> None:
    going = trace_of([e for e in play("full") if not isinstance(e, Ended)], "#1")
    summary = Summary(run=1, folder="", outcome="running", device="cpu")
    side = side_of(summary, None, going)
    steps = [e for e in play("full") if isinstance(e, Step)]
    assert side.peak is not None and len(side.losses) == len(steps) and side.seconds is None
