"""Random plans, predicted for a CPU and then measured on one: how far the two are apart.

``python -m benchmarks.prediction [--plans 50] [--seed 1] [--only NAME,NAME] [--json FILE]`` draws
plans over small models of every family and prints a line for each: the peak predicted and measured,
the category that is furthest off and the phase whose maximum is, both in shares of the peak. Each
measurement and each prediction runs in a fork of its own. The exit code is 1 if a plan misses a
limit: 0.5 % of the peak, 1 % of it in a category, 1 % of a phase's maximum.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.catalog import resolve
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.memory import CATEGORIES, Categories
from memwb.engine.plan import Plan, override, plan_data, plan_from, problems
from memwb.engine.protocol import Device, Start, Timeline
from memwb.engine.script import script
from memwb.engine.technique import parameters_of, techniques, unavailable

LIMITS = {"peak": 0.005, "category": 0.01, "phase": 0.01}
"""Largest deviations, in shares of the measured figure; of the whole peak for a category."""
CPU = Device(kind="cpu", name="CPU", capacity=2**34)
SLOW = frozenset(("compile",))
"""Groups of techniques that are drawn only on demand: a plan takes longer than all the others."""

_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_GPT = {"n_embd": 64, "n_head": 4, "vocab_size": 320, "n_positions": 256}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "head_dim": 16},
    "mistral": {**_LLAMA, "head_dim": 16, "sliding_window": 32},
    "gemma2": {**_LLAMA, **_GEMMA, **_CAPS, "tie_word_embeddings": True},
    "gemma3_text": {**_LLAMA, **_GEMMA, "tie_word_embeddings": True},
    "phi3": {**_LLAMA, "pad_token_id": 0},
    "gpt2": _GPT,
    "gpt_bigcode": {**_GPT, "multi_query": True},
}
"""A small config of each family of the catalogue, without its number of layers."""
DEPTHS = (1, 2, 3, 11, 12)
"""Of few layers all are traced, of many a few that are folded out."""
LENGTHS = (2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100)


class Seen(msgspec.Struct, frozen=True):
    """What was predicted or measured. Bytes."""

    allocated: int = 0
    categories: Categories = Categories()
    phases: dict[str, int] = {}
    """The most that was allocated in each phase, as ``2/backward``."""
    seconds: float = 0.0
    error: str = ""


class Compared(msgspec.Struct, frozen=True):
    """One plan, both ways."""

    plan: dict[str, Any]
    model: str
    predicted: Seen
    measured: Seen

    def deviations(self) -> dict[str, float]:
        """Those that have LIMITS; what is predicted too low is negative."""
        seen, told = self.measured, self.predicted
        whole = max(seen.allocated, 1)
        parts = (getattr(told.categories, n) - getattr(seen.categories, n) for n in CATEGORIES)
        phases = (told.phases.get(n, 0) / max(most, 1) - 1 for n, most in seen.phases.items())
        return {
            "peak": told.allocated / whole - 1,
            "category": max((part / whole for part in parts), key=abs),
            "phase": max(phases, key=abs, default=0.0),
        }

    @property
    def error(self) -> str:
        """Why there is nothing to compare; empty if there is."""
        return self.measured.error or self.predicted.error

    @property
    def good(self) -> bool:
        """Whether every deviation is within its limit."""
        found = self.deviations()
        return not self.error and all(abs(found[name]) <= most for name, most in LIMITS.items())

    @property
    def title(self) -> str:
        """The plan in a line."""
        work = self.plan["workload"]
        names = ("batch_size", "sequence_length", "gradient_accumulation", "steps")
        size = "×".join(str(work[name]) for name in names)
        chosen = []
        for name, values in self.plan["techniques"].items():
            usual = msgspec.to_builtins(techniques()[name].params())
            other = [f"{key}={value}" for key, value in values.items() if usual.get(key) != value]
            chosen.append(f"{name}({','.join(other)})" if other else name)
        return f"{self.model} {size} {' '.join(chosen)}"


def draws(seed: int, folder: Path, only: Sequence[str] = ()) -> Iterator[Plan]:
    """Plans without end that a CPU can run, each of one to six techniques, or of those named.

    Of families and of depths each comes as often as the others.
    """
    rng = random.Random(seed)
    names = list(only) or [name for name, one in techniques().items() if one.group not in SLOW]
    number = 0
    while True:
        if number % len(FAMILIES) == 0:
            turns = rng.sample(list(FAMILIES), len(FAMILIES))
        plan = plan_from({"model": _model(folder, turns[number % len(FAMILIES)], rng)})
        for key, value in _workload(rng).items():
            plan = override(plan, f"{key}={value}")
        for name in rng.sample(names, min(rng.randint(0, 6), len(names))):
            plan = switched_on(plan, name, rng)
        if not problems(plan, resolve(plan.model).config, CPU) and _runs(plan):
            number += 1
            yield plan


def _workload(rng: random.Random) -> dict[str, int]:
    return {
        "batch_size": rng.randint(1, 3),
        "sequence_length": rng.choice(LENGTHS),
        "gradient_accumulation": rng.choice((1, 1, 2, 3)),
        "steps": rng.randint(1, 4),
        "seed": rng.randint(0, 9),
    }


def _model(folder: Path, family: str, rng: random.Random) -> str:
    """The folder of a small model of that family, with as many layers as are drawn."""
    layers = rng.choice(DEPTHS)
    made = folder / f"{family}-{layers}"
    made.mkdir(exist_ok=True)
    field = "n_layer" if family.startswith("gpt") else "num_hidden_layers"
    config = {"model_type": family, **FAMILIES[family], field: layers}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(made)


def switched_on(plan: Plan, name: str, rng: random.Random) -> Plan:
    """The plan with the technique, values of its choices drawn, and what it needs."""
    plan = override(plan, f"{name}=on")
    for parameter in parameters_of(techniques()[name]):
        if parameter.name == "backend" and name == "attention":
            # One kernel alone: whether it takes a model's inputs, only a run tells.
            continue
        choices = [one for one in parameter.choices if one is not None]
        if "aot_eager" in choices:
            plan = override(plan, f"{name}.{parameter.name}=aot_eager")
        elif choices and rng.random() < 0.5:
            plan = override(plan, f"{name}.{parameter.name}={rng.choice(choices)}")
        elif type(parameter.default) is bool and rng.random() < 0.5:
            plan = override(plan, f"{name}.{parameter.name}={rng.choice(('true', 'false'))}")
        elif parameter.name in NUMBERS and rng.random() < 0.5:
            plan = override(plan, f"{name}.{parameter.name}={rng.choice(NUMBERS[parameter.name])}")
    for need in techniques()[name].needs:
        if not set(need.names) & set(plan.techniques):
            plan = switched_on(plan, rng.choice(need.names), rng)
    return plan


NUMBERS: dict[str, Sequence[Any]] = {
    "rank": (1, 3, 8, 32),
    "every": (1, 2, 3),
    "chunk_size": (3, 7, 16, 50, 128),
    "dropout": (0.0, 0.1),
    "momentum": (0.0, 0.9),
    "window": (1, 8),
}
"""Parameters that are numbers, and what is drawn for them."""


def _runs(plan: Plan) -> bool:
    return not any(
        unavailable(techniques()[name], plan.techniques[name], CPU) for name in plan.techniques
    )


def measured(plan: Plan) -> Seen:
    """A burst on this CPU."""
    from memwb.engine.trainer.burst import run_plan

    phases: dict[str, int] = {}

    def hear(event: Any) -> None:
        if isinstance(event, Timeline):
            for one in event.samples:
                key = f"{one.step}/{one.phase}"
                phases[key] = max(phases.get(key, 0), one.allocated)

    ended = run_plan(Start(plan_data(plan), device="cpu"), hear)
    if ended.outcome != "done" or ended.peak is None:
        return Seen(error=f"burst: {ended.title} {ended.what}")
    return Seen(ended.peak.allocated, ended.peak.categories, phases)


def predicted(plan: Plan) -> Seen:
    """A prediction for a CPU."""
    from memwb.engine.predict.predictor import predict

    found = predict(plan, "cpu")
    phases: dict[str, int] = {}
    for point in found.timeline:
        key = f"{point.step}/{point.phase}"
        phases[key] = max(phases.get(key, 0), point.allocated)
    return Seen(found.peak.allocated, found.peak.categories, phases)


def forked(work: Callable[[Plan], Seen], plan: Plan) -> Seen:
    """The work's result, done in a fork of this process that leaves nothing behind."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        began = time.perf_counter()
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            found = work(plan)
            found = msgspec.structs.replace(found, seconds=time.perf_counter() - began)
        except BaseException as error:
            found = Seen(error=f"{error}\n{traceback.format_exc(limit=-5)}")
        with os.fdopen(writing, "wb") as out:
            out.write(msgspec.json.encode(found))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as result:
        answer = result.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        return Seen(error=f"{work.__name__}: the process died: {os.waitstatus_to_exitcode(status)}")
    return msgspec.json.decode(answer, type=Seen)


def warm() -> None:
    """Import and read what bursts and predictions do, so that no fork has to."""
    kinds = sorted({name.removesuffix("_text") for name in FAMILIES})
    modules = [
        *dict.fromkeys(name for one in techniques().values() for name in one.packages),
        *(f"transformers.models.{kind}.modeling_{kind}" for kind in kinds),
        "peft.tuners.ia3.bnb",
        "peft.tuners.lora.bnb",
        "peft.utils.transformers_weight_conversion",
        "torch._subclasses.schema_check_mode",
        "torch.profiler._cupti_monitor",
        "torch.utils.checkpoint",
        "tomlkit",
        "pydoc_data.topics",
        "memwb.engine.trainer.burst",
        "memwb.engine.trainer.cpu",
        "memwb.engine.predict.cpu",
        "memwb.engine.predict.predictor",
    ]
    # A user's plans are compared, not what the libraries have to say.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        for name in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        importlib.import_module("memwb.engine.predict.run").import_libraries()
    tiny = resolve("tiny")
    for name in techniques():
        # Each technique's text is taken apart once. Those that need another are refused alone.
        with contextlib.suppress(MemwbError):
            script(plan_from({"model": "tiny", "techniques": {name: {}}}), tiny)
    importlib.import_module("memwb.engine.trainer.warm").warm()
    gc.collect()
    gc.freeze()


def compare(plan: Plan) -> Compared:
    """The plan both ways."""
    model = Path(plan.model).name
    return Compared(plan_data(plan), model, forked(predicted, plan), forked(measured, plan))


def row(number: int, one: Compared) -> str:
    """A line of the table."""
    if one.error:
        return f"{number:4} {one.title}\n     !! {one.error}"
    found = one.deviations()
    figures = "  ".join(f"{100 * found[name]:+7.3f} %" for name in LIMITS)
    seconds = f"{one.predicted.seconds:5.2f} {one.measured.seconds:5.2f} s"
    mark = "  " if one.good else "!!"
    text = f"{number:4} {mark} {one.measured.allocated:>10,}  {figures}  {seconds}  {one.title}"
    if not one.good:
        for phase, most in one.measured.phases.items():
            text += f"\n        {phase:12} {most:>10,} {one.predicted.phases.get(phase, 0):>10,}"
        text += f"\n        measured  {one.measured.categories}"
        text += f"\n        predicted {one.predicted.categories}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--plans", type=int, default=50, help="how many [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the draws [%(default)s]")
    parser.add_argument("--only", default="", help="draw from these techniques, parted by commas")
    parser.add_argument("--skip", type=int, default=0, help="so many plans are drawn and left out")
    parser.add_argument("--json", default="", help="a file for every figure")
    options = parser.parse_args(argv)
    only = [name for name in options.only.split(",") if name]
    for name in only:
        if name not in techniques():
            parser.error(f"there is no technique {name!r}. {nearest(name, techniques())}".strip())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The root holds a folder named as a package that transformers imports.
    root = Path(__file__).parents[1]
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != root]
    warm()
    done = []
    print("     in shares of the measured peak: peak, category, phase; then predicting, measuring")
    with tempfile.TemporaryDirectory(prefix="memwb-") as folder:
        for number, plan in enumerate(draws(options.seed, Path(folder), only), 1):
            if number > options.plans:
                break
            if number <= options.skip:
                continue
            done.append(compare(plan))
            print(row(number, done[-1]), flush=True)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.encode(done))
    bad = sum(not one.good for one in done)
    print(f"{len(done)} plans, {bad} outside of the limits")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
