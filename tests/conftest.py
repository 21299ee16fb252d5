"""What every test starts from: a home of its own, no network, and small models made on the spot."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The models are tiny: a second thread would only wait for the first. Children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a script starts in the background ignores SIGINT, and so would all that tests start and send
# it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: else one worker ends alone with the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


_imported = 0


def pytest_runtest_setup() -> None:
    """What imports made stays: a burst collects garbage often, and need not look at it."""
    global _imported
    if len(sys.modules) >= _imported + 50:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MEMWB_HOME; nothing of the user's is read or written, nothing is downloaded."""
    folder = tmp_path / "memwb-home"
    monkeypatch.setenv("MEMWB_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Operators are memwb's own again: a script that ran in this process registers its copies."""
    for name, module in list(sys.modules.items()):
        if name.startswith("memwb.kernels."):
            from torch._library.custom_ops import OPDEFS
            from torch.library import CustomOpDef  # type: ignore[attr-defined]

            own = [value for value in vars(module).values() if isinstance(value, CustomOpDef)]
            if any(OPDEFS.get(one._qualname) is not one for one in own):
                importlib.reload(module)


@pytest.fixture(scope="session")
def warm() -> Iterator[Any]:
    """A process with the heavy imports behind it: ``warm.python(...)`` starts in no time."""
    from memwb.engine.technique import techniques
    from memwb.engine.trainer.server import PRELOADED

    spec = importlib.util.spec_from_file_location("warm", Path(__file__).with_name("warm.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = {config["model_type"].removesuffix("_text") for config in FAMILIES.values()}
    packages = dict.fromkeys(name for one in techniques().values() for name in one.packages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = module.Warm(
            [
                *PRELOADED,
                *packages,
                *(f"transformers.models.{kind}.modeling_{kind}" for kind in sorted(kinds)),
                "torch._dynamo.backends.common",
                "torch._functorch.aot_autograd",
                "torch.export._trace",
                "torch.fx.experimental.validator",
                "torch.nn.modules.linear_cross_entropy",
                "torch.profiler._cupti_monitor",
                "peft.tuners.ia3.bnb",
                "memwb.engine.predict.run",
            ]
        )
    yield made
    made.close()


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 320, "n_positions": 256}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SMALL},
    "qwen2": {"model_type": "qwen2", **SMALL, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **SMALL, "head_dim": 16},
    "mistral": {"model_type": "mistral", **SMALL, "head_dim": 16, "sliding_window": 32},
    "gemma2": {"model_type": "gemma2", **SMALL, **GEMMA, **CAPS, "tie_word_embeddings": True},
    "gemma3": {"model_type": "gemma3_text", **SMALL, **GEMMA, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", **SMALL, "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", **GPT},
    "gpt_bigcode": {"model_type": "gpt_bigcode", **GPT, "multi_query": True},
}


@pytest.fixture(scope="session")
def families() -> dict[str, dict[str, Any]]:
    """A small config of each family of the catalogue."""
    return FAMILIES


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family, one after another."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``save_pretrained`` leaves it: config, safetensors, a trained tokenizer."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint")
    text = ["memory is what training runs out of", "a model forgets nothing but its gradients"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text * 4, vocab_size=320, special_tokens=["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(1)
    config = AutoConfig.for_model(**FAMILIES["llama"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
