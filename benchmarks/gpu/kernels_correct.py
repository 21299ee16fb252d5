"""The section ``kernels-correct``: every kernel of ours against fp64, on this GPU.

Shapes that are no powers of two, one row, every option, flat and peaky logits, all labels ignored;
in bf16, fp16 and fp32. The error may be twice the framework's own in the same precision, and what
rounding the result costs. Inputs must stay as they were, and a second run must give the same bits.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.kernels import rows_of


def measure(device: str, end: float, only: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each case, and what there was no time for."""
    return rows_of("correct", device, end, only)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: how many cases of each kernel are right, and its worst; then what is wrong."""
    if not rows:
        return "Nothing was checked."
    lines = ["| kernel | right | worst error, of its limit | where |", "|---|---:|---:|---|"]
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        mine = [row for row in rows if row["kernel"] == kernel]
        done = [row for row in mine if row.get("errors")]
        right = sum(row["outcome"] == "right" for row in mine)
        worst, where = _worst(done)
        told = f"{worst:.2f}" if done else "–"
        lines.append(f"| {kernel} | {right} of {len(mine)} | {told} | {where} |")
    wrong = [row for row in rows if row["outcome"] != "right"]
    return "\n".join(
        [*lines, "", *(f"- {row['outcome']}: {row['case']}: {row['reason']}" for row in wrong)]
    ).rstrip()


def _worst(rows: list[dict[str, Any]]) -> tuple[float, str]:
    shares = [
        (size / row["limits"][name], f"{row['case']}, {name}")
        for row in rows
        for name, size in row["errors"].items()
    ]
    return max(shares, default=(0.0, ""))


def failed(rows: list[dict[str, Any]]) -> set[str]:
    """The kernels that are not right in every case that was tried: no figure of theirs is shown."""
    return {row["kernel"] for row in rows if row["outcome"] not in ("right", "left out")}
