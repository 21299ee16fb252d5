from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from memwb.engine.catalog import resolve
from memwb.engine.plan import Plan, toggle
from memwb.engine.protocol import Beat, Ended, Event, Sample, Samples, Started, Step, Timeline
from memwb.engine.script import script
from memwb.workbench.panels import texts
from memwb.workbench.trace import Trace, trace_of

Play = Callable[[str], list[Event]]


@pytest.mark.parametrize("name", ["full", "lora", "oom"])
def test_the_highest_sample_is_the_peak_that_the_engine_tells(play: Play, name: str) -> None:
    trace = trace_of(play(name))
    assert trace.ended is not None and trace.ended.peak is not None and trace.highest is not None
    assert trace.highest.allocated == trace.ended.peak.allocated
    assert trace.highest.categories == trace.ended.peak.categories


@pytest.mark.parametrize("name", ["full", "lora", "oom"])
def test_the_recordings_add_up(play: Play, name: str) -> None:
    for sample in trace_of(play(name)).samples:
        assert sample.categories is not None
        assert sample.categories.total == sample.allocated


def test_a_timeline_takes_the_place_of_the_live_samples_of_its_step() -> None:
    trace = Trace()
    live = [Sample(t, 1, "forward", size, size, size) for t, size in ((0.1, 10), (0.2, 90))]
    exact = [Sample(0.1, 1, "forward", 40, 40, 40), Sample(0.2, 1, "forward", 50, 50, 50)]
    trace.apply(Samples("1", [Sample(0.0, 0, "load", 5, 5, 5), *live]))
    assert trace.highest == live[1]
    trace.apply(Timeline("1", 1, exact))
    assert [sample.allocated for sample in trace.samples] == [5, 40, 50]
    assert trace.highest == exact[1]


def test_speed_comes_from_the_steps_that_were_not_traced(play: Play) -> None:
    events = play("full")
    running = trace_of(event for event in events if not isinstance(event, Ended))
    assert running.tokens_per_second == pytest.approx(trace_of(events).tokens_per_second, rel=1e-3)


def test_padding_is_told_beside_the_speed(play: Play) -> None:
    trace = trace_of(play("full"))
    assert "padding" not in str(texts.loss_line(trace))
    for part, told in ((0.1234, "12 % padding"), (0.001, "<1 % padding"), (0.0, "")):
        ended = msgspec.structs.replace(trace.ended, padding=part)
        padded = trace_of([*(e for e in play("full") if not isinstance(e, Ended)), ended])
        assert ("padding" in str(texts.loss_line(padded))) == bool(told)
        assert told in str(texts.loss_line(padded))


def test_no_padding_is_told_where_documents_are_kept_whole(play: Play) -> None:
    def ran(share: float | None, name: str) -> Trace:
        plan = toggle(Plan(model="tiny"), name, True)
        text = script(plan, resolve("tiny"))
        trace = trace_of(play("full"))
        assert trace.started is not None and trace.ended is not None
        trace.apply(msgspec.structs.replace(trace.started, script=text))
        trace.apply(msgspec.structs.replace(trace.ended, padding=share))
        assert trace.techniques == [name]
        return trace

    assert "0 % padding" in str(texts.loss_line(ran(0.0, "packing")))
    assert "padding" not in str(texts.loss_line(ran(0.0, "bf16")))
    assert "padding" not in str(texts.loss_line(ran(None, "packing")))


def test_a_beat_changes_nothing_that_is_drawn(play: Play) -> None:
    trace = trace_of(play("full"))
    before = trace.version
    trace.apply(Beat())
    assert trace.version == before


def test_the_peak_while_running_is_the_highest_so_far(play: Play) -> None:
    trace = trace_of(event for event in play("full") if not isinstance(event, Ended))
    peak = trace.peak
    assert peak is not None and trace.highest is not None
    assert peak.allocated == trace.highest.allocated


def test_a_recording_starts_and_ends(play: Play) -> None:
    events = play("full")
    assert isinstance(events[0], Started) and isinstance(events[-1], Ended)
    assert sum(isinstance(event, Step) for event in events) == events[0].steps
