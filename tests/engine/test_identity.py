"""What is measured is what is exported: the same losses and the same peak, byte for byte.

The burst runs in the engine. The exported file runs twice in processes of its own: once alone,
as a user would run it, and once under the meter.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.catalog import resolve
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, override, plan_data, plan_from, problems
from memwb.engine.protocol import Device, Ended, Ready, Start, decode_event, encode
from memwb.engine.script import script
from memwb.engine.technique import parameters_of, techniques, unavailable

pytestmark = pytest.mark.long

CPU = Device(kind="cpu", name="CPU", capacity=2**34)

ALONE = """
import contextlib, gc, importlib, inspect, io, json, os, runpy, sys
import torch, transformers, peft, bitsandbytes, transformers.optimization, torch._dynamo
import peft.tuners.ia3.bnb, peft.tuners.lora.bnb, peft.utils.transformers_weight_conversion
import torch.profiler._cupti_monitor, pydoc_data.topics, tomllib, msgspec
kinds, paths = sys.argv[1].split(), sys.argv[2:]
for kind in kinds:
    importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
assert not [name for name in sys.modules if name.startswith("memwb")]
# Torch and transformers make these once a process, and take long: here for all of the forks.
inspect.getmodule(compile("0", "no file of ours", "eval"))
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
get_checkpoint_conversion_mapping("llama")
# What is imported is no garbage: each collection under the meter would walk through it.
gc.collect()
gc.freeze()

def forked(work):
    reading, writing = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writing, "w") as out:
            out.write(json.dumps(work()))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        text = result.read()
    os.wait()
    return json.loads(text)

def losses():
    out = io.StringIO()
    sys.argv = [path]
    with contextlib.redirect_stdout(out):
        runpy.run_path(path, run_name="__main__")
    assert not [name for name in sys.modules if name.startswith("memwb")]
    return [line.split()[-1] for line in out.getvalue().splitlines() if line.startswith("step ")]

def peak():
    from pathlib import Path
    from memwb.engine.trainer.burst import run_file
    with contextlib.redirect_stdout(io.StringIO()):
        ended = run_file(Path(path), [], lambda event: None)
    found = ended.peak
    names = found.categories.__struct_fields__
    return [found.allocated, found.phase, [getattr(found.categories, name) for name in names]]

alone = []
for path in paths:
    alone.append(forked(losses))
# Only now, for all that are metered.
import memwb.engine.trainer.burst, memwb.engine.trainer.cpu
gc.collect()
gc.freeze()
for path, printed in zip(paths, alone):
    print(json.dumps([printed, forked(peak)]), flush=True)
"""


def plans(checkpoint: Path, folders: list[Path]) -> list[Plan]:
    """One plan for each technique that a CPU can run, then twenty at random; all can run."""
    rng = random.Random(2)
    base = plan_from({"model": str(checkpoint), "workload": {"sequence_length": 48, "steps": 3}})
    found = [plan for name in techniques() if runs(plan := switched_on(base, name))]
    alone = len(found)
    # Compiling takes longer than all the rest: it has its one plan.
    quick = [name for name, one in techniques().items() if one.group != "compile"]
    while len(found) < alone + 20:
        plan = override(base, f"model={rng.choice([checkpoint, *folders])}")
        plan = override(plan, f"batch_size={rng.randint(1, 3)}")
        plan = override(plan, f"sequence_length={rng.randint(2, 70)}")
        plan = override(plan, f"gradient_accumulation={rng.randint(1, 3)}")
        plan = override(plan, f"steps={rng.randint(1, 4)}")
        plan = override(plan, f"seed={rng.randint(0, 9)}")
        for name in rng.sample(quick, rng.randint(1, 6)):
            plan = switched_on(plan, name)
            for parameter in parameters_of(techniques()[name]):
                choices = [one for one in parameter.choices if one is not None]
                if choices and "aot_eager" not in choices and rng.random() < 0.5:
                    plan = override(plan, f"{name}.{parameter.name}={rng.choice(choices)}")
        if not problems(plan, resolve(plan.model).config) and runs(plan):
            found.append(plan)
    return found


def switched_on(plan: Plan, name: str) -> Plan:
    """The plan with the technique and what it needs; compiled without the slow back end."""
    plan = override(plan, f"{name}=on")
    for parameter in parameters_of(techniques()[name]):
        if "aot_eager" in parameter.choices:
            plan = override(plan, f"{name}.{parameter.name}=aot_eager")
    for need in techniques()[name].needs:
        if not set(need.names) & set(plan.techniques):
            plan = switched_on(plan, need.names[0])
    return plan


def runs(plan: Plan) -> bool:
    """Whether a CPU has what the plan's techniques ask of the machine."""
    return not any(
        unavailable(techniques()[name], plan.techniques[name], CPU) for name in plan.techniques
    )


def run_bursts(command: list[str], wanted: list[Plan]) -> Iterator[Ended]:
    """Run each plan as a burst of one engine."""
    commands = b"".join(
        encode(Start(plan_data(plan), device="cpu", burst=str(number)))
        for number, plan in enumerate(wanted)
    )
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as engine:
        assert engine.stdin is not None and engine.stdout is not None
        lines = iter(commands.splitlines(keepends=True))
        for line in engine.stdout:
            event = decode_event(line)
            if isinstance(event, Ended):
                yield event
            if isinstance(event, Ready | Ended):
                command = next(lines, None)
                if command is None:
                    engine.stdin.close()
                else:
                    engine.stdin.write(command)
                    engine.stdin.flush()


@pytest.fixture(scope="module")
def results(
    warm: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, families: dict[str, Any]
) -> list[tuple[Plan, Ended, list[Any]]]:
    """Each plan with the end of its burst and what its exported file did."""
    folder = tmp_path_factory.mktemp("exported")
    folders = []
    for name, config in families.items():
        folders.append(folder / name)
        folders[-1].mkdir()
        (folders[-1] / "config.json").write_text(json.dumps(config))
    wanted = plans(checkpoint, folders)
    paths = []
    for number, plan in enumerate(wanted):
        paths.append(folder / f"train-{number}.py")
        paths[-1].write_text(script(plan, resolve(plan.model)), encoding="utf-8")
    kinds = {str(config["model_type"]).removesuffix("_text") for config in families.values()}
    # Both at once: there are two cores nearly everywhere.
    log = folder / "alone.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", ALONE, " ".join(kinds), *map(str, paths)],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder,
        ) as alone,
    ):  # fmt: skip
        ended = list(run_bursts(warm.python("-m", "memwb.engine"), wanted))
        out = alone.communicate()[0]
    assert alone.returncode == 0, log.read_text()
    exported = [json.loads(line) for line in out.splitlines()]
    return list(zip(wanted, ended, exported, strict=True))


def test_losses_are_identical(results: list[tuple[Plan, Ended, list[Any]]]) -> None:
    for plan, ended, (losses, _) in results:
        assert ended.outcome == "done", (plan_data(plan), ended)
        assert [f"{loss:.6f}" for loss in ended.losses] == losses, plan_data(plan)


def test_peaks_are_the_same_bytes(results: list[tuple[Plan, Ended, list[Any]]]) -> None:
    for plan, ended, (_, (allocated, phase, categories)) in results:
        assert ended.peak is not None
        found = ended.peak
        names = found.categories.__struct_fields__
        measured = [getattr(found.categories, name) for name in names]
        assert (found.allocated, found.phase, measured) == (allocated, phase, categories), (
            plan_data(plan)
        )
        assert sum(categories) == allocated


def test_the_plans_reach_every_technique_and_family(
    results: list[tuple[Plan, Ended, list[Any]]], families: dict[str, Any]
) -> None:
    able = {name for name in techniques() if not unavailable(techniques()[name], None, CPU)}
    assert {name for plan, *_ in results for name in plan.techniques} >= able
    assert len({plan.model for plan, *_ in results}) >= len(families) - 2


def test_a_bad_plan_has_no_script(checkpoint: Path) -> None:
    plan = plan_from({"model": str(checkpoint), "techniques": {"quantize_4bit": {}}})
    with pytest.raises(MemwbError, match="needs LoRA"):
        script(plan, resolve(plan.model))
