"""What each technique does to the peak and the speed: alone, and taken out of a stack.

``python -m benchmarks.techniques [--model tiny] [--device cpu] [--only lora,adamw.kernel=foreach]
[-o KEY=VALUE] [--markdown FILE] [--json FILE]`` runs bursts through one engine process. A row is a
technique, or NAME.PARAMETER=VALUE. One that needs others brings them along; one that is refused or
not available here says why in its row.

Memory is what the engine's meter counts: on a CPU the same wherever it runs. Tokens/s is the
median over the steps that are not traced; beside other work on the machine it is only a hint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.bursts import lacking, run
from benchmarks.surroundings import surroundings
from memwb.engine.catalog import resolve
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.plan import Plan, active, override, plan_data, plan_from, problems, toggle
from memwb.engine.protocol import CATEGORIES, Device
from memwb.engine.technique import techniques
from memwb.workbench.units import delta, gib, rate

STACK = (
    "bf16",
    "quantize_4bit",
    "lora",
    "activation_checkpointing",
    # The default chunk holds all tokens of a small step, which would change nothing.
    "chunked_cross_entropy.chunk_size=128",
    "adamw_8bit",
)
"""What one would switch on together to fine-tune in little memory."""
CHOICES = (
    "attention.implementation=eager",
    "activation_checkpointing.mode=submodule",
    "activation_checkpointing.mode=selective",
    "chunked_cross_entropy.chunk_size=128",
    "adamw.kernel=foreach",
)
"""Parameters that change what a technique saves: a row of their own, beside its default."""
ALONE, REMOVED = "alone", "removed"
HEADINGS = {
    ALONE: ("Alone", "Each technique on the plain plan, held against the plain plan's peak."),
    REMOVED: ("Removed", "Each technique taken out of the stack, held against the stack's peak."),
}
GPU = {"model": "qwen2.5-0.5b", "weights": "random", "workload": {"steps": 6}}
"""The plan of the section in the GPU suite: 1024 tokens a step."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table: the plan to run, or why there is none."""

    table: str
    technique: str
    """Empty for the plan that the others are held against."""
    label: str
    plan: Plan
    outcome: str = ""
    """refused or unavailable: then it is not run."""
    reason: str = ""

    @property
    def key(self) -> str:
        """Its name among the bursts."""
        return f"{self.table}: {self.label}"


def cases(base: Plan, device: str, stack: Sequence[str], only: Sequence[str] = ()) -> list[Case]:
    """The rows of both tables, of those techniques alone if some are named."""
    model = resolve(base.model, base.weights)
    there = Device(device, "", 0)
    return [
        *_alone(base, model.config or {}, there, only),
        *_removed(base, model.config or {}, there, stack, only),
    ]


def _alone(base: Plan, config: dict[str, Any], device: Device, only: Sequence[str]) -> list[Case]:
    names = " + ".join(active(base))
    found = [Case(table=ALONE, technique="", label=f"plain: {names}", plan=base)]
    for row in only or _with_choices(techniques()):
        name = row.partition(".")[0]
        plan = _on(base, row)
        if active(plan) == active(base):
            continue
        plan, brought, reason = _with_needs(plan, config)
        label = f"{row}, with {' + '.join(brought)}" if brought else row
        case = Case(table=ALONE, technique=name, label=label, plan=plan)
        found.append(_judged(case, reason, device))
    return found


def _with_choices(names: Iterable[str]) -> list[str]:
    """The names in their order, each with its choices after it."""
    return [
        row
        for name in names
        for row in (name, *(choice for choice in CHOICES if choice.startswith(f"{name}.")))
    ]


def _on(plan: Plan, row: str) -> Plan:
    """The plan with a technique on: ``NAME``, or ``NAME.PARAMETER=VALUE``."""
    plan = toggle(plan, row.partition(".")[0], True)
    return override(plan, row) if "." in row else plan


def _removed(
    base: Plan, config: dict[str, Any], device: Device, stack: Sequence[str], only: Sequence[str]
) -> list[Case]:
    full, out = base, []
    chosen = {row.partition(".")[0] for row in only}
    rows = {row.partition(".")[0]: row for row in stack}
    for name, row in rows.items():
        case = Case(table=REMOVED, technique=name, label=row, plan=_on(full, row))
        # What one of the stack needs may come after it.
        lacking = [p for p in problems(case.plan, config) if not p.override.endswith("=on")]
        judged = _judged(case, lacking[0].reason if lacking else "", device)
        if judged.outcome:
            out.append(judged)
        else:
            full = case.plan
    full, _, reason = _with_needs(full, config)
    names = " + ".join(rows.get(name, name) for name in full.techniques)
    case = Case(table=REMOVED, technique="", label=f"stack: {names}", plan=full)
    found = [_judged(case, reason, device)]
    for name in full.techniques:
        if only and name not in chosen:
            continue
        plan, gone = _without(full, name, config)
        label = f"without {' + '.join([name, *gone])}"
        reasons = [problem.reason for problem in problems(plan, config)]
        case = Case(table=REMOVED, technique=name, label=label, plan=plan)
        found.append(_judged(case, reasons[0] if reasons else "", device))
    return [*found, *out]


def _with_needs(plan: Plan, config: dict[str, Any]) -> tuple[Plan, list[str], str]:
    """The plan with what its techniques need, the names of that, and why it still cannot run."""
    brought: list[str] = []
    while found := problems(plan, config):
        name, _, value = found[0].override.partition("=")
        if value != "on" or name in plan.techniques:
            return plan, brought, found[0].reason
        plan = toggle(plan, name, True)
        brought.append(name)
    return plan, brought, ""


def _without(plan: Plan, name: str, config: dict[str, Any]) -> tuple[Plan, list[str]]:
    """The plan without a technique and without those that need it, with the names of these."""
    gone: list[str] = []
    plan = toggle(plan, name, False)
    while needing := [p.technique for p in problems(plan, config) if p.override.endswith("=on")]:
        plan = toggle(plan, needing[0], False)
        gone.append(needing[0])
    return plan, gone


def _judged(case: Case, reason: str, device: Device) -> Case:
    """The case with why it cannot run here, if it cannot."""
    name, lack = lacking(case.plan, device)
    if lack:
        lack = lack if name == case.technique else f"{name}: {lack}"
        return msgspec.structs.replace(case, outcome="unavailable", reason=lack)
    if reason:
        return msgspec.structs.replace(case, outcome="refused", reason=reason)
    return case


def rows_of(
    wanted: Sequence[Case], device: str, end: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every case as a row of figures or of the reason, and the names of those not got to."""
    plans = [(case.key, case.plan) for case in wanted if not case.outcome]
    measured, left = run(plans, device, end)
    figures = {row.pop("plan"): row for row in measured}
    rows = []
    for case in wanted:
        row = {
            "table": case.table,
            "technique": case.technique,
            "label": case.label,
            "plan": plan_data(case.plan),
        }
        if case.outcome:
            row |= {"outcome": case.outcome, "reason": case.reason, "expected": [case.outcome]}
        elif case.key in figures:
            found = figures[case.key]
            reason = found["what"] or found["title"]
            row |= {**found, "reason": reason, "expected": ["done", "oom"]}
        else:
            continue
        rows.append(row)
    return rows, left


def measure(device: str, end: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The section of the GPU suite: rows, and what there was no time for."""
    wanted = cases(plan_from(GPU), device, STACK)
    return rows_of(wanted, device, end)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table each, the peak by category, what differs from its first row, tokens/s."""
    parts = []
    for name, (heading, text) in HEADINGS.items():
        chosen = [row for row in rows if row["table"] == name]
        if chosen:
            parts += [f"## {heading}", text, _table(chosen)]
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ["", *CATEGORIES, "peak", "difference", "in", "tokens/s"]
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 3)}---|---:|"]
    first = (rows[0].get("peak") or {}).get("allocated")
    for row in rows:
        peak = row.get("peak")
        if row["outcome"] != "done" or not peak:
            reason = " ".join(f"{row['outcome']}: {row['reason']}".split()).replace("|", "\\|")
            lines.append(f"| {row['label']} | {reason} |{' |' * (len(columns) - 2)}")
            continue
        cells = [
            row["label"],
            *(gib(peak["categories"][name]) for name in CATEGORIES),
            gib(peak["allocated"]),
            delta(peak["allocated"] - first) if first is not None else "–",
            peak["phase"],
            rate(row["median_tokens_per_second"]).removesuffix(" tok/s"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def document(rows: list[dict[str, Any]], base: Plan, command: str) -> str:
    """The whole page: what was measured and how, the command, the tables."""
    work = base.workload
    device = next((row["device"] for row in rows if row.get("device")), "no device")
    threads = os.environ.get("OMP_NUM_THREADS", "all of them")
    around = ", ".join(f"{key} {value}" for key, value in surroundings().items())
    return f"""\
# What each technique does to the peak and the speed

Written by this command, from the root of the repository, with memwb installed:

    {command}

Model {Path(base.model).name}, {base.weights} weights; {work.batch_size} sequences of \
{work.sequence_length} tokens a micro-batch, {work.gradient_accumulation} to a step, {work.steps} \
steps. {device}, {os.cpu_count()} cores, threads: {threads}. {around}.

Bytes are those of the moment of the highest peak, by category, as docs/measuring.md defines them. \
The difference is that of the peak to the first row's. Tokens/s is the median over the \
{max(0, work.steps - 2)} steps after the two that are traced; on a machine that does other work \
too it is a hint, not a figure. A technique has its default parameters unless its row or the \
stack's sets others. On a model this small its fixed costs weigh more, and its savings less, than \
on a large one.

{table(rows)}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, print the tables; 0 when each ran or said beforehand why it cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.techniques",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="tiny", help="a name of memwb models [%(default)s]")
    add("--device", default="cpu", choices=["cpu", "cuda"], help="[%(default)s]")
    add("--steps", type=int, default=4, help="two are traced, the others timed [%(default)s]")
    add("--only", default="", help="NAME or NAME.PARAMETER=VALUE, with commas between; all without")
    add("--stack", default=",".join(STACK), help="[%(default)s]")
    add("-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    add("--json", type=Path, help="a file for every figure")
    add("--markdown", type=Path, help="a file for the page with the tables")
    args = parser.parse_args(argv)
    only, stack = ([name for name in text.split(",") if name] for text in (args.only, args.stack))
    for name in (row.partition(".")[0] for row in [*only, *stack]):
        if name not in techniques():
            parser.error(f"there is no technique {name!r}. {nearest(name, techniques())}")
    workload = {"steps": args.steps, "batch_size": 2, "sequence_length": 128}
    try:
        base = plan_from({"model": args.model, "weights": "random", "workload": workload})
        for text in args.overrides:
            base = override(base, text)
        wanted = cases(base, args.device, stack, only)
    except MemwbError as error:
        parser.error(f"{error.title}: {error.what} {error.fix}")
    rows, left = rows_of(wanted, args.device, math.inf)
    print(table(rows))
    if args.json:
        found = {**surroundings(), "plan": plan_data(base), "rows": rows, "left_out": left}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        command = _command(sys.argv[1:] if argv is None else argv)
        args.markdown.write_text(document(rows, base, command), encoding="utf-8")
    return 0 if not left and all(row["outcome"] in row["expected"] for row in rows) else 1


def _command(argv: Sequence[str]) -> str:
    """The command as it was given; of an absolute path only its name, which is all that tells."""
    words = [Path(word).name if os.path.isabs(word) else word for word in argv]
    return shlex.join(["python", "-m", "benchmarks.techniques", *words])


if __name__ == "__main__":
    sys.exit(main())
