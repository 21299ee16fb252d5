"""The runs: one numbered folder each, holding the plan, the script, the events, the summary.

What a person says of a run (its name, a note, a pin) stands beside them: see ``remarks``.

The folder is the truth. ``summary.json`` stands from the first moment, says ``running``, and is
written anew when the burst is over; the writer holds a lock on ``events.jsonl`` meanwhile, so a
run that says ``running`` without a lock was interrupted.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from memwb.engine import paths, remarks
from memwb.engine import plan as plans
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Alive,
    AllPredicted,
    Beat,
    Ended,
    Event,
    Hello,
    Loss,
    Peak,
    Predicted,
    Problem,
    Ready,
    Started,
    Step,
    Toggled,
    Unpredicted,
    decode_event,
    encode,
)
from memwb.engine.rereading import reread
from memwb.engine.technique import techniques

PLAN, SCRIPT, EVENTS, SUMMARY = "plan.toml", "train.py", "events.jsonl", "summary.json"
OVER = ("done", "oom", "failed", "stopped")
"""Outcomes that the summary alone tells."""
NOT_OF_A_RUN = Hello | Ready | Problem | Beat | Predicted | Toggled | Unpredicted | AllPredicted
"""What the engine says beside a burst: no part of its record."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is worth knowing of a run at a glance."""

    run: int
    folder: str
    outcome: str
    """done, oom, failed or stopped; running; interrupted (its writer died); damaged."""
    name: str = ""
    """What tells it from its neighbours: a name that was given, else its techniques."""
    note: str = ""
    """What a person has put down of it."""
    pinned: str = ""
    """When it was made the baseline, if it was; the run pinned last is the baseline."""
    created: str = ""
    """When it started: ISO 8601, UTC."""
    model: str = ""
    weights: str = ""
    """pretrained or random: what the burst really took."""
    techniques: list[str] = []
    """Those named in the plan."""
    device: str = ""
    """cuda or cpu."""
    device_name: str = ""
    steps: int = 0
    peak: Peak | None = None
    losses: list[Loss] = []
    """One a step; NaN where it was no finite number."""
    tokens_per_second: float | None = None
    padding: float | None = None
    """The share of positions that trained nothing, of 1."""
    predicted: Peak | None = None
    """What had been predicted of the plan for where it ran; None where nothing had."""
    seconds: float = 0.0
    title: str = ""
    what: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        losses = [math.nan if loss is None else loss for loss in self.losses]
        msgspec.structs.force_setattr(self, "losses", losses)


class Recorder:
    """Writes one run's folder while its burst lasts."""

    def __init__(self, summary: Summary, stream: BinaryIO) -> None:
        self.summary = summary
        self._stream = stream

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.summary.folder)

    def event(self, event: Event) -> None:
        """Keep an event; ``Ended`` completes the summary and closes the run.

        Raises MemwbError when it cannot be written (the disk is full).
        """
        if isinstance(event, NOT_OF_A_RUN) or self._stream.closed:
            return
        with _writing(self.folder):
            self._stream.write(encode(event))
            self._stream.flush()
            if isinstance(event, Ended):
                self._complete(event)

    def foretold(self, peak: Peak) -> None:
        """Keep what had been predicted of the plan, told only after the burst had started.

        Raises MemwbError when it cannot be written.
        """
        with _writing(self.folder):
            self.summary = msgspec.structs.replace(self.summary, predicted=peak)
            _write_summary(self.summary)

    def close(self) -> None:
        """Give the run up: without an ``Ended`` it counts as interrupted. Idempotent."""
        self._stream.close()

    def _complete(self, ended: Ended) -> None:
        self.summary = msgspec.structs.replace(
            self.summary,
            outcome=ended.outcome,
            peak=ended.peak,
            losses=list(ended.losses),
            tokens_per_second=ended.tokens_per_second,
            padding=ended.padding,
            seconds=ended.seconds,
            title=ended.title,
            what=ended.what,
            fix=ended.fix,
        )
        _write_summary(self.summary)
        self._stream.close()


def record(plan: Plan, started: Started, name: str = "", predicted: Peak | None = None) -> Recorder:
    """Make the folder of a burst that has just started, and keep what comes.

    The next free number is taken in one step, so that two writers never share a folder.
    Raises MemwbError when nothing can be written there.
    """
    root = paths.runs_folder()
    # Not in the order in which they came to be switched on: two runs of one plan are called alike.
    used = [each for each in techniques() if each in plan.techniques]
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        number, folder = _claim(root)
        stream = (folder / EVENTS).open("ab")
        _lock(stream)
        summary = Summary(
            run=number,
            folder=str(folder),
            outcome="running",
            name=name or plain_name(used),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=plan.model,
            weights=started.weights,
            techniques=used,
            device=started.device.kind,
            device_name=started.device.name,
            steps=started.steps,
            predicted=predicted,
        )
        _write_summary(summary)
        (folder / PLAN).write_text(plans.plan_toml(plan), encoding="utf-8")
        (folder / SCRIPT).write_text(started.script, encoding="utf-8")
    recorder = Recorder(summary, stream)
    recorder.event(started)
    return recorder


def list_runs() -> list[Summary]:
    """Every run, the newest first; folders that cannot be read are listed as damaged."""
    root = paths.runs_folder()
    try:
        with os.scandir(root) as found:
            folders = [each.path for each in found if _number(each.name) and each.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MemwbError(
            "The runs cannot be listed", f"{root}: {error.strerror}", "Make the folder readable."
        ) from None
    folders.sort(key=lambda folder: _number(os.path.basename(folder)), reverse=True)
    # A history of thousands is listed whenever one of them is shown.
    files = (SUMMARY, remarks.REMARKS)
    return reread(
        folders, files, lambda each: read_summary(Path(each)), lambda run: run.outcome in OVER
    )


def pinned(runs: Iterable[Summary]) -> Summary | None:
    """The baseline among runs: the one pinned last; None when none is."""
    return max((run for run in runs if run.pinned), key=lambda run: run.pinned, default=None)


def find_run(text: str) -> Summary:
    """The run of a number (``7``, ``#7``, ``0007``), of ``latest`` or ``pinned``, or of a folder.

    Raises MemwbError when there is none.
    """
    name = text.strip()
    root = paths.runs_folder()
    number = _number(name.removeprefix("#"))
    if number:
        for folder in (root / f"{number:04}", root / name.removeprefix("#")):
            if folder.is_dir():
                return read_summary(folder)
    if name == "latest":
        found = list_runs()
        if found:
            return found[0]
        raise MemwbError("There are no runs yet", str(root), "Make one: memwb run tiny-demo")
    if name == "pinned":
        if baseline := pinned(list_runs()):
            return baseline
        raise MemwbError("No run is pinned", str(root), "Pin one: memwb runs pin RUN")
    folder = Path(name).expanduser()
    if name and any(os.path.isfile(folder / part) for part in (SUMMARY, EVENTS)):
        return read_summary(folder.absolute())
    raise MemwbError(
        f"There is no run {text!r}",
        "a run is a number, latest, pinned, or a run's folder",
        "See `memwb runs list`.",
    )


def read_summary(folder: Path) -> Summary:
    """The summary of a run's folder, with what was said of it.

    What is wrong with it is told in the summary itself.
    """
    summary, said = _summary_in(folder), remarks.read_remarks(folder)
    name = said.name or summary.name
    return msgspec.structs.replace(summary, name=name, note=said.note, pinned=said.pinned)


def _summary_in(folder: Path) -> Summary:
    number = _number(folder.name)
    try:
        summary = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=Summary)
    except FileNotFoundError:
        return _damaged(number, folder, f"{SUMMARY} is missing")
    except OSError as error:
        return _damaged(number, folder, f"{SUMMARY}: {error.strerror}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _damaged(number, folder, f"{SUMMARY}: {error}")
    # A folder may have been moved or copied: where it lies is what counts.
    summary = msgspec.structs.replace(summary, run=number or summary.run, folder=str(folder))
    if summary.outcome == "running" and not _locked(folder / EVENTS):
        return _interrupted(summary)
    return summary


def read_events(folder: Path | str) -> Iterator[Event]:
    """The events of a run in their order. Raises MemwbError when there are none to read.

    A line that is no event (the writer died within it) is passed over.
    """
    file = Path(folder) / EVENTS
    try:
        stream = file.open("rb")
    except OSError as error:
        raise MemwbError(
            "The run has no events to read", f"{file}: {error.strerror}", "See `memwb runs list`."
        ) from None
    with stream:
        for line in stream:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield decode_event(line)


def read_alive(folder: Path | str) -> Alive | None:
    """What was alive at a run's peak, or when memory ran out; None where it was not recorded."""
    with contextlib.suppress(MemwbError):
        ends = [event for event in read_events(folder) if isinstance(event, Ended)]
        return ends[-1].alive if ends else None
    return None


def read_plan(folder: Path | str) -> Plan:
    """The plan of a run. Raises MemwbError when it is missing or wrong."""
    return plans.read_plan(Path(folder) / PLAN)


def being_written(folder: Path | str) -> bool:
    """Whether somebody still records the run of that folder."""
    return _locked(Path(folder) / EVENTS)


def plain_name(techniques: Iterable[str]) -> str:
    """What a run is called that nobody has named: by its techniques."""
    return " + ".join(techniques) or "plain"


def _claim(root: Path) -> tuple[int, Path]:
    """A new folder with the next number. mkdir either makes it or fails: nobody shares one."""
    number = max((_number(folder.name) for folder in root.iterdir()), default=0)
    while True:
        number += 1
        folder = root / f"{number:04}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return number, folder


def _number(name: str) -> int:
    """The number of a run's folder, or 0 if that is no such name."""
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 else 0


def _write_summary(summary: Summary) -> None:
    """The whole summary or the one before it: a reader never sees half of it."""
    file = Path(summary.folder) / SUMMARY
    part = file.with_suffix(".part")
    # The remarks have a file of their own, whose words count.
    found = {name: getattr(summary, name) for name in summary.__struct_fields__}
    found = {name: value for name, value in found.items() if name not in ("note", "pinned")}
    part.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    os.replace(part, file)


def _interrupted(summary: Summary) -> Summary:
    losses: list[float] = []
    with contextlib.suppress(MemwbError, OSError):
        losses = [event.loss for event in read_events(summary.folder) if isinstance(event, Step)]
    return msgspec.structs.replace(
        summary,
        outcome="interrupted",
        losses=losses,
        title="The run was interrupted",
        what="memwb ended before the burst was over",
        fix="Run the plan again.",
    )


def _damaged(number: int, folder: Path, reason: str) -> Summary:
    return Summary(
        run=number,
        folder=str(folder),
        outcome="damaged",
        title="The run's folder is damaged",
        what=reason,
        fix=f"Delete {folder} when it is of no use.",
    )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MemwbError(
            "The run cannot be recorded",
            f"{error.filename or folder}: {error.strerror}",
            "Make room there, make it writable, or set MEMWB_HOME to another folder.",
        ) from None


def _lock(stream: BinaryIO) -> None:
    """Hold the events for as long as the stream is open; the system frees it if we die."""
    try:
        import fcntl
    except ImportError:  # Windows has neither this lock nor a burst, which is a fork.
        return
    # A file system without locks (some network ones) still takes the run.
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(file: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
