"""What a plan's model and weights resolve to: catalogue, folders, cache, hub ids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memwb.engine import catalog, checkpoint
from memwb.engine.catalog import Model, resolve
from memwb.engine.errors import MemwbError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 8,
    "max_position_embeddings": 128,
}
SHAPES = {"model.embed_tokens.weight": [300, 8], "model.norm.weight": [8]}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def safetensors(file: Path, shapes: dict[str, list[int]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def folder(path: Path, config: Any = LLAMA, weights: str = "", tokenizer: bool = False) -> Path:
    path.mkdir(parents=True)
    if config is not None:
        path.joinpath("config.json").write_text(json.dumps(config))
    if weights.endswith(".safetensors"):
        safetensors(path / weights, SHAPES)
    elif weights:
        (path / weights).write_bytes(b"a pickle")
    if tokenizer:
        (path / "tokenizer.json").write_text("{}")
    return path


def cached(cache: Path, hub_id: str, main: bool = True, **kwargs: Any) -> Path:
    base = cache / ("models--" + hub_id.replace("/", "--"))
    path = folder(base / "snapshots" / "abc123", **kwargs)
    if main:
        (base / "refs").mkdir()
        (base / "refs" / "main").write_text("abc123")
    return path


def refusal(*args: Any, **kwargs: Any) -> MemwbError:
    with pytest.raises(MemwbError) as caught:
        resolve(*args, **kwargs)
    assert caught.value.title and caught.value.fix
    return caught.value


# Catalogue names


def test_a_catalogue_name_without_local_weights_is_random_with_its_config() -> None:
    model = resolve("qwen2.5-1.5b")
    assert (model.source, model.weights) == ("catalogue", "random")
    assert model.config is not None and model.config["model_type"] == "qwen2"
    assert (model.parameters, model.vocabulary, model.context) == (1543714304, 151936, 131072)
    assert (model.tokenizer, model.licence) == ("", "Apache-2.0")


def test_a_catalogue_name_finds_its_weights_in_the_cache(empty_cache: Path) -> None:
    cached(empty_cache, "Qwen/Qwen2.5-1.5B", weights="model.safetensors", tokenizer=True)
    model = resolve("qwen2.5-1.5b")
    assert (model.weights, model.location) == ("pretrained", "Qwen/Qwen2.5-1.5B")
    assert model.tokenizer == "Qwen/Qwen2.5-1.5B"
    random = resolve("qwen2.5-1.5b", "random")
    assert (random.weights, random.tokenizer) == ("random", "Qwen/Qwen2.5-1.5B")
    assert random.config is not None and random.config["hidden_size"] == 1536


def test_a_revision_asked_for_by_its_hash_is_given_as_a_folder(empty_cache: Path) -> None:
    path = cached(empty_cache, "openai-community/gpt2", main=False, weights="model.safetensors")
    assert resolve("gpt2").location == str(path)


def test_the_old_name_of_gpt2_in_the_cache_counts(empty_cache: Path) -> None:
    cached(empty_cache, "gpt2", weights="model.safetensors")
    assert (resolve("gpt2").weights, resolve("gpt2").location) == ("pretrained", "gpt2")


def test_pretrained_without_local_weights_comes_from_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = resolve("gpt2", "pretrained")
    assert (model.weights, model.location) == ("pretrained", "openai-community/gpt2")
    assert model.tokenizer == "openai-community/gpt2"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal("gpt2", "pretrained").what
    assert "no published weights" in refusal("tiny", "pretrained").title


def test_a_download_that_is_not_complete_does_not_count(empty_cache: Path) -> None:
    path = cached(empty_cache, "Qwen/Qwen2.5-7B")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    safetensors(path / "model-1.safetensors", SHAPES)
    assert resolve("qwen2.5-7b").weights == "random"
    assert resolve("Qwen/Qwen2.5-7B").source == "hub"
    safetensors(path / "model-2.safetensors", {"b": [1]})
    assert resolve("qwen2.5-7b").weights == "pretrained"


def test_an_unknown_name_is_told_the_nearest() -> None:
    assert "did you mean 'qwen2.5-1.5b'?" in refusal("qwen2.5-1.5").what
    assert "no such folder" in refusal("./nowhere").title
    assert "no such folder" in refusal("a/b/c").title
    for hostile in ("\0", "x" * 10_000, "a\nb", "'; import os", "../../etc", "~nobody/x", " ", ""):
        refusal(hostile)


# Folders


def test_a_folder_with_weights_is_pretrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path / "my model", weights="model.safetensors", tokenizer=True)
    expected = Model(
        name=str(path),
        source="folder",
        location=str(path),
        weights="pretrained",
        config=LLAMA,
        tokenizer=str(path),
        parameters=300 * 8 + 8,
        vocabulary=300,
        context=128,
    )
    assert resolve(str(path)) == expected
    monkeypatch.chdir(tmp_path)
    assert resolve("my model").location == str(path)
    assert resolve("./my model/").location == str(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/my model").location == str(path)


def test_a_folder_with_a_config_only_is_random(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", LLAMA | {"quantization_config": {"bits": 4}})
    model = resolve(str(path))
    assert (model.weights, model.parameters, model.tokenizer) == ("random", None, "")
    assert model.config == LLAMA
    assert "no weights" in refusal(str(path), "pretrained").title


def test_settings_of_a_tokenizer_alone_are_no_tokenizer(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "tokenizer_config.json").write_text("{}")
    assert resolve(str(path)).tokenizer == ""


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "pytorch_model-1-of-2.bin", "x.pt", "x.ckpt"]
)
def test_pickled_weights_are_refused_unless_allowed(tmp_path: Path, file: str) -> None:
    path = str(folder(tmp_path / "m", weights=file))
    error = refusal(path)
    assert "pickle" in error.title and "--allow-pickle" in error.fix
    assert "pickle" in refusal(path, "pretrained").title
    assert resolve(path, allow_pickle=True).weights == "pretrained"
    assert resolve(path, "random").weights == "random"


def test_safetensors_go_before_a_pickle(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", weights="model.safetensors")
    (path / "pytorch_model.bin").write_bytes(b"a pickle")
    assert resolve(str(path)).weights == "pretrained"


def test_remote_code_is_refused_unless_trusted(tmp_path: Path) -> None:
    config = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}
    path = str(folder(tmp_path / "m", config, "model.safetensors"))
    assert "--trust-remote-code" in refusal(path).fix
    assert "auto_map" in refusal(path, "random").what
    assert resolve(path, trust_remote_code=True).weights == "pretrained"


def test_remote_code_of_an_unknown_type_cannot_be_random(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration.Mine"}}
    path = str(folder(tmp_path / "m", config, "model.safetensors"))
    assert resolve(path, trust_remote_code=True).weights == "pretrained"
    assert "'mine'" in refusal(path, "random", trust_remote_code=True).title


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no config.json"),
        ({"hidden_size": 8}, "model_type"),
        ([1, 2], "model_type"),
        ({"model_type": 7}, "model_type"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "lama"}, "did you mean 'llama'?"),
        ({"model_type": "llama", "hidden_size": "x"}, '$.hidden_size: expected int ≥ 1, not "x"'),
        ({"model_type": "qwen2", "num_attention_heads": 0}, "$.num_attention_heads: expected int"),
        ({"model_type": "gpt2", "n_layer": [12]}, "$.n_layer: expected int ≥ 1, not [12]"),
    ],
)
def test_a_folder_without_a_causal_model_is_refused(
    tmp_path: Path, config: Any, words: str
) -> None:
    path = folder(tmp_path / "m", config)
    error = refusal(str(path))
    assert words in str(error) and str(path) in str(error)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_broken_config_is_an_error_not_a_traceback(tmp_path: Path, text: bytes) -> None:
    path = folder(tmp_path / "m", None)
    (path / "config.json").write_bytes(text)
    assert "cannot be read" in refusal(str(path)).title


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"",
        b"\x02\0\0\0\0\0\0\0[]",
        b'\x09\0\0\0\0\0\0\0{"a": {}}',
    ],
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path / "m")
    (path / "model.safetensors").write_bytes(content)
    error = refusal(str(path))
    assert "not complete" in error.title and "model.safetensors" in error.what
    assert resolve(str(path), "random").weights == "random"


def test_weights_cut_off_are_named(tmp_path: Path) -> None:
    file = folder(tmp_path / "m", weights="model.safetensors") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "were expected" in refusal(str(file.parent)).what


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    safetensors(path / "model-2.safetensors", SHAPES)
    assert "model-1.safetensors is missing (1 of 2 files)" in refusal(str(path)).what
    assert resolve(str(path), "random").weights == "random"


def test_a_shared_matrix_that_is_stored_twice_counts_once(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", LLAMA | {"tie_word_embeddings": True})
    safetensors(path / "model.safetensors", SHAPES | {"lm_head.weight": [300, 8]})
    assert resolve(str(path)).parameters == 300 * 8 + 8


def test_packed_weights_are_not_counted(tmp_path: Path) -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "gptq"}}
    path = folder(tmp_path / "m", config, "model.safetensors")
    assert resolve(str(path)).parameters is None


def test_what_save_pretrained_writes_is_counted_exactly(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "m", max_shard_size="5KB")
    assert (tmp_path / "m" / "model.safetensors.index.json").exists()
    found = resolve(str(tmp_path / "m"))
    assert found.parameters == sum(weight.numel() for weight in model.parameters())


# The cache and the hub


def test_a_cached_model_of_another_kind_of_name(empty_cache: Path) -> None:
    cached(empty_cache, "some/thing", weights="model.safetensors", tokenizer=True)
    model = resolve("some/thing")
    assert (model.source, model.weights, model.location) == ("cache", "pretrained", "some/thing")
    assert (model.parameters, model.tokenizer) == (300 * 8 + 8, "some/thing")
    assert resolve("some/thing", "random").config == LLAMA


def test_pickles_and_remote_code_in_the_cache_are_refused_too(empty_cache: Path) -> None:
    cached(empty_cache, "some/pickle", weights="pytorch_model.bin")
    assert "pickle" in refusal("some/pickle").title
    cached(empty_cache, "some/code", config=LLAMA | {"auto_map": {"AutoConfig": "x.Y"}})
    assert "--trust-remote-code" in refusal("some/code").fix


def test_a_hub_id_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("nobody/nothing") == Model(
        name="nobody/nothing",
        source="hub",
        location="nobody/nothing",
        weights="pretrained",
        tokenizer="nobody/nothing",
    )
    assert "config.json" in refusal("nobody/nothing", "random").what
    assert resolve("Qwen/Qwen3-8B", "random").parameters == 8190735360
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "nobody/nothing" in refusal("nobody/nothing").what


def test_the_cache_is_found_as_the_hub_library_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(catalog.cache_folder()).endswith("/hf/hub")
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "/b")
    assert str(catalog.cache_folder()) == "/b"
    monkeypatch.setenv("HF_HUB_CACHE", "/a")
    assert str(catalog.cache_folder()) == "/a"
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/h")
    assert str(catalog.cache_folder()) == "/h/.cache/huggingface/hub"


def test_models_lists_the_catalogue_then_the_cache(empty_cache: Path) -> None:
    cached(empty_cache, "Qwen/Qwen3-8B", weights="model.safetensors")
    cached(empty_cache, "some/thing", weights="model.safetensors")
    cached(empty_cache, "some/encoder", config={"model_type": "bert", "architectures": ["X"]})
    cached(empty_cache, "some/nothing", config=None)
    found = catalog.models()
    assert [model.name for model in found] == [*catalog.catalogue(), "some/thing"]
    local = [model.name for model in found if model.weights == "pretrained"]
    assert local == ["qwen3-8b", "some/thing"]


def test_a_damaged_download_does_not_hide_the_list(empty_cache: Path) -> None:
    path = cached(empty_cache, "Qwen/Qwen3-8B")
    (path / "model.safetensors").write_bytes(b"broken")
    assert {model.name for model in catalog.models()} == set(catalog.catalogue())
    assert "not complete" in refusal("qwen3-8b").title


# What it costs


def test_types_are_read_from_transformers_without_importing_it() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert checkpoint.causal_model_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_the_catalogue_is_light() -> None:
    code = (
        "import sys; from memwb.engine import catalog; catalog.models();"
        "catalog.resolve('tiny'); print(sorted(set(sys.modules) &"
        " {'torch', 'transformers', 'huggingface_hub', 'safetensors', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
