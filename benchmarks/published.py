"""What memwb predicts beside what others published: nothing is tuned, and conditions are named.

``python -m benchmarks.published`` needs no GPU and no weights. Where a source does not name its
card, the target is ``--target``. ``--only`` takes parts of names (of presets, ``primer``,
``logits``) with commas between, and leaves the others out. Their GB is taken as it is printed:
none of the sources says whether it is 10^9 or 2^30 bytes, so ours stands in both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.folding import warm
from benchmarks.surroundings import surroundings
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.predict.predictor import predict, whole
from memwb.engine.predict.targets import target_named
from memwb.engine.prediction import Prediction
from memwb.engine.presets import load_plan

UNSAID = "card, tool, optimizer unknown (ours AdamW, bf16 moments)"
WHOLE = "whole layers checkpointed, there attention and MLP apart"
LINEAR = "LoRA targets unknown (ours all linear)"
VOCABULARY = 128256


class Row(NamedTuple):
    """One published figure, and the plan that is nearest to its conditions."""

    preset: str
    changes: tuple[str, ...]
    gb: float | None
    """As printed; None where the card there ran out of memory."""
    differs: str
    """How the conditions differ, or are not known to be the same."""


def _guide(model: str, name: str, gb: float | None, differs: str, *changes: str) -> Row:
    return Row(f"{model}-{name}", changes, gb, differs)


def rows() -> list[Row]:
    """A fine-tuning guide's table: Qwen2.5 in bf16, one sequence of 1,024 tokens."""
    found = []
    figures: dict[str, tuple[float | None, ...]] = {
        "qwen2.5-1.5b": (20.31, 9.68, 9.78, 9.93, 9.98, 18.12, 7.068),
        "qwen2.5-7b": (None, 24.77, 24.95, 24.94, 25.98, None, 19.9),
    }
    apart = "activation_checkpointing.mode=submodule"
    for model, (full, r4, r8, r16, r32, kept, lora_kept) in figures.items():
        found.append(_guide(model, "full", full, UNSAID))
        for rank, gb in (("r4", r4), ("r8", r8), ("r16", r16), ("r32", r32)):
            found.append(_guide(model, f"lora-{rank}", gb, f"{UNSAID}; {LINEAR}"))
        for name, gb in (("full-checkpointing", kept), ("lora-checkpointing", lora_kept)):
            differs = f"{UNSAID}; rank unknown (ours 16)" if name.startswith("lora") else UNSAID
            found.append(_guide(model, name, gb, f"{differs}; {WHOLE}"))
            found.append(_guide(model, name, gb, differs, apart))
    return found


def guide(target: str, chosen: Sequence[Row]) -> str:
    """Figures of the guide and ours, as Markdown."""
    lines = [
        "| plan | theirs, GB | allocated GiB (GB) | reserved GiB (GB) |"
        " reserved ÷ theirs, GB as 10^9 | GB as 2^30 | what differs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in chosen:
        peak = predict(_plan(row.preset, *row.changes), target).peak
        theirs = "out of memory" if row.gb is None else f"{row.gb:g}"
        units = (10**9, 2**30)
        gb, gibi = ("–" if row.gb is None else f"{peak.reserved / row.gb / u:.2f}" for u in units)
        name = " ".join([row.preset, *(f"`-o {change}`" for change in row.changes)])
        cells = [name, theirs, both(peak.allocated), both(peak.reserved), gb, gibi, row.differs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def primer(target: str) -> str:
    """Bytes a parameter of a QLoRA primer, for a model of 15.51 billion that it does not name."""
    model = "qwen2.5-14b"
    full = predict(_plan("full-finetune", f"model={model}", "workload.batch_size=1"), target)
    half = predict(
        _plan("full-finetune", f"model={model}", "workload.batch_size=1", "bf16=on"), target
    )
    qlora = predict(_plan("qlora", f"model={model}", "workload.gradient_accumulation=1"), target)
    lines = [
        f"| what, ours with {model} | theirs, bytes a parameter | ours | what differs |",
        "|---|---|---|---|",
    ]

    def add(name: str, theirs: str, ours: str, differs: str) -> None:
        lines.append(f"| {name} | {theirs} | {ours} | {differs} |")

    split = "bf16 weights 2, gradients 2, fp32 master weights 4, moments 8 there; ours has fp32 "
    add(
        "mixed precision with Adam",
        "16",
        _each(full, ("weights", "gradients", "optimizer")),
        split + "weights 4, gradients 4, moments 8, and bf16 copies while they are used",
    )
    add(
        "all in bf16 with AdamW",
        "–",
        _each(half, ("weights", "gradients", "optimizer")),
        "not in the primer: weights 2, gradients 2, moments 4",
    )
    base = qlora.parameters.total - qlora.parameters.trainable
    trained = qlora.parameters.trainable
    adapters = qlora.peak.categories
    add(
        f"QLoRA, the whole model; {trained / (base + trained):.2%} trained, 0.70 % there",
        "0.5 (the quantized base alone)",
        f"{adapters.weights / base:.3f}",
        "ours counts also what is not quantized (embedding, head, norms: fp32), scales, adapters",
    )
    optimizer = adapters.optimizer / trained
    add(
        "QLoRA, optimizer of a trained parameter",
        "12 (fp32 copy and two moments)",
        f"{optimizer:.2f}",
        "ours has no copy; the moments have the type of the adapters",
    )
    return "\n".join(lines)


def logits(target: str) -> str:
    """Everything over the vocabulary that one steady step makes, as an efficient-training study."""
    changes = ("model=llama-3.1-8b", "workload.batch_size=2", "workload.sequence_length=32768")
    plan = _plan("lora", *changes, "activation_checkpointing=on")
    stream = whole(plan, target_named(target)).stream
    lines = [
        "| made in | what | GiB | published |",
        "|---|---|---|---|",
    ]
    theirs = {
        ("forward", "bfloat16"): "bf16 logits 15.6",
        ("loss", "bfloat16"): "bf16 logits 15.6",
        ("loss", "aten._to_copy"): "fp32 copy 31.2",
        ("loss", "aten._log_softmax"): "the loss's own 31.2",
    }
    known: set[int] = set()
    for moment in stream.moments:
        if moment.step != 2 or moment.change < 2**30 or moment.storage in known:
            continue
        known.add(moment.storage)
        birth = stream.births[moment.storage]
        if birth.shape and birth.shape[-1] == VOCABULARY:
            said = theirs.get(
                (moment.phase, birth.op), theirs.get((moment.phase, birth.dtype), "–")
            )
            what = f"{birth.dtype} {list(birth.shape)} {birth.op}"
            lines.append(f"| {moment.phase} | {what} | {moment.change / 2**30:.1f} | {said} |")
    told = "The study offloads checkpoints, parameters and gradients; ours trains adapters and "
    return "\n".join(lines) + f"\n\n{told}checkpoints every layer. Not all of these live at once."


PRIMER, LOGITS = "primer", "logits"


def page(target: str, only: Sequence[str] = ()) -> str:
    """All three with headings, or what has one of these in its name."""

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    head = ", ".join(f"{key} {value}" for key, value in surroundings().items())
    parts = [f"Target {target}; {head}."]
    chosen = [row for row in rows() if wanted(" ".join((row.preset, *row.changes)))]
    if chosen:
        title = "**Fine-tuning Qwen2.5** (a guide: bf16, one sequence of 1,024, alpha twice the "
        parts += [f"{title}rank)", guide(target, chosen)]
    if wanted(PRIMER):
        title = "**Bytes a parameter** (a QLoRA primer, 15.51 billion parameters)"
        parts += [title, primer(target)]
    if wanted(LOGITS):
        title = "**Logits of a large vocabulary** (an efficient-training study, Llama-3-8B)"
        parts += [title, logits(target)]
    return "\n\n".join(parts)


def names() -> list[str]:
    """Everything that can be chosen."""
    return [*dict.fromkeys(row.preset for row in rows()), PRIMER, LOGITS]


def both(size: int) -> str:
    """Bytes as GiB, and as GB of 10^9 bytes."""
    return f"{size / 2**30:.2f} ({size / 1e9:.2f})"


def _plan(preset: str, *changes: str) -> Plan:
    return load_plan(preset, ["weights=random", *changes])


def _each(found: Prediction, names: Sequence[str]) -> str:
    """Bytes a parameter of these categories together, where they are most in a steady step."""
    most = max(
        sum(getattr(point.categories, name) for name in names)
        for point in found.timeline
        if point.step == 2
    )
    return f"{most / found.parameters.total:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", default="a100-80gb", help="a GPU's id [%(default)s]")
    parser.add_argument("--only", default="", help="parts of names, commas between; all without")
    parser.add_argument("--markdown", type=Path, help="a file for the tables")
    args = parser.parse_args(arguments)
    only = [part.strip() for part in args.only.split(",") if part.strip()]
    known = [*names(), *(change for row in rows() for change in row.changes)]
    for part in only:
        if not any(part in name for name in known):
            parser.error(f"there is no {part!r}. Known are {', '.join(names())}.")
    warm()
    try:
        text = page(args.target, only)
    except MemwbError as error:
        parser.error(f"{error.title}: {error.what} {error.fix}")
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
