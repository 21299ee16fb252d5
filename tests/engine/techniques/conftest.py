"""A bench for techniques: plans on very small models, run by their script in a warm fork."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memwb.engine.catalog import Model
from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.protocol import Device
from memwb.engine.script import script
from memwb.engine.technique import parameters_of, techniques, unavailable

CPU = Device(kind="cpu", name="CPU", capacity=2**34)

# The embedding has 8192 values: 8-bit optimizers leave tensors of fewer than 4096 in fp32.
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "max_position_embeddings": 64,
}


class Run(msgspec.Struct, frozen=True):
    """What a script did: the loss of each step, and the bits of its first gradients."""

    losses: list[float] = []
    gradients: dict[str, str] = {}
    error: str = ""


class Bench:
    """Makes plans and runs them; code that was run before is not run again."""

    tiny = TINY
    device = CPU

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._known: dict[str, Run] = {}

    def plan(self, *overrides: str, **workload: Any) -> Plan:
        """A plan of two short steps with these overrides, one after another."""
        small = {"sequence_length": 16, "batch_size": 2, "steps": 2} | workload
        plan = plan_from({"model": "x", "workload": small})
        for text in overrides:
            plan = override(plan, text)
        return plan

    def adding(self, plan: Plan, *names: str) -> Plan:
        """The plan with these techniques and, where they are not on yet, what they need."""
        for name in names:
            plan = override(plan, f"{name}=on")
            for parameter in parameters_of(techniques()[name]):
                if "aot_eager" in parameter.choices:
                    # The compiler's front end without its slow back end.
                    plan = override(plan, f"{name}.{parameter.name}=aot_eager")
        for name in names:
            for need in techniques()[name].needs:
                if not set(need.names) & set(plan.techniques):
                    plan = self.adding(plan, need.names[0])
        return plan

    def config(self, *names: str) -> dict[str, Any]:
        """A model for plans with these techniques: compiling takes a second or two a layer."""
        return TINY | {"num_hidden_layers": 1 if "torch_compile" in names else 2}

    def refused(self, plan: Plan, config: dict[str, Any] = TINY) -> str:
        """Why the plan does not run on this model, or on a CPU; empty if it does."""
        reasons = [f"{problem.path}: {problem.reason}" for problem in problems(plan, config)]
        for name, params in plan.techniques.items():
            if reason := unavailable(techniques()[name], params, CPU):
                reasons.append(f"{name}: {reason}")
        return "; ".join(reasons)

    def run(self, plan: Plan, config: dict[str, Any] = TINY, seconds: float = 60) -> Run:
        """Train with random weights of this config, as the plan's script does it."""
        model = Model(
            name="x", source="folder", location="/nowhere", weights="random", config=config
        )
        text = script(plan, model)
        # Above it stand a title and comments: many plans differ in these alone.
        code = text[text.index("from __future__ import") :]
        if code not in self._known:
            assert self._process.stdin is not None and self._process.stdout is not None
            print(
                json.dumps({"text": text, "seconds": seconds}),
                file=self._process.stdin,
                flush=True,
            )
            self._known[code] = msgspec.json.decode(self._process.stdout.readline(), type=Run)
        return self._known[code]

    def losses(self, plan: Plan, config: dict[str, Any] = TINY) -> list[float]:
        """The losses of a run that must not fail, each of them a positive number."""
        found = self.run(plan, config)
        assert not found.error, f"{', '.join(plan.techniques)}:\n{found.error}"
        assert len(found.losses) == plan.workload.steps
        assert all(0 < loss < 20 for loss in found.losses), found.losses
        return found.losses


@pytest.fixture(scope="session")
def bench(warm: Any) -> Iterator[Bench]:
    """A bench whose imports are done once for all tests."""
    with subprocess.Popen(
        warm.python(Path(__file__).with_name("runner.py")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Bench(process)
        assert process.stdin is not None
        process.stdin.close()
