"""Liger's kernels get where they belong, or are refused. None of them runs: that takes a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.plan import override, plan_from, problems
from memwb.engine.protocol import Device
from memwb.engine.technique import techniques, unavailable
from memwb.engine.techniques.liger_kernels import FAMILIES, Params

LIGER = techniques()["liger_kernels"]


def reasons(config: dict[str, Any], *changes: str) -> list[tuple[str, str]]:
    plan = plan_from({"model": "tiny", "techniques": {"liger_kernels": {}}})
    for change in changes:
        plan = override(plan, change)
    return [(problem.reason, problem.override) for problem in problems(plan, config)]


def test_every_family_is_patched_whole_or_refused(families: dict[str, dict[str, Any]]) -> None:
    pytest.importorskip("liger_kernel", reason="there is no triton for this platform")
    child = str(Path(__file__).with_name("liger_child.py"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", child],
        input=json.dumps(list(families.values())), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for config in families.values():
        kind = config["model_type"]
        if kind not in FAMILIES:
            assert ("liger_kernels=off") in [mend for _, mend in reasons(config)]
            continue
        assert not reasons(config)
        count = Counter(told[kind])
        layers = config["num_hidden_layers"]
        gate = "swiglu" if FAMILIES[kind] == "silu" else "geglu"
        names = {name: size for name, size in count.items() if gate in name}
        assert sum(names.values()) == 2 * layers, count
        assert count["_triton_rope"] == 2 * layers
        norms = sum(size for name, size in count.items() if "rms_norm" in name)
        assert norms >= 2 * (2 * layers + 1)
        assert count["liger_cross_entropy_kernel"] >= 1
        assert count["element_mul_kernel"] == 2


def test_it_needs_a_gpu() -> None:
    params = Params()
    if "pip install" not in unavailable(LIGER):
        assert unavailable(LIGER, params, Device("cpu", "CPU", 2**30)).endswith("on a GPU alone")
        assert not unavailable(LIGER, params, Device("cuda", "GPU", 2**30))


@pytest.mark.parametrize(
    ("changes", "more", "part", "mend"),
    [
        (["chunked_cross_entropy=on"], {}, "takes the place of the loss", "loss=false"),
        (["lora=on", "lora.output_layer=true"], {}, "adapter on the output head", "loss=false"),
        ([], {"logits_scaling": 8.0}, "scales its logits", "loss=false"),
        ([], {"hidden_act": "gelu"}, "MLP has gelu", "mlp=false"),
        ([f"liger_kernels.{one}=false" for one in ("rms_norm", "rope", "mlp", "loss")], {},
         "every one of its kernels is off", "=off"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told_with_its_mend(
    families: dict[str, Any], changes: list[str], more: dict[str, Any], part: str, mend: str
) -> None:
    config = {**families["llama"], **more}
    found = [one for one in reasons(config, *changes) if part in one[0]]
    assert found, reasons(config, *changes)
    assert found[0][1].endswith(mend)
    assert not [one for one in reasons(config, *changes, found[0][1]) if part in one[0]]


def test_a_loss_of_another_kind_goes_with_its_other_kernels(families: dict[str, Any]) -> None:
    config = families["llama"]
    assert not reasons(config, "chunked_cross_entropy=on", "liger_kernels.loss=false")
