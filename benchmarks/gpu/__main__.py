"""``python -m benchmarks.gpu --out DIR [--sections truth,kernels-race] [--minutes M]``.

Runs the sections one after another, what tells most first, and writes for each a JSON file with
every figure, the versions, the device, the date and the commit, and a table to read. A section that
has used up its share of the time stops before its next burst or case, and says what it left out.
One that fails, or whose packages are missing, says so in its files and on standard error, and takes
none of the others with it. At the end stands what all that the folder has says of the goals, in
goals.md. Each row is added to journal.jsonl when it is there: what a machine that
is taken away had measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import goals, journal
from benchmarks.surroundings import surroundings

SECTIONS: dict[str, str] = {
    "truth": "benchmarks.gpu.truth",
    "kernels-correct": "benchmarks.gpu.kernels_correct",
    "roofline": "benchmarks.gpu.roofline",
    "kernels-race": "benchmarks.gpu.kernels_race",
    "traces": "benchmarks.gpu.traces",
    "qwen": "benchmarks.gpu.qwen",
    "predict": "benchmarks.gpu.predict",
    "techniques": "benchmarks.techniques",
}
"""Their modules: each is imported when its turn comes, since it may need what is not there."""
SHARES = {"kernels-race": 4, "truth": 2, "kernels-correct": 2}
"""Of the time; one for every other section. What a section leaves over goes to the next ones."""
NAMED = 5
"""How many of what was left out are named in a table; the JSON file has them all."""
FILTERED = ("kernels-correct", "kernels-race")


def share(names: list[str], place: int, left: float) -> float:
    """The seconds that a section gets of those left."""
    weights = [SHARES.get(name, 1) for name in names[place:]]
    return left * weights[0] / sum(weights)


def absent(device: str) -> str:
    """Why nothing can be measured on that device, or nothing."""
    import torch

    if device != "cuda":
        return "" if device == "cpu" else f"there is no device {device!r}: it is cuda or cpu"
    if torch.cuda.is_available():
        return ""
    version = f"torch {torch.__version__}"
    build = version if torch.version.cuda else f"{version}, which is built without CUDA"
    return f"there is no CUDA device here ({build}); --device cpu tries the suite out"


def unknown(sections: list[str], only: str, arms: str) -> str:
    """What chooses nothing, and would use up the time for nothing; empty if all is known."""
    from benchmarks.gpu.arms import arms_of
    from benchmarks.gpu.kernel_cases import KERNELS, correct, race

    if not sections:
        return "no section is chosen"
    known = dict.fromkeys(arm.name for kernel in KERNELS for arm in arms_of(kernel))
    if wrong := [name for name in arms.split(",") if name and name not in known]:
        return f"there is no arm {wrong[0]!r}; there are {', '.join(known)}"
    makers = {"kernels-correct": correct, "kernels-race": race}
    for section in [name for name in sections if only and name in makers]:
        if not any(only in case.label for kernel in KERNELS for case in makers[section](kernel)):
            return f"no case of {section} has {only!r} in its label"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; 0 when all that ran went as it should and every section was whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="[%(default)s]")
    parser.add_argument("--minutes", type=float, default=9, help="for all of them [%(default)s]")
    parser.add_argument("--device", default="cuda", help="cpu tries the suite out [%(default)s]")
    parser.add_argument("--only", default="", help="kernel cases with this in their labels")
    parser.add_argument("--arms", default="", help="of the race, with commas between; all without")
    args = parser.parse_args(argv)
    names = [name for name in args.sections.split(",") if name]
    if wrong := [name for name in names if name not in SECTIONS]:
        parser.error(f"there is no section {wrong[0]!r}; there are {', '.join(SECTIONS)}")
    if not 0 <= args.minutes < float("inf"):
        parser.error(f"{args.minutes:g} minutes are no time")
    if reason := absent(args.device) or unknown(names, args.only, args.arms):
        parser.error(reason)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror or error}")
    end = time.monotonic() + args.minutes * 60
    whole = True
    for place, name in enumerate(names):
        now = time.monotonic()
        until = now + share(names, place, end - now)
        more = {"only": args.only} if name in FILTERED else {}
        more |= {"arms": args.arms} if name == "kernels-race" else {}
        more |= {"out": args.out} if name == "traces" else {}
        error, section = "", None
        journal.begin(args.out / "journal.jsonl", name)
        try:
            section = importlib.import_module(SECTIONS[name])
            rows, left = section.measure(args.device, until, **more)
            table = section.table(rows)
        # An engine that is gone exits.
        except (Exception, SystemExit) as failure:
            traceback.print_exc()
            error = f"{type(failure).__name__}: {failure}"
            rows, left, table = [], [], f"Failed: {error}"
        found = {**surroundings(), "section": name, "error": error, "rows": rows, "left_out": left}
        (args.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        if left:
            why = section.lack(args.device) if hasattr(section, "lack") else ""
            told = [*left[:NAMED], *([f"and {len(left) - NAMED} more"] if left[NAMED:] else [])]
            table += f"\n\nLeft out ({why or 'for want of time'}): {', '.join(told)}."
        head = ", ".join(f"{key} {value}" for key, value in surroundings().items())
        (args.out / f"{name}.md").write_text(f"# {name}\n\n{head}\n\n{table}\n")
        print(f"{name}\n{table}\n", flush=True)
        whole &= not error and not left and all(row["outcome"] in row["expected"] for row in rows)
    try:
        told = goals.page(args.out)
    except Exception:
        # What was measured is written by now.
        traceback.print_exc()
        return 1
    (args.out / "goals.md").write_text(f"# goals\n\n{told}\n")
    print(f"goals\n{told}", flush=True)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
