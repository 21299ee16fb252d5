"""A prediction leaves nothing of its pretending behind, whether it succeeds or fails."""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils import checkpoint
from torch.utils._python_dispatch import _get_current_dispatch_mode

from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, plan_data, plan_from
from memwb.engine.predict import run
from memwb.engine.predict.predictor import predict
from memwb.engine.protocol import Ended, Start
from memwb.engine.trainer.burst import run_plan

TECHNIQUES: dict[str, Any] = {
    "amp_bf16": {},
    "lora": {},
    "activation_checkpointing": {},
    "gradient_clipping": {},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, families: dict[str, Any]) -> str:
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(families["llama"]))
    return str(folder)


def planned(model: str, **techniques: Any) -> Plan:
    work = {"batch_size": 2, "sequence_length": 16, "steps": 3}
    return plan_from({"model": model, "workload": work, "techniques": techniques})


@pytest.fixture(scope="module")
def plan(model: str) -> Plan:
    """What most of these tests predict."""
    return planned(model, **TECHNIQUES)


def state() -> dict[str, Any]:
    """What a prediction touches while it runs, by names or by identity."""
    cuda, hooks = torch.cuda, torch.autograd.graph.saved_tensors_hooks
    functions: tuple[Any, ...] = (
        cuda.is_available, cuda.get_device_capability, cuda.is_bf16_supported, cuda.current_device,
        cuda.device_count, cuda.synchronize, cuda.Stream, cuda.Event, cuda.current_stream,
        cuda.stream, cuda.amp.common.amp_definitely_not_available, torch.clear_autocast_cache,
        hooks.__init__, checkpoint._allowed_determinism_checks_to_fns, torch.autograd.backward,
        torch.Tensor.backward, torch.nn.functional.scaled_dot_product_attention,
        torch.empty, torch.Tensor.to, torch.optim.Optimizer.step,
    )  # fmt: skip
    module = torch.nn.modules.module
    return {
        "functions": [id(one) for one in functions],
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch mode": _get_current_dispatch_mode(),
        "module hooks": (
            dict(module._global_forward_hooks),
            dict(module._global_forward_pre_hooks),
            dict(module._global_forward_hooks_always_called),
        ),
        "step hooks": (
            dict(_global_optimizer_pre_hooks),
            dict(_global_optimizer_post_hooks),
        ),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "autocast nesting": torch.autocast_increment_nesting() + torch.autocast_decrement_nesting(),
        "cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "sdp": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "scripts": [name for name in sys.modules if name.startswith("memwb_train")],
        "gc": (gc.isenabled(), gc.get_threshold()),
        "folders": sorted(Path(tempfile.gettempdir()).glob("memwb-*")),
        "output": (sys.stdout, sys.stderr),
        "argv": list(sys.argv),
    }


@pytest.fixture(scope="module", autouse=True)
def warm(plan: Plan) -> None:
    """What libraries import at their first use stays, and is not asked for."""
    for target in ("cpu", "h200"):
        predict(plan, target)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary folders of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_nothing_is_left_behind(plan: Plan, target: str) -> None:
    before, numbers = state(), (torch.get_rng_state(), random.getstate())
    predict(plan, target)
    assert state() == before
    assert torch.equal(torch.get_rng_state(), numbers[0]), "the random generator has moved"
    assert random.getstate() == numbers[1]
    layer = torch.nn.Linear(3, 2)
    out = layer(torch.ones(1, 3)).sum()
    out.backward()  # type: ignore[no-untyped-call]
    assert out.device.type == "cpu" and not out.is_meta and layer.weight.grad is not None


@pytest.mark.parametrize("target", ["cpu", "h200"])
@pytest.mark.parametrize("where", ["load_config", "build_optimizer", "next_step", "train"])
def test_nothing_is_left_behind_by_a_failure(
    plan: Plan, target: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead = run._instead

    def failing(*args: Any) -> dict[str, Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("on purpose")

        return {**instead(*args), where: lambda original: fail}

    monkeypatch.setattr(run, "_instead", failing)
    before = state()
    with pytest.raises(MemwbError, match="on purpose"):
        predict(plan, target)
    gc.collect()
    assert state() == before


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_a_failure_within_the_model_leaves_nothing(
    plan: Plan, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    def fail(self: Any, inputs: Any) -> Any:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(LlamaMLP, "forward", fail)
    before = state()
    with pytest.raises(MemwbError, match="on purpose"):
        predict(plan, target)
    gc.collect()
    assert state() == before


def test_what_was_predicted_before_does_not_matter(model: str) -> None:
    def told(target: str, **techniques: Any) -> Any:
        found = predict(planned(model, **techniques), target)
        return msgspec.structs.replace(found, seconds=0.0)

    first = {target: told(target, **TECHNIQUES) for target in ("cpu", "h200", "rtx-4090")}
    told("cpu", bf16={}, packing={})
    told("h200", quantize_4bit={}, lora={}, adamw_8bit={})
    with pytest.raises(MemwbError):
        predict(msgspec.structs.replace(planned(model), model="/nowhere"), "cpu")
    for target, one in first.items():
        assert told(target, **TECHNIQUES) == one


def test_a_burst_after_a_prediction_is_as_one_without(plan: Plan) -> None:
    def burst() -> Ended:
        ended = run_plan(Start(plan_data(plan), device="cpu"), lambda event: None)
        assert ended.outcome == "done" and ended.peak is not None
        return ended

    alone = burst()
    for target in ("cpu", "h200"):
        predict(plan, target)
        after = burst()
        assert after.losses == alone.losses
        assert alone.peak is not None and after.peak is not None
        assert after.peak.allocated == alone.peak.allocated
        assert after.peak.categories == alone.peak.categories
