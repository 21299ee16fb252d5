"""``python -m benchmarks.gpu.goals DIR``: what a folder of results says of each goal: met, missed.

The suite writes this as goals.md at its end, from whatever sections the folder has: several calls
with one ``--out`` add up. Ratios are of medians in one run. The goals were set for an H200.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Rows = list[Row]

FUSED, CUT = "fused_linear_cross_entropy", "cut_cross_entropy"
HEAD = {"model": "Llama-3-8B", "tokens": 8192}
FLAT = {**HEAD, "peaky": False, "ignored": 0.0, "trained": True}
PEAKY = {**FLAT, "peaky": True}
FROZEN = {**FLAT, "trained": False}
HALF = {**FLAT, "ignored": 0.5}
NORM = {"rows": 8192, "columns": 4096}
GATE = {"rows": 8192, "columns": 14336}
TURNED = {"rows": 8192, "columns": 128}
"""Cases by the facts in their rows; where several have them, the first is meant."""


class Missing(Exception):
    """There is no such figure; the message says why."""


class Goal(NamedTuple):
    """One goal. ``find`` raises Missing where the rows of its section have no figure for it."""

    section: str
    what: str
    find: Callable[[Rows], float]
    least: float | None = None
    most: float | None = None
    percent: bool = False

    def told(self, value: float) -> str:
        """A figure as the table has it."""
        return f"{value:.2%}" if self.percent else f"{value:.3g}"

    @property
    def wanted(self) -> str:
        """The goal in signs."""
        known = (("≥", self.least), ("≤", self.most))
        return " and ".join(
            f"{sign} {self.told(bound)}" for sign, bound in known if bound is not None
        )

    def met(self, value: float) -> bool:
        """Whether the figure is within its bounds."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


def goals() -> list[Goal]:
    """All of them, the kernels' first."""
    from benchmarks.gpu.predict import TARGETS

    race = partial(Goal, "kernels-race")
    found = [
        race("trained head: Liger C=1 takes × of our time", _times(FUSED, "Liger C=1", FLAT), 1.4),
        race("trained head: Liger C=16 takes ×", _times(FUSED, "Liger C=16", FLAT), 0.97),
        race("trained head: extra memory, of Liger C=16's", _memory(FUSED, FLAT), most=0.65),
        race("trained head: of the three-product roofline", _share(FUSED, FLAT, "both"), 0.90),
        race("least memory: extra memory, of the gradients' own", _beyond(CUT, FLAT), most=1.03),
        race("least memory: Liger C=1 takes ×", _times(CUT, "Liger C=1", FLAT), 1.0),
        race("least memory, peaky: CCE takes ×", _times(CUT, "CCE", PEAKY), 1.2),
        race("frozen head: Liger C=1 takes ×", _times(FUSED, "Liger C=1", FROZEN), 1.25),
        race("half the labels ignored: Liger C=1 takes ×", _times(FUSED, "Liger C=1", HALF), 1.8),
        *(
            race(f"{kernel}, peaky: error of dX and dW", _error(kernel, PEAKY), most=2.5e-3)
            for kernel in (FUSED, CUT)
        ),
    ]
    for kernel in ("rms_norm", "layer_norm"):
        backward, forward = "backward", "forward"
        found += [
            race(f"{kernel} backward: of copy bandwidth", _share(kernel, NORM, backward), 0.80),
            race(f"{kernel} backward: Liger takes ×", _times(kernel, "Liger", NORM, backward), 2.0),
            race(f"{kernel} forward: Liger takes ×", _times(kernel, "Liger", NORM, forward), 0.95),
        ]
    for kernel, case in (("swiglu", GATE), ("rope", TURNED)):
        share = _share(kernel, case, "backward")
        found.append(race(f"{kernel} backward: of copy bandwidth", share, 0.85))
    predicted = partial(Goal, "predict", percent=True)
    allocated, reserved = (name for name in list(TARGETS)[:2])
    return [
        *found,
        predicted("allocated: median error of the predictions", _median(allocated), most=0.02),
        predicted("allocated: largest error", _largest(allocated), most=0.05),
        predicted("allocated: most that one is too little", _under(allocated), most=0.02),
        predicted("reserved: median error of the predictions", _median(reserved), most=0.04),
        Goal("truth", "peaks that differ from the allocator's own, of all bursts", _apart, most=0),
    ]


# --- figures of the race ------------------------------------------------------------------------


def _row(rows: Rows, kernel: str, arm: str, case: Row) -> Row:
    """The row of an arm in a case. Raises Missing where it has no figure."""
    alike = [row for row in rows if row["kernel"] == kernel and row["arm"] == arm]
    for row in alike:
        if all(row.get(key) == value for key, value in case.items()):
            if row["outcome"] == "right" and "seconds" in row:
                return row
            raise Missing(f"{arm}: {row['outcome']}: {row.get('reason', '')}".rstrip(": "))
    raise Missing(f"{arm} was not raced there")


def _p50(row: Row, part: str) -> float:
    return float(row["seconds"][part]["p50"])


def _times(kernel: str, arm: str, case: Row, part: str = "both") -> Callable[[Rows], float]:
    """How many times as long as ours another arm takes."""
    return lambda rows: (
        _p50(_row(rows, kernel, arm, case), part) / _p50(_row(rows, kernel, "memwb", case), part)
    )


def _share(kernel: str, case: Row, part: str) -> Callable[[Rows], float]:
    return lambda rows: float(_row(rows, kernel, "memwb", case)["roofline"][part])


def _memory(kernel: str, case: Row) -> Callable[[Rows], float]:
    return lambda rows: (
        _row(rows, kernel, "memwb", case)["extra"] / _row(rows, kernel, "Liger C=16", case)["extra"]
    )


def _beyond(kernel: str, case: Row) -> Callable[[Rows], float]:
    def find(rows: Rows) -> float:
        row = _row(rows, kernel, "memwb", case)
        return float(row["extra"] / row["least_extra"])

    return find


def _error(kernel: str, case: Row) -> Callable[[Rows], float]:
    def find(rows: Rows) -> float:
        errors = _row(rows, kernel, "memwb", case)["errors"]
        return max(float(size) for name, size in errors.items() if name.startswith("gradient"))

    return find


# --- figures of predictions and of the meter ----------------------------------------------------


def _ratios(rows: Rows, total: str) -> list[float]:
    found = [row["ratios"][total] for row in rows if total in (row.get("ratios") or {})]
    if not found:
        raise Missing("no plan was both predicted and run")
    return found


def _median(total: str) -> Callable[[Rows], float]:
    return lambda rows: statistics.median(abs(one) for one in _ratios(rows, total))


def _largest(total: str) -> Callable[[Rows], float]:
    return lambda rows: max(abs(one) for one in _ratios(rows, total))


def _under(total: str) -> Callable[[Rows], float]:
    return lambda rows: max(0.0, *(-one for one in _ratios(rows, total)))


def _apart(rows: Rows) -> float:
    done = [row for row in rows if row["outcome"] == "done" and row["peak"]]
    if not done:
        raise Missing("no burst was done")
    return float(sum(row["peak"]["allocated"] != row["traced_maximum"] for row in done))


# --- the table ----------------------------------------------------------------------------------


def rows_of(folder: Path, section: str) -> Rows:
    """The rows of a section: its file's, or, if it never came to its end, the journal's."""
    whole, journal = folder / f"{section}.json", folder / "journal.jsonl"
    if whole.exists():
        found: Rows = json.loads(whole.read_text())["rows"]
        return found
    lines = journal.read_text().splitlines() if journal.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    return [one["row"] for one in told if one["section"] == section]


def verdicts(folder: Path) -> list[tuple[Goal, float | None, str]]:
    """Each goal, its figure (None if there is none), and met, missed, or why there is none."""
    from benchmarks.gpu.kernels_correct import failed

    wrong = failed(rows_of(folder, "kernels-correct"))
    found: list[tuple[Goal, float | None, str]] = []
    for goal in goals():
        rows = [row for row in rows_of(folder, goal.section) if row.get("kernel") not in wrong]
        try:
            if not rows:
                raise Missing(f"{goal.section} has no rows")
            value = goal.find(rows)
        # A row that is cut off, or of another version, has no figure.
        except (Missing, KeyError, TypeError, ValueError, ZeroDivisionError) as reason:
            found.append((goal, None, f"no figure: {reason}"))
        else:
            found.append((goal, value, "met" if goal.met(value) else "**missed**"))
    return found


def page(folder: Path) -> str:
    """Markdown: goal, wanted, measured, met."""
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    told = verdicts(folder)
    for goal, value, verdict in told:
        measured = "–" if value is None else goal.told(value)
        reason = " ".join(verdict.split()).replace("|", "\\|")
        lines.append(f"| {goal.what} | {goal.wanted} | {measured} | {reason} |")
    met = sum(verdict == "met" for _, _, verdict in told)
    known = sum(value is not None for _, value, _ in told)
    return "\n".join([*lines, "", f"{met} of {known} are met; {len(told) - known} have no figure."])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when no goal that has a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.goals", description=__doc__)
    parser.add_argument("folder", type=Path, help="what --out was")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        parser.error(f"there is no folder {args.folder}")
    print(page(args.folder))
    return int(any(value is not None and word != "met" for _, value, word in verdicts(args.folder)))


if __name__ == "__main__":
    sys.exit(main())
