"""What an exception of a script means to who asked for a prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memwb.engine.errors import CannotPredict, MemwbError
from memwb.engine.plan import plan_from
from memwb.engine.predict.predictor import _cannot, predict
from memwb.engine.predict.pretend import _cuda_runtime
from memwb.engine.predict.targets import target_named

PLAN = plan_from({"model": "tiny"})


def raised(reads: str) -> Exception:
    tensor = torch.empty(3, device="meta")
    with pytest.raises(Exception) as caught:
        {"item": lambda: tensor[0].item(), "list": tensor.tolist, "cpu": tensor.cpu}[reads]()
    return caught.value


@pytest.mark.parametrize("reads", ["item", "list", "cpu"])
def test_reading_values_is_told_as_that(reads: str) -> None:
    told = _cannot(PLAN, raised(reads))
    assert told.what == "it reads the values of a tensor, and a prediction has only its shape"


def test_what_is_not_known_is_told_in_its_own_words() -> None:
    assert _cannot(PLAN, ValueError("odd:\nand more")).what == "ValueError: odd"


def test_a_compiler_is_told_of_without_its_log() -> None:
    from torch._dynamo.exc import Unsupported

    told = _cannot(PLAN, Unsupported("a page of text", case_name="x"))
    assert told.what == "torch's compiler gave up (Unsupported)"


def refused(target: str, **techniques: dict[str, str]) -> CannotPredict:
    with pytest.raises(CannotPredict) as caught:
        predict(plan_from({"model": "tiny", "techniques": techniques}), target)
    return caught.value


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_a_kernel_that_the_target_refuses_is_told_of_with_its_mend(kernel: str) -> None:
    told = refused("t4", amp_fp16={}, attention={"backend": kernel})
    assert told.technique == "attention" and "-o attention.backend=auto" in told.fix
    assert kernel in told.what and "7.5" in told.what


def test_a_compiler_passes_on_which_technique_it_was() -> None:
    compiled = {"backend": "aot_eager"}
    told = refused("t4", torch_compile=compiled, bf16={}, attention={"backend": "flash"})
    assert told.technique == "attention" and "-o attention.backend=auto" in told.fix


@pytest.mark.parametrize("target", ["t4", "cpu"])
def test_what_is_compiled_under_autocast_is_refused(target: str) -> None:
    told = refused(target, torch_compile={"backend": "aot_eager"}, amp_bf16={})
    assert told.technique == "torch_compile" and "autocast" in told.title


def test_the_flash_attention_package_needs_ampere() -> None:
    told = refused("t4", bf16={}, attention={"implementation": "flash_attention_2"})
    assert told.technique == "attention" and "8.0" in told.what and "7.5" in told.what


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_bf16_is_emulated_before_ampere_and_that_is_said(precision: str) -> None:
    plan = plan_from({"model": "tiny", "techniques": {precision: {}}})
    assert any("emulates" in note for note in predict(plan, "t4").notes)
    assert not any("emulates" in note for note in predict(plan, "rtx-4090").notes)


def test_a_script_on_an_old_gpu_can_ask_for_bf16_proper() -> None:
    targets = [target_named(name) for name in ("t4", "a100-40gb")]
    runtimes = [_cuda_runtime(target)["cuda.is_bf16_supported"] for target in targets]
    assert [ask() for ask in runtimes] == [True, True]
    assert [ask(including_emulation=False) for ask in runtimes] == [False, True]


@pytest.mark.parametrize("name", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M"])
def test_weights_that_are_not_here_are_not_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue has the config: nothing is fetched to predict, and no network is needed."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    work = {"sequence_length": 16, "batch_size": 1}
    found = [
        predict(plan_from({"model": name, "weights": weights, "workload": work}), "rtx-4090")
        for weights in ("random", "pretrained")
    ]
    assert found[0].peak == found[1].peak and found[1].parameters.total == 134_515_008


def test_a_config_that_transformers_refuses_is_told_as_that(tmp_path: Path) -> None:
    """A burst says the same: to run one to measure it is no way out."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rms_norm_eps": "wide"}')
    with pytest.raises(MemwbError, match="rms_norm_eps") as caught:
        predict(plan_from({"model": str(tmp_path)}), "cpu")
    told = caught.value
    assert told.title == "The model cannot be loaded" and "$.model" in told.fix


def test_what_the_hub_refuses_is_told_as_a_model_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    def gated(*_: object, **__: object) -> None:
        raise OSError("You are trying to access a gated repo.")

    monkeypatch.setattr(AutoConfig, "for_model", gated)
    with pytest.raises(MemwbError, match="gated repo") as caught:
        predict(plan_from({"model": "tiny"}), "cpu")
    assert "hf auth login" in caught.value.fix


def test_a_product_of_two_types_is_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices refuse it, meta does not: what would fail in a burst has no peak to tell."""

    def mixed(model: torch.nn.Module, *, targets: str) -> torch.nn.Module:
        for name, module in model.named_modules():
            if name.endswith("o_proj"):
                module.float()
        return model

    monkeypatch.setattr("memwb.engine.techniques.ia3.meta_adapt_model", mixed, raising=False)
    told = refused("cpu", bf16={}, ia3={})
    assert "aten.mm would multiply bfloat16 by float32" in told.what


def test_what_a_technique_lacks_here_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memwb.engine.technique.torch_version", lambda: "2.11.0")
    told = refused("h200", linear_cross_entropy={})
    assert told.technique == "linear_cross_entropy" and "needs torch 2.13" in told.what
    monkeypatch.setattr("memwb.engine.technique._missing", lambda names: [*names])
    told = refused("h200", galore={})
    assert told.technique == "galore" and "pip install" in told.what


@pytest.mark.parametrize("target", ["h200", "cpu"])
def test_torch_built_for_cuda_predicts_where_there_is_no_driver(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its optimizers ask the driver whether a graph is captured, if there is said to be a GPU."""

    def no_driver() -> bool:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", no_driver)
    # Torch 2.13 asks what is really there, whatever is pretended.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", no_driver)
    assert predict(plan_from({"model": "tiny", "workload": {"sequence_length": 8}}), target).peak
