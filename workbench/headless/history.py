"""``memwb runs``: the history, what is said of its runs, and what differs between them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from memwb.engine import keeping, remarks
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.guard import Verdict, between, compare, outside, verdict_on
from memwb.engine.plan import Plan, plan_data
from memwb.engine.runs import Summary, find_run, list_runs, pinned, read_alive, read_plan
from memwb.workbench import comparing, library
from memwb.workbench.deviation import verdict_line
from memwb.workbench.headless.output import (
    columns,
    loss,
    on_terminal,
    print_error,
    print_json,
    rate,
    size,
    table,
)
from memwb.workbench.headless.run import peak_table
from memwb.workbench.headless.tensors import alive_text
from memwb.workbench.ordering import at_least, matching, order_named, sorted_runs, whole_peak
from memwb.workbench.units import delta, printable, seconds
from memwb.workbench.waste import waste

A_RUN = "A run is a number, latest, pinned, or a run's folder."


class Action(NamedTuple):
    """One thing that ``memwb runs`` does."""

    does: Callable[[list[str], argparse.Namespace], int]
    takes: str
    fewest: int
    most: int


def runs(arguments: argparse.Namespace) -> int:
    """List the runs, show one, compare some, say something of one, delete some."""
    wanted = ACTIONS.get(arguments.action)
    if wanted is None:
        raise MemwbError(
            f"memwb runs cannot do {arguments.action!r}",
            nearest(arguments.action, ACTIONS),
            f"It can {', '.join(ACTIONS)}: see `memwb runs --help`.",
        )
    words: list[str] = arguments.words
    if not wanted.fewest <= len(words) <= wanted.most:
        raise MemwbError(
            f"memwb runs {arguments.action} takes {wanted.takes}",
            f"given: {' '.join(words) or 'none'}",
            A_RUN if "name" not in wanted.takes else f"{A_RUN} Put more than a word in quotes.",
        )
    if arguments.action != "list" and (arguments.sort or arguments.filter or arguments.reverse):
        raise MemwbError(
            f"memwb runs {arguments.action} sorts and filters nothing",
            "--sort, --reverse and --filter are for `memwb runs list`",
            "Leave them out.",
        )
    return wanted.does(words, arguments)


def _list(_: list[str], arguments: argparse.Namespace) -> int:
    order = order_named(arguments.sort or "time").name
    known = list_runs()
    called = library.called(known) if arguments.filter else {}
    found = sorted_runs(matching(known, arguments.filter, called), order, arguments.reverse)
    if arguments.json:
        print_json(found)
        return 0
    beyond, baseline = outside(known), pinned(known)
    header = ["run", "when (UTC)", "model", "what", "device", "outcome", "peak", "loss", "speed"]
    rows = [
        [
            f"{run.run}{'*' if run is baseline else ''}",
            run.created[:16].replace("T", " "),
            run.model,
            run.name,
            run.device,
            run.outcome,
            at_least(run) + size(run.peak.allocated if run.peak else None),
            f"{loss(run.losses[-1]) if run.losses else '–'}{_mark(run, beyond)}",
            rate(run.tokens_per_second),
        ]
        for run in found
    ]
    right = "0678"
    if baseline is not None:
        header.insert(7, f"to #{baseline.run}")
        for row, run in zip(rows, found, strict=True):
            row.insert(7, _to(run, baseline))
        right = "06789"
    if any(run.note for run in found):
        header.append("note")
        for row, run in zip(rows, found, strict=True):
            row.append(run.note.partition("\n")[0])
    nothing = "No run contains that" if known else "No runs yet: memwb run tiny-demo"
    print(table(rows, header, right=right) if rows else nothing)
    if any(run.folder in beyond for run in found):
        print("\n✗ a loss outside what its techniques allow: memwb runs show RUN")
    if baseline is not None and baseline in found:
        print(f"\n* run {baseline.run} is pinned: the peaks of the others are held against it")
    return 0


def _to(run: Summary, baseline: Summary) -> str:
    own, other = whole_peak(run), whole_peak(baseline)
    return "" if run is baseline or own is None or other is None else delta(own - other)


def _mark(run: Summary, beyond: frozenset[str]) -> str:
    """What stands beside a loss: nothing in a list without a mark, so that digits line up."""
    return "" if not beyond else " ✗" if run.folder in beyond else "  "


def _show(words: list[str], arguments: argparse.Namespace) -> int:
    run = find_run(words[0])
    damaged = run.outcome == "damaged"
    plan = None if damaged else _plan_of(run)
    shown = waste(run.padding, run.techniques)
    verdict = None if damaged else verdict_on(run, list_runs())
    alive = None if damaged else read_alive(run.folder)
    if arguments.json:
        summary = {name: getattr(run, name) for name in run.__struct_fields__}
        data = plan_data(plan) if plan else None
        print_json({**summary, "baseline": verdict, "plan": data, "alive": alive})
        return 0
    rows = [
        ("run", f"{run.run}  {run.name}{'  (pinned)' if run.pinned else ''}"),
        *(("note" if not at else "", text) for at, text in enumerate(run.note.splitlines())),
        ("when", run.created.replace("T", " ").replace("+00:00", " UTC")),
        ("model", f"{run.model}, {run.weights} weights"),
        ("device", f"{run.device}, {run.device_name}"),
        ("outcome", run.outcome),
        *((name, text) for name, text in (("", run.title), ("", run.what), ("", run.fix)) if text),
        ("took", seconds(run.seconds)),
        ("speed", rate(run.tokens_per_second)),
        *((("waste", f"{shown}: positions that train nothing"),) if shown else ()),
        ("loss", "  ".join(loss(value) for value in run.losses) or "–"),
        *((("", verdict_line(verdict)),) if verdict else ()),
        ("folder", run.folder),
    ]
    if damaged:
        rows = [row for row in rows if row[0] in ("outcome", "", "note", "folder")]
    print(table(rows))
    if run.peak:
        print("\n" + peak_table(run.peak, run.predicted))
        told = alive_text(alive, columns()) if alive else "what was alive then was not recorded"
        print(f"\n{told}")
    if plan:
        values = comparing.values_of(plan)
        print("\n" + table([(f"{path} =", value) for path, value in values.items()]))
    return 0


def _plan_of(run: Summary) -> Plan | None:
    """The run's plan; where it cannot be read that is said, and the rest is shown all the same."""
    try:
        return read_plan(run.folder)
    except MemwbError as error:
        print_error(error.title, error.what, "")
        return None


def _compare(words: list[str], arguments: argparse.Namespace) -> int:
    chosen = [find_run(text) for text in words]
    for run in chosen:
        if run.outcome == "damaged":
            raise MemwbError(f"Run {run.run} cannot be compared", run.what, run.fix)
    sides = [
        comparing.side(run, read_plan(run.folder))._replace(alive=read_alive(run.folder))
        for run in chosen
    ]
    verdicts = [_verdict(chosen[0], other) for other in chosen[1:]]
    if arguments.json:
        found = comparing.figures(sides)
        apart = [pair and {"largest": pair[0], "step": pair[1]} for pair in comparing.apart(sides)]
        print_json(
            {
                "runs": chosen,
                "plan": comparing.plan_differences(sides),
                "peak": found,
                "largest": [comparing.largest(side) for side in sides],
                "predicted": [run.predicted and run.predicted.allocated for run in chosen],
                "difference": {name: _changes(sizes) for name, sizes in found.items()},
                "loss": apart,
                "baseline": verdicts,
            }
        )
        return 0
    rows: list[tuple[str, ...]] = []
    for line in comparing.lines(sides):
        first, *others = line.values
        pairs = zip(others, line.gaps, strict=True)
        rows.append((line.name, first, *(text for pair in pairs for text in pair)))
    header = ["", f"run {sides[0].run}"]
    for other in sides[1:]:
        header += [f"run {other.run}", "difference"]
    print(table(rows, header, right="".join(map(str, range(1, len(header))))))
    told = [(run, verdict) for run, verdict in zip(chosen[1:], verdicts, strict=True) if verdict]
    for at, (run, verdict) in enumerate(told):
        print(f"{'' if at else chr(10)}run {run.run}: {verdict_line(verdict)}")
    return 0


def _changes(sizes: Sequence[int | None]) -> list[int | None]:
    """How the sizes after the first differ from it."""
    first, *others = sizes
    return [None if first is None or other is None else other - first for other in others]


def _verdict(first: Summary, other: Summary) -> Verdict | None:
    """A run held against the first one; None where they cannot be compared."""
    baseline = between(other, first)
    return compare(other.losses, baseline) if baseline is not None else None


def _rename(words: list[str], arguments: argparse.Namespace) -> int:
    run = find_run(words[0])
    remarks.rename(run.folder, words[1])
    return _told(run, arguments, lambda now: f"run {now.run} is called {printable(now.name)}")


def _note(words: list[str], arguments: argparse.Namespace) -> int:
    run = find_run(words[0])
    if len(words) > 1:
        remarks.annotate(run.folder, sys.stdin.read() if words[1] == "-" else words[1])
        return _told(
            run, arguments, lambda now: f"run {now.run} has {'a' if now.note else 'no'} note"
        )
    return _told(run, arguments, lambda now: _lines(now.note) or f"run {now.run} has no note")


def _lines(note: str) -> str:
    return "\n".join(map(printable, note.splitlines()))


def _pin(words: list[str], arguments: argparse.Namespace) -> int:
    run = find_run(words[0])
    keeping.pin_run(run)
    return _told(run, arguments, lambda now: f"run {now.run} is pinned: {printable(now.name)}")


def _unpin(_: list[str], arguments: argparse.Namespace) -> int:
    keeping.unpin_runs(list_runs())
    if arguments.json:
        print_json({"pinned": None})
    else:
        print("no run is pinned")
    return 0


def _told(run: Summary, arguments: argparse.Namespace, text: Callable[[Summary], str]) -> int:
    """Tell what was said of a run, as it stands in its folder now."""
    now = find_run(run.folder)
    if arguments.json:
        print_json(now)
    else:
        print(text(now))
    return 0


def _delete(words: list[str], arguments: argparse.Namespace) -> int:
    chosen = list({run.folder: run for run in map(find_run, words)}.values())
    names = printable(", ".join(f"{run.run} ({run.name or run.outcome})" for run in chosen))
    if not arguments.yes:
        if not on_terminal():
            raise MemwbError(
                "Nothing was deleted",
                f"nobody can be asked here whether to delete run {names}",
                "Say --yes to delete without being asked.",
            )
        sys.stderr.write(f"delete run {names} for good? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise MemwbError("Nothing was deleted", "", "Answer y, or say --yes.")
    for run in chosen:
        keeping.delete_run(run)
    if arguments.json:
        print_json({"deleted": [run.run for run in chosen]})
    else:
        print(f"deleted: run {names}")
    return 0


ACTIONS = {
    "list": Action(_list, "no run", 0, 0),
    "show": Action(_show, "one run", 1, 1),
    "compare": Action(_compare, "two to four runs", 2, len(comparing.LETTERS)),
    "rename": Action(_rename, "a run and a name (an empty one takes it away)", 2, 2),
    "note": Action(_note, "a run and a note (empty: none; -: from standard input)", 1, 2),
    "pin": Action(_pin, "one run", 1, 1),
    "unpin": Action(_unpin, "no run", 0, 0),
    "delete": Action(_delete, "one run or more", 1, 999),
}
