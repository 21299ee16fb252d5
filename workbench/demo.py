"""``memwb demo``: four plans on the tiny model, each with less memory than the one before."""

from __future__ import annotations

import argparse
import asyncio
from typing import NamedTuple

from memwb.engine.plan import Plan, check, override
from memwb.engine.presets import load_plan
from memwb.engine.protocol import CATEGORIES, Event, Ready, Step
from memwb.engine.runs import Recorder
from memwb.workbench.headless.burst import EXIT_CODES, Result, burst, checked, engine
from memwb.workbench.headless.output import loss, narrate, print_error, print_json, size, table
from memwb.workbench.headless.run import document, narration


class Rung(NamedTuple):
    """One plan of the ladder: what is changed on top of the plan before."""

    title: str
    overrides: tuple[str, ...] = ()


LADDER = (
    Rung("fp32, AdamW"),
    Rung("bf16", ("bf16=on",)),
    Rung("bf16 + checkpointing", ("activation_checkpointing=on",)),
    Rung("bf16 + checkpointing + LoRA", ("lora=on",)),
)


def ladder() -> list[tuple[str, Plan]]:
    """The plans from the most memory to the least, each with its title."""
    plan = load_plan("tiny-demo", ["batch_size=1", "steps=3"])
    rungs = []
    for rung in LADDER:
        for text in rung.overrides:
            plan = override(plan, text)
        rungs.append((rung.title, checked(check(plan))))
    return rungs


def demo(arguments: argparse.Namespace) -> int:
    """Run the ladder on the CPU through one engine and print what each plan took."""
    rungs = ladder()
    results: list[Result] = []

    async def climb() -> None:
        narrate("memwb: four plans on a tiny model, on the CPU (starting the engine)")
        async with engine() as running:
            for number, (title, plan) in enumerate(rungs, 1):
                narrate(f"{number}/{len(rungs)}  {title}")

                def on_event(event: Event, _: Recorder | None, plan: Plan = plan) -> None:
                    if isinstance(event, Step | Ready):
                        narrate("     " + narration(event, plan.workload.steps))

                name = f"demo: {title}"
                warm = number > 1
                result = await burst(running, plan, on_event, "cpu", name=name, warm=warm)
                results.append(result)
                if results[-1].ended.outcome != "done":
                    break

    asyncio.run(climb())
    last = results[-1].ended
    if last.outcome != "done":
        print_error(last.title, last.what, last.fix)
    if arguments.json:
        titles = [title for title, _ in rungs]
        print_json(
            [{"title": title, **document(result)} for title, result in zip(titles, results)]  # noqa: B905
        )
    else:
        print(_table([title for title, _ in rungs], results))
    return EXIT_CODES.get(last.outcome, 1)


def _table(titles: list[str], results: list[Result]) -> str:
    """Peak memory by category and the loss, a row a plan."""
    header = ("plan", *CATEGORIES, "peak", "in", "loss")
    rows = []
    for title, result in zip(titles, results):  # noqa: B905 - shorter when one has failed
        peak, losses = result.ended.peak, result.ended.losses
        if peak is None:
            continue
        parts = [size(getattr(peak.categories, name)) for name in CATEGORIES]
        course = f"{loss(losses[0])} → {loss(losses[-1])}" if losses else "–"
        rows.append((title, *parts, size(peak.allocated), peak.phase, course))
    return "Memory at its peak, by category\n\n" + table(rows, header, right="123456")
