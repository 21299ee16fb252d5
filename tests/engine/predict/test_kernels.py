"""memwb's own operators: what they allocate inside is seen, on a CPU and as on a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from memwb.engine.errors import CannotPredict
from memwb.engine.plan import plan_from
from memwb.engine.predict import run
from memwb.engine.predict.libraries import kernels, own_kernel
from memwb.engine.predict.meter import MetaMeter
from memwb.engine.predict.places import Place
from memwb.engine.predict.predictor import predict
from memwb.engine.predict.pretend import pretending
from memwb.engine.predict.targets import Target, target_named
from memwb.engine.technique import techniques
from memwb.engine.trainer.cpu import CpuMeter
from memwb.engine.trainer.trace import Trace

pytest.importorskip("triton")
import triton

ROWS, WIDTH = 96, 32
LABELS = torch.tensor([-100, 1, 2] * (ROWS // 3))
IGNORED = 32
SGD = {"model": "tiny", "techniques": {"sgd": {}}}


@triton.jit
def _fill_kernel(out, count):  # type: ignore[no-untyped-def]
    pass


@torch.library.custom_op("memwb::seen_inside", mutates_args=(), device_types="cpu")
def seen_inside(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    kept = (labels != -100).nonzero().squeeze(1)
    rows = x.index_select(0, kept)
    squares = rows * rows
    return squares.sum(0)


@seen_inside.register_kernel("cuda")
def _(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    count = int((labels != -100).sum())
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count
    major, minor = torch.cuda.get_device_capability(x.device)
    partial = torch.empty(programs, count, device=x.device, dtype=torch.float32)
    assert x.is_cuda and (major, minor) == (8, 9)
    _fill_kernel[(triton.cdiv(count, 64),)](partial, count)
    return torch.empty(x.shape[1], device=x.device, dtype=x.dtype)


@seen_inside.register_fake
def _(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    x, labels = ctx.saved_tensors
    return seen_inside(x, labels) + x * gradient, None


seen_inside.register_autograd(_backward, setup_context=_setup)


def trained(device: Any, labels: torch.Tensor = LABELS) -> None:
    x = torch.zeros(ROWS, WIDTH, device=device, requires_grad=True)
    there = labels.to(device)
    loss = seen_inside(x, there).sum()
    loss.backward()
    del x, there, loss


def of(trace: Trace) -> list[int]:
    """Every change of what is allocated, in order."""
    return [moment.change for moment in trace.resolve()[0] if moment.change]


def measured() -> list[int]:
    meter = CpuMeter(iter(range(10**6)).__next__, lambda samples: None)
    meter.start()
    try:
        trained("cpu")
        return of(meter.trace)
    finally:
        meter.stop()


def predicted(target: Target, labels: torch.Tensor = LABELS) -> MetaMeter:
    host = Place.TARGET if target.kind == "cpu" else Place.HOST
    meter = MetaMeter(target.scratch, host, target.results)
    meter.kernels, meter.own_kernel = kernels(target.kind), own_kernel(target.kind)
    with pretending(target, meter) as device:
        meter.start()
        try:
            trained(device, labels)
        finally:
            meter.settle()
            meter.stop()
    return meter


@pytest.fixture(autouse=True)
def unlaunched() -> Iterator[None]:
    """Nothing stays replaced."""
    before = triton.runtime.jit.JITFunction.run
    yield
    assert triton.runtime.jit.JITFunction.run is before


def test_on_a_cpu_its_fallback_is_predicted_to_the_byte() -> None:
    found = [moment.change for moment in predicted(target_named("cpu")).stream().moments]
    found, true = [change for change in found if change], measured()
    assert found == true


def test_for_a_gpu_what_its_wrapper_allocates_is_seen_with_true_counts() -> None:
    births = predicted(target_named("rtx-4090")).stream().births.values()
    partial = [birth for birth in births if birth.shape == (128, ROWS - IGNORED)]
    # Forward and backward.
    assert [birth.dtype for birth in partial] == ["float32", "float32"]


def test_a_gpu_of_unknown_multiprocessors_is_refused() -> None:
    target = target_named("rtx-4090")._replace(multiprocessors=None)
    with pytest.raises(CannotPredict, match="multiprocessors"):
        predicted(target)


def test_without_triton_a_technique_on_it_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = techniques()
    changed = {**known, "sgd": msgspec.structs.replace(known["sgd"], packages=("triton",))}
    monkeypatch.setattr(run, "techniques", lambda: changed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotPredict, match="sgd") as caught:
        run._refuse_kernels(plan_from(SGD), target_named("rtx-4090"))
    assert caught.value.technique == "sgd" and "Linux" in caught.value.what


def test_a_gpu_that_triton_does_not_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = techniques()
    changed = {**known, "sgd": msgspec.structs.replace(known["sgd"], packages=("triton",))}
    monkeypatch.setattr(run, "techniques", lambda: changed)
    with pytest.raises(CannotPredict, match="sgd") as caught:
        run._refuse_kernels(plan_from(SGD), target_named("t4"))
    assert "8.0" in caught.value.what and "7.5" in caught.value.what
    run._refuse_kernels(plan_from(SGD), target_named("a100-80gb"))


def test_a_product_added_in_another_type_is_not_left_to_meta(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch 2.11 takes the type for a factor there."""
    from memwb.engine.predict import libraries

    met = []

    def spy(func: Any, *args: Any, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        met.append(out.dtype)
        return libraries_added(func, *args, out=out, **kwargs)

    libraries_added = libraries.added
    monkeypatch.setattr(libraries, "added", spy)
    techniques: dict[str, Any] = {"bf16": {}, "cut_cross_entropy": {}}
    work = {"sequence_length": 32, "batch_size": 1}
    predict(plan_from({"model": "tiny", "techniques": techniques, "workload": work}), "h200")
    assert met and set(met) == {torch.float32}
