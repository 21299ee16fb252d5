"""``memwb export``: the script of a plan, in a folder of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
from pathlib import Path

from memwb.engine.catalog import Model, resolve
from memwb.engine.data import check_data
from memwb.engine.devices import assumed, device_for
from memwb.engine.errors import MemwbError
from memwb.engine.gpus import gpus
from memwb.engine.plan import Plan, plan_data, plan_toml, problems
from memwb.engine.presets import load_plan
from memwb.engine.protocol import Device, Peak, Predict, Predicted
from memwb.engine.question import recalled
from memwb.engine.runs import list_runs, read_plan
from memwb.engine.script import script
from memwb.workbench.headless.output import narrate, print_json, rate, size


def export(arguments: argparse.Namespace) -> int:
    """Write train.py and plan.toml; standard output tells the files and the command to start."""
    plan = check_data(load_plan(arguments.plan, arguments.overrides))
    model = resolve(plan.model, plan.weights, arguments.allow_pickle, arguments.trust_remote_code)
    told = kept_prediction(plan)
    folder = write(plan, model, Path(arguments.directory), arguments.force, arguments.merge, told)
    if lack := not_here(plan, assumed("auto")):
        narrate(lack)
    file, saved = (shlex.quote(str(folder / name)) for name in ("train.py", "model"))
    launch = f"python {file} --output {saved}"
    if arguments.json:
        files = [str(folder / name) for name in ("train.py", "plan.toml")]
        print_json({"folder": str(folder), "files": files, "launch": launch})
    else:
        narrate(f"wrote train.py and plan.toml to {folder}; train with")
        print(launch)
    return 0


def not_here(plan: Plan, device: Device) -> str:
    """Why a script that can be written cannot run on this device; empty if it can."""
    found = [problem for problem in problems(plan, None, device) if problem.here]
    lacks = "; ".join(f"{problem.technique}: {problem.reason}" for problem in found)
    return f"train.py cannot run here, on {device.name} ({lacks})" if found else ""


def write(
    plan: Plan,
    model: Model,
    folder: Path,
    force: bool = False,
    merge: bool = False,
    predicted: tuple[str, Peak] | None = None,
) -> Path:
    """Write the plan's script and the plan into a folder; returns its absolute path.

    With ``merge`` the script saves one model, its adapters added into the weights; ``predicted``
    is what stands in its header where nothing was measured. Raises
    MemwbError if they are there already (unless ``force``) or cannot be written.
    """
    # Unlike Path's, this one leaves the ~ of a user there is not.
    folder = Path(os.path.expanduser(folder)).absolute()
    texts = {
        "train.py": script(plan, model, evidence(plan, model, predicted), merge),
        "plan.toml": plan_toml(plan),
    }
    # Unlike Path.exists, which raises where one may not look or a name is too long.
    there = [name for name in texts if os.path.exists(folder / name)]
    if there and not force:
        raise MemwbError(
            "Nothing was written",
            f"{folder} already holds {' and '.join(there)}",
            "Choose another folder, or overwrite with --force.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MemwbError(
            "The script cannot be written",
            f"{error.filename or folder}: {error.strerror}",
            "Choose a folder that can be written to.",
        ) from None
    return folder


def evidence(plan: Plan, model: Model, predicted: tuple[str, Peak] | None = None) -> str:
    """What the newest finished run of this very plan measured, for the script's header.

    Where none was, what is predicted: a target and a peak, else that of a run that did not finish.
    """
    runs = []
    with contextlib.suppress(MemwbError):  # what cannot be listed is no evidence: no more than none
        runs = list_runs()
    for run in runs:
        counts = (run.outcome == "done" and run.peak) or (run.predicted and not predicted)
        if not counts or run.weights != model.weights:
            continue
        try:
            same = read_plan(run.folder) == plan
        except MemwbError:
            continue  # a damaged folder is no evidence
        where = run.device_name or run.device
        if same and run.outcome == "done" and run.peak is not None:
            line = f"Measured on {run.created[:10]} ({run.device}, {where}): {_figures(run.peak)}; "
            return line + rate(run.tokens_per_second).replace("–", "speed not timed") + "."
        if same and run.predicted is not None:
            predicted = (where, run.predicted)
    if predicted is not None:
        target, peak = predicted
        return f"Not measured yet. Predicted for {target}: {_figures(peak)}."
    return ""


def kept_prediction(plan: Plan) -> tuple[str, Peak] | None:
    """A target and the peak that was predicted for it: for this machine, else the first kept one.

    An engine that MEMWB_ENGINE names may be that of another machine: what is kept is not its.
    """
    if os.environ.get("MEMWB_ENGINE"):
        return None
    here = device_for("auto")
    for target in ("", *(gpu.id for gpu in gpus()), "cpu"):
        for event in recalled(Predict(plan_data(plan), target), here)[:1]:
            if isinstance(event, Predicted):
                return event.result.target, event.result.peak
    return None


def _figures(peak: Peak) -> str:
    line = f"peak {size(peak.allocated)} allocated in {peak.phase}, {size(peak.reserved)} reserved"
    # On a CPU nothing is predicted beyond tensors.
    return line if peak.device == peak.allocated else f"{line}, {size(peak.device)} on the device"
