"""What is alive at a peak, as text."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.engine.memory import Alive, Large
from memwb.workbench.headless.output import size, table

BRIEF = 5
"""So many of a burst's largest tensors are printed after it; ``runs show`` prints all of them."""


def alive_text(alive: Alive, width: int, most: int | None = None) -> str:
    """What a burst had alive at its peak, or when memory ran out; at most so many tensors."""
    shown, hidden = alive.largest[:most], alive.largest[most:] if most else ()
    lines = [*alive.words, ""]
    if asked := alive.asked:
        shape = " × ".join(map(str, asked.shape))
        what = f"{asked.dtype} {shape}, " if shape else ""
        place = f"{what}{asked.op or '–'} in {asked.module or '–'}"
        lines += [f"asked for: {size(asked.bytes) if asked.bytes else 'not known'}  {place}", ""]
    when = "as memory ran out" if asked else "at the peak"
    lines += [f"largest {when}, measured", largest_table(shown, width)]
    others = alive.others + sum(large.bytes for large in hidden)
    count = alive.more + sum(large.count for large in hidden)
    rows = [(f"  {size(others)}", f"others, {count:,} tensors")] if count else []
    if alive.unexplained:
        words = "no tensor's: what the allocator rounds up, workspaces of libraries"
        rows.append((f"  {size(alive.unexplained)}", words))
    rows.append((f"  {size(alive.allocated)}", "allocated"))
    return "\n".join([*lines, table(rows, right="0")])


def largest_table(largest: Sequence[Large], width: int) -> str:
    """A tensor a line; two where a terminal of ``width`` columns would break the lines itself."""
    rows = [_large(large) for large in largest]
    text = table(rows, right="0")
    if not width or max(map(len, text.splitlines())) <= width:
        return text
    most = max(len(row[0]) for row in rows)
    kind = max(len(row[1]) for row in rows)
    lines = []
    for amount, category, module, *made in rows:
        # What it is and where, and under that how it was made. What stands before every module
        # of a model with adapters says nothing.
        where = module.removeprefix("base_model.model.")
        lines.append(f"{amount:>{most}}  {category:<{kind}}  {where}")
        lines.append(f"{'':{most + kind + 4}}{'  '.join(made)}")
    return "\n".join(lines)


def _large(large: Large) -> tuple[str, ...]:
    shape = " × ".join(map(str, large.shape))
    count = f"{large.count} of " if large.count > 1 else ""
    return (
        f"  {size(large.bytes)}",
        large.category,
        large.module or "–",
        large.op or "–",
        f"{count}{shape}",
        large.dtype,
    )
