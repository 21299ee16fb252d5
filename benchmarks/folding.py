"""Whether folding tells what all layers would: every model of the catalogue × plans of many kinds.

Each plan is traced twice: as a prediction does it, with few layers folded out to all, and with all
of them. The two streams are compared moment by moment.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from memwb.engine import catalog
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.memory import CATEGORIES
from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.predict.predictor import folded
from memwb.engine.predict.run import ALL, import_libraries, traced
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import Target, target_named

CHECKPOINTING = "activation_checkpointing"
LOW = ("bf16=on", f"{CHECKPOINTING}=on")
PLANS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "bf16": ("bf16=on",),
    "amp": ("amp_bf16=on", "gradient_clipping=on"),
    "checkpointing": LOW,
    "every second": (*LOW, f"{CHECKPOINTING}.every=2"),
    "submodules": (*LOW, f"{CHECKPOINTING}.mode=submodule"),
    "selective": (*LOW, f"{CHECKPOINTING}.mode=selective"),
    "accumulation": ("bf16=on", "workload.gradient_accumulation=4"),
    "chunked loss": ("bf16=on", "chunked_cross_entropy=on"),
    "in backward": (*LOW, "optimizer_in_backward=on"),
    "sgd": ("bf16=on", "sgd=on"),
    "8-bit AdamW": (*LOW, "adamw_8bit=on"),
    "Adafactor": (*LOW, "adafactor=on"),
    "GaLore": (*LOW, "galore=on"),
    "LoRA": (*LOW, "lora=on"),
    "QLoRA": (*LOW, "lora=on", "quantize_4bit=on"),
    "offloaded": ("bf16=on", "checkpoint_offload=on"),
    "8-bit LoRA": (*LOW, "lora=on", "quantize_8bit=on"),
}
WORST = 0.005
"""How far a folded peak may be from that of all layers, as a share of it."""


class Compared(NamedTuple):
    """What a plan's two streams have in common."""

    verdict: str
    """exact, differs, traced whole (nothing was folded), or why there is nothing to compare."""
    peak: int = 0
    """Of all layers, in bytes."""
    difference: float = 0.0
    """Of the folded peak to it, as a share of it."""
    worst: float = 0.0
    """Of any category at any moment, as a share of the peak; 1 where the moments are not alike."""
    moments: int = 0
    few: float = 0.0
    """Seconds to trace few layers and fold."""
    full: float = 0.0
    """Seconds to trace all layers."""


def compare(plan: Plan, target: Target) -> Compared:
    """Fold the plan and trace it whole."""
    begin = time.perf_counter()
    found = folded(plan, target)
    if found is None:
        return Compared("traced whole: the depths are not alike")
    if found.depths is None:
        return Compared("traced whole: no fewer layers tell the rest")
    after = time.perf_counter()
    full = traced(plan, target, ALL).stream
    end = time.perf_counter()
    mine, theirs = rows(found.stream), rows(full)
    peak = max(sum(totals) for _, totals in theirs)
    difference = max(sum(totals) for _, totals in mine) / peak - 1
    worst = 1.0
    if [place for place, _ in mine] == [place for place, _ in theirs]:
        pairs = zip(mine, theirs, strict=True)
        apart = (abs(a - b) for one, other in pairs for a, b in zip(one[1], other[1], strict=True))
        worst = max(apart) / peak
    verdict = "differs" if worst else "exact" if alike(found.stream, full) else "exact in bytes"
    seconds = {"few": after - begin, "full": end - after}
    return Compared(verdict, peak, difference, worst, len(mine), **seconds)


def rows(stream: Stream) -> list[tuple[tuple[int, str], tuple[int, ...]]]:
    """After each moment its step and phase, and what lives by category."""
    totals = [0] * len(CATEGORIES)
    found = []
    for moment in stream.moments:
        if moment.change:
            totals[stream.births[moment.storage].category] += moment.change
        found.append(((moment.step, moment.phase), tuple(totals)))
    return found


def alike(one: Stream, other: Stream) -> bool:
    """Whether each moment is of the same storage, whatever its name, and each origin the same."""
    names: dict[int, int] = {}
    for mine, theirs in zip(one.moments, other.moments, strict=True):
        if names.setdefault(mine.storage, theirs.storage) != theirs.storage:
            return False
        if one.births.get(mine.storage) != other.births.get(theirs.storage):
            return False
    return True


def cases(
    models: Sequence[str], plans: Sequence[str], length: int
) -> Iterator[tuple[str, str, Plan]]:
    """Each model with each plan that goes with it."""
    for model in models:
        workload = {"batch_size": 1, "sequence_length": length, "steps": 2}
        base = plan_from({"model": model, "weights": "random", "workload": workload})
        config = catalog.resolve(model, "random").config
        for name in plans:
            plan = base
            for text in PLANS[name]:
                plan = override(plan, text)
            if not problems(plan, config):
                yield model, name, plan


def warm() -> None:
    """Import what the engine's server has at hand when it predicts.

    What the libraries say of themselves meanwhile and later (of packages they do not find, of
    names that will go) is left out: an engine's goes to its log.
    """
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import_libraries()
    gc.collect()
    gc.freeze()


def compared(plan: Plan, target: Target) -> Compared:
    """The comparison, or why it could not be made."""
    try:
        return compare(plan, target)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Compared(f"{type(error).__name__}: {first}"[:60])


def line(model: str, name: str, found: Compared) -> str:
    """A row of the table."""
    head = f"{model:16} {name:14} {found.verdict}"
    if not found.moments:
        return head
    return (
        f"{head:46} {found.peak / 2**30:9.2f} GiB {100 * found.difference:+9.4f} % "
        f"{100 * found.worst:8.4f} % {found.moments:8} "
        f"{found.few:6.2f} s {found.full:7.2f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the worst difference; 0 when every peak is as near as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.folding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", default="", help="names of memwb models, with commas between; all without")
    add("--plans", default="", help=f"of {', '.join(PLANS)}; all without")
    add("--target", default="rtx-4090", help="the id of a GPU, or cpu [%(default)s]")
    add("--length", type=int, default=512, help="tokens in one sequence [%(default)s]")
    args = parser.parse_args(argv)
    models = _chosen(parser.error, args.models, list(catalog.catalogue()))
    plans = _chosen(parser.error, args.plans, list(PLANS))
    try:
        target = target_named(args.target)
    except MemwbError as error:
        parser.error(f"{error.title}: {error.what} {error.fix}")
    warm()
    print(
        f"{'model':16} {'plan':14} {'verdict':14} {'peak':>13} {'difference':>11} {'worst':>10} "
        f"{'moments':>8} {'folded':>8} {'full':>9}"
    )
    worst, failed = 0.0, 0
    for model, name, plan in cases(models, plans, args.length):
        found = compared(plan, target)
        print(line(model, name, found), flush=True)
        worst = max(worst, abs(found.difference))
        failed += not found.moments and not found.verdict.startswith("traced whole")
    print(f"worst difference of a peak: {100 * worst:.4f} %; not compared: {failed}")
    return 0 if worst <= WORST and not failed else 1


def _chosen(error: Callable[[str], None], text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            close = nearest(name, known) or f"Known are {', '.join(known)}."
            error(f"there is no {name!r}. {close}")
    return names or known


if __name__ == "__main__":
    sys.exit(main())
