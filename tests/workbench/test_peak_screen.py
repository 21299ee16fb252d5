"""The screen of the peak: what is alive then, predicted beside measured."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from memwb.engine.memory import Alive, Large
from memwb.engine.plan import Plan
from memwb.workbench.screens import peak_tensors


def text_of(app: Any, query: str) -> str:
    return str(app.screen.query_one(query).render())


async def test_the_peak_is_told_of_the_plan_and_of_the_run(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench("full", plan=Plan(model="tiny"), forecast=forecast())
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("P")
        await waiting(pilot, lambda: "32.0 MiB" in text_of(app, "Page"))
        page = text_of(app, "Page")
        for part in ("lm_head", "mm", "4096×2048", "fp32", "16 × 768×256", "Notes"):
            assert part in page
        assert "Measured" not in page
        await pilot.press("tab")
        assert "Largest tensors" not in text_of(app, "Page")
        await pilot.press("tab", "escape", "r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await pilot.press("P")
        await waiting(pilot, lambda: "Measured, #1" in text_of(app, "Page"))
        page = " ".join(text_of(app, "Page").split())
        assert "The peak of 76.0 MiB is in the backward of a steady step" in page
        assert "beside its tensors: Python, torch" in page
        await pilot.press("question_mark")
        await waiting(pilot, lambda: "allocator" in text_of(app, "Page"))


async def test_shares_stand_beside_what_they_are_of(bench: Any, waiting: Any) -> None:
    app = bench("full", plan=Plan(model="tiny"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await pilot.press("P")
        await waiting(pilot, lambda: "Measured, #1" in text_of(app, "Page"))
        lines = text_of(app, "Page").splitlines()
        line = next(line for line in lines if line.startswith("A activations"))
        assert line.split()[2:6] == ["–", "45.8", "MiB", "60%"], "none was predicted"


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
async def test_what_was_alive_stands_beside_what_was_predicted(
    bench: Any, waiting: Any, forecast: Any, size: tuple[int, int]
) -> None:
    result = forecast()
    mlp = Large(
        6_300_000, "activations", "model.layers.*.mlp", "aten.mul", (2, 256, 512), "float32"
    )
    result = msgspec.structs.replace(result, largest=(*result.largest, mlp))
    app = bench("full", plan=Plan(model="tiny"), forecast=result)
    async with app.run_test(size=size) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await pilot.press("P")
        await waiting(pilot, lambda: "Measured, #1" in text_of(app, "Page"))
        lines = text_of(app, "Page").splitlines()
        # Every figure and every bar has its heading.
        bars = ("pred.", "meas.") if size[0] == 80 else ("predicted", "measured")
        assert lines[0].split()[-2:] == list(bars)
        assert lines[1].startswith("W weights") and "━" in lines[1]
        starts = [len(lines[0]) - len(lines[0][lines[0].rindex(bar) :]) for bar in bars]
        assert all(lines[4][start] == "━" for start in starts), lines[:5]
        head = next(at for at, line in enumerate(lines) if "Largest tensors: predicted of" in line)
        rows = [line.split() for line in lines[head + 1 :]]
        assert rows[0][:3] == ["predicted", "measured", "category"]
        assert ["6.01", "MiB", "6.00", "MiB", "A", "activations"] in [row[:6] for row in rows]
        # In one list alone: it may be among the others of the second.
        assert ["32.0", "MiB", "…", "A", "activations"] in [row[:5] for row in rows]
        assert ["75.1", "MiB", "76.0", "MiB", "allocated"] in rows
        assert any(row[4:] == ["others", "(188", "tensors", "measured)"] for row in rows)


async def test_what_an_earlier_version_did_not_record_is_said(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench("lora", plan=Plan(model="tiny"), forecast=forecast())
    async with app.run_test(size=(80, 24)) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await pilot.press("P")
        await waiting(pilot, lambda: "was not recorded" in text_of(app, "Page"))
        page = " ".join(text_of(app, "Page").split())
        assert "#1: what was alive at its peak was not recorded." in page
        assert "Most of it is weights: 10.6 MiB" in page and "32.0 MiB" in page
        assert "Largest tensors: predicted of the plan" in page
        await pilot.press("tab")
        await waiting(pilot, lambda: "No prediction of #1's plan is kept" in text_of(app, "Page"))


async def test_out_of_memory_tells_what_was_there_and_what_for(bench: Any, waiting: Any) -> None:
    app = bench("oom", plan=Plan(model="tiny"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await pilot.press("P")
        await waiting(pilot, lambda: "Memory ran out" in text_of(app, "Page"))
        page = " ".join(text_of(app, "Page").split())
        asked = "bmm in layers.31.self_attn asked for 640 MiB for fp32 160×1024×1024."
        assert f"Memory ran out as {asked}" in page
        assert "Largest tensors: alive as memory ran out in #1" in page
        assert "8.22 MiB no tensor's: what the allocator rounds up" in page


def test_a_kind_that_only_one_list_has_is_not_said_to_be_none() -> None:
    one = Large(8, "weights", "head", "aten.empty", (2,), "float32")
    other = Large(4, "weights", "head", "aten.empty", (1,), "float32")
    alive = Alive(step=2, phase="loss", allocated=8, largest=(one,))
    rows = peak_tensors.paired((), alive.largest)
    assert rows == [peak_tensors.Pair(one, None, 8)]
    both = peak_tensors.paired((other, one), (one,))
    assert [(pair.predicted, pair.measured) for pair in both] == [(8, 8), (4, None)]
    for others, mark in ((0, "–"), (1, "…")):
        cut = msgspec.structs.replace(alive, others=others)
        lines = peak_tensors.listed([peak_tensors.Pair(other, 4, None)], None, cut, 80, {})
        assert lines[1].plain.split()[0] == mark


async def test_the_chart_tells_of_its_peak_what_was_alive(bench: Any, waiting: Any) -> None:
    app = bench("full", "lora", plan=Plan(model="tiny"))
    async with app.run_test(size=(120, 40)) as pilot:
        chart = app.main.memory.chart
        await pilot.press("r")
        await waiting(pilot, lambda: app.live is not None and app.live.ended)
        await waiting(pilot, lambda: chart.words)
        assert chart.words[0] == "6.00 MiB  6 × fp32 mlp"
        await pilot.press("r")
        await waiting(pilot, lambda: app.live.label == "#2" and app.live.ended)
        # It is of another version, and has not recorded them.
        assert chart.words == ()


async def test_maximised_the_panel_says_whose_tensors_it_lists(
    bench: Any, waiting: Any, forecast: Any
) -> None:
    app = bench("full", plan=Plan(model="tiny"), forecast=forecast())
    async with app.run_test(size=(120, 40)) as pilot:
        await waiting(pilot, lambda: app.predictor.outlook.complete)
        await pilot.press("4", "m")
        head = "Largest at the peak, as predicted, in backward"
        await waiting(pilot, lambda: head in app.main.peak.text.splitlines())
        await pilot.press("r")
        await waiting(pilot, lambda: f"{head} · P: and measured" in app.main.peak.text)
