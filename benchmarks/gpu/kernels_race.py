"""The section ``kernels-race``: every kernel against the framework, the compiler and the libraries.

docs/kernels/measuring.md says how the race is run and what its columns mean.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.kernels import rows_of

_MIB = 2**20


def measure(
    device: str, end: float, only: str = "", arms: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each arm of each case, and the cases that there was no time for."""
    return rows_of("race", device, end, only, arms)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each case, ours first; what has no figure says why."""
    if not rows:
        return "Nothing was raced."
    parts = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        parts.append(f"### {case}\n\n{_one(mine)}")
    return "\n\n".join(parts)


def _one(rows: list[dict[str, Any]]) -> str:
    timed = [row for row in rows if row.get("seconds") and row["outcome"] == "right"]
    parts = list(timed[0]["seconds"]) if timed else ["both"]
    titles = [("" if part == "both" else f"{part} ") + "ms p20 / p50 / p80" for part in parts]
    heads = [*titles, "of roofline", "× ours", "extra MiB", "worst error"]
    lines = [f"| arm | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    ours = next((row for row in timed if row["arm"] == "memwb"), None)
    for row in rows:
        if row not in timed:
            reason = " ".join(f"{row['outcome']}: {row['reason']}".split()).replace("|", "\\|")
            lines.append(f"| {row['arm']} | {reason} |{' |' * (len(heads) - 1)}")
            continue
        cells = [" / ".join(_ms(row["seconds"][part][at]) for at in _AT) for part in parts]
        share = " / ".join(f"{row['roofline'][p]:.0%}" for p in parts if p in row["roofline"])
        times = (
            " / ".join(f"{_p50(row, part) / _p50(ours, part):.2f}" for part in parts)
            if ours
            else "–"
        )
        extra = "–" if row["extra"] is None else f"{row['extra'] / _MIB:,.0f}"
        worst = f"{max(row['errors'].values()):.1e}"
        lines.append(f"| {' | '.join([row['arm'], *cells, share or '–', times, extra, worst])} |")
    least = rows[0].get("least_extra")
    note = f"\n\nThe gradients alone: {least / _MIB:,.0f} MiB." if least else ""
    return "\n".join(lines) + note


_AT = ("p20", "p50", "p80")


def _p50(row: dict[str, Any], part: str) -> float:
    return float(row["seconds"][part]["p50"])


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}"
