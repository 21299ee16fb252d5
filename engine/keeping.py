"""What becomes of recorded runs: one is pinned as the baseline, others are deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from memwb.engine import paths, remarks
from memwb.engine.errors import MemwbError
from memwb.engine.runs import Summary, being_written, list_runs, plain_name


def given_name(run: Summary) -> str:
    """The name that somebody gave a run; empty where it is called by its techniques."""
    return "" if run.name == plain_name(run.techniques) else run.name


def pin_run(run: Summary) -> None:
    """Make a run the baseline that others are held against, in the place of any other.

    Raises MemwbError when it is no run of the history, or when that cannot be kept.
    """
    if run.outcome == "damaged":
        raise MemwbError(f"Run {run.run} cannot be the baseline", run.what, run.fix)
    if Path(run.folder).parent != paths.runs_folder():
        raise MemwbError(
            "Only a run of the history can be the baseline",
            f"{run.folder} is not in {paths.runs_folder()}",
            "Copy the folder there under a free number.",
        )
    since = remarks.pin(run.folder)
    # One that another workbench has pinned after this is the baseline now: it stays.
    unpin_runs(other for other in list_runs() if other.pinned < since)


def unpin_runs(runs: Iterable[Summary]) -> None:
    """None of these is the baseline any more. Raises MemwbError when that cannot be kept."""
    for run in runs:
        if run.pinned:
            remarks.unpin(run.folder)


def delete_run(run: Summary) -> None:
    """Delete a run's folder with all that is in it.

    Raises MemwbError when it is still being written, is no run of the history, or cannot be
    deleted.
    """
    folder, root = Path(run.folder), paths.runs_folder()
    if folder.parent != root or not folder.name.isdigit():
        raise MemwbError(
            "Only a run of the history can be deleted",
            f"{folder} is not in {root}",
            "Delete the folder itself if it is of no use.",
        )
    if being_written(folder):
        raise MemwbError(
            f"Run {run.run} is still running", str(folder), "Stop it first, or let it end."
        )
    import shutil  # it brings compression along, which no start of the workbench needs

    # Out of the history in one move: a reader sees the whole run or none of it.
    bin_ = root / f".deleted-{folder.name}-{os.getpid()}"
    try:
        if folder.is_symlink():
            folder.unlink()
            return
        os.rename(folder, bin_)
        shutil.rmtree(bin_)
    except FileNotFoundError:
        return  # another workbench was faster
    except OSError as error:
        raise MemwbError(
            f"Run {run.run} cannot be deleted",
            f"{error.filename or folder}: {error.strerror}",
            f"Make {root} writable, or delete the folder by hand.",
        ) from None
