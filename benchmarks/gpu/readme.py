"""``python -m benchmarks.gpu.readme benchmarks/results/FOLDER``: the race as README shows it.

One line for each case: our time and extra memory, our share of the roofline, and how many times as
long the others take. Kernels that are wrong in any case of ``kernels-correct`` are not shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.arms import OURS
from benchmarks.gpu.kernels_correct import failed


def page(folder: Path) -> str:
    """Markdown of one folder of results. Raises FileNotFoundError where nothing was raced."""
    race = json.loads((folder / "kernels-race.json").read_text())
    correct = folder / "kernels-correct.json"
    wrong = failed(json.loads(correct.read_text())["rows"]) if correct.exists() else set()
    versions = ", ".join(f"{name} {race[name]}" for name in ("torch", "triton"))
    lines = [
        f"{race['device']}, {race['date']}, commit {race['commit']}, {versions}. Medians; "
        "extra memory holds the gradients; × is how many times as long the others take.",
        "",
        "| case | ms | extra MiB | of roofline | × of the others |",
        "|---|---:|---:|---:|---|",
    ]
    kernels = list(dict.fromkeys(row["kernel"] for row in race["rows"]))
    for case in dict.fromkeys(row["case"] for row in race["rows"]):
        rows = [row for row in race["rows"] if row["case"] == case]
        if rows[0]["kernel"] not in wrong and (line := _line(case, rows)):
            lines.append(line)
    lines += [
        "",
        *(f"- {name}: not shown, it failed its check" for name in kernels if name in wrong),
    ]
    if not correct.exists():
        lines.append("- The correctness matrix was not run beside this race.")
    return "\n".join(lines).rstrip()


def _line(case: str, rows: list[dict[str, Any]]) -> str:
    """The line of a case, empty if our arm has no figure there."""
    timed = {row["arm"]: row for row in rows if row.get("seconds") and row["outcome"] == "right"}
    ours = timed.pop(OURS, None)
    if ours is None:
        return ""
    parts = list(ours["seconds"])

    def p50s(row: dict[str, Any]) -> list[float]:
        return [row["seconds"][part]["p50"] for part in parts]

    mine = p50s(ours)
    others = "; ".join(
        " / ".join(f"{b / a:.2f}" for a, b in zip(mine, p50s(row), strict=True)) + f" ({arm})"
        for arm, row in timed.items()
    )
    cells = [
        case,
        " / ".join(f"{1e3 * one:.2f}" if one >= 1e-3 else f"{1e3 * one:.3f}" for one in mine),
        "–" if ours["extra"] is None else f"{ours['extra'] / 2**20:,.0f}",
        " / ".join(f"{ours['roofline'][p]:.0%}" for p in parts if p in ours["roofline"]) or "–",
        others or "–",
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.readme", description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if not (args.folder / "kernels-race.json").exists():
        raise SystemExit(f"{args.folder} has no kernels-race.json")
    print(page(args.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
