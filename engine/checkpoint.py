"""What a folder of the Hugging Face layout holds, told from its files without torch."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.families import ALIASES, FAMILIES, SIZES

_INDEX = "model.safetensors.index.json"
# Settings alone (tokenizer_config.json) make no tokenizer.
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_MALFORMED = (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError)
# Names of head classes that AutoModelForCausalLM maps to; gemma3 and its like are trained as
# language models through their conditional-generation class.
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's config and what else lies beside it."""

    folder: Path
    config: dict[str, Any]
    safetensors: tuple[Path, ...]
    """The weight files that from_pretrained would read, there or not; empty without weights."""
    pickled: tuple[Path, ...]
    tokenizer: bool

    @property
    def missing(self) -> tuple[Path, ...]:
        """The weight files that the index names and the folder lacks."""
        return tuple(file for file in self.safetensors if not file.exists())

    @property
    def remote_code(self) -> bool:
        """Whether the config names Python files of its own to be run."""
        return bool(self.config.get("auto_map"))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look into a model's folder. Raises MemwbError if it holds no usable config.json."""
    config = _config(folder)
    return Checkpoint(
        folder=folder,
        config=config,
        safetensors=_safetensors(folder),
        pickled=tuple(sorted(file for kind in _PICKLED for file in folder.glob(kind))),
        tokenizer=bool(tokenizer_files(folder)),
    )


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files that make a folder's tokenizer; none if it has none."""
    return tuple(folder / name for name in _TOKENIZER if (folder / name).exists())


def check_causal(checkpoint: Checkpoint, weights: str) -> None:
    """Raise MemwbError unless the config is of a causal language model that can be built here.

    Remote code can load its own weights; random ones want an architecture of transformers.
    """
    kind = checkpoint.config["model_type"]
    heads = checkpoint.config.get("architectures") or []
    file = checkpoint.folder / "config.json"
    if heads and not any(head.endswith(_CAUSAL) for head in map(str, heads)):
        raise MemwbError(
            "This is not a causal language model",
            f"{file}: architectures is {', '.join(map(str, heads))}",
            "Give the folder of a model that predicts the next token (…ForCausalLM).",
        )
    known = causal_model_types()
    if known and kind not in known and not (checkpoint.remote_code and weights == "pretrained"):
        raise MemwbError(
            f"transformers has no causal language model of the type {kind!r}",
            f"{file}: model_type",
            f"{nearest(kind, known)} A newer transformers may know it.".strip(),
        )


def count_parameters(checkpoint: Checkpoint) -> int | None:
    """Elements of all tensors, from the headers of the safetensors files.

    None without them, and for quantised weights, whose storage is packed. Raises MemwbError
    for a file that is damaged or missing. Format: https://github.com/huggingface/safetensors#format
    """
    if checkpoint.missing:
        count = f"{len(checkpoint.missing)} of {len(checkpoint.safetensors)} files"
        raise _damaged(checkpoint.folder, f"{checkpoint.missing[0].name} is missing ({count})")
    if not checkpoint.safetensors or checkpoint.config.get("quantization_config"):
        return None
    shapes: dict[str, list[int]] = {}
    for file in checkpoint.safetensors:
        shapes |= {name: entry["shape"] for name, entry in header(file).items()}
    if checkpoint.config.get("tie_word_embeddings") and any("embed" in name for name in shapes):
        # Some makers save the shared matrix a second time under the head's name.
        shapes.pop("lm_head.weight", None)
    return sum(math.prod(shape) for shape in shapes.values())


@functools.cache
def causal_model_types() -> frozenset[str]:
    """The model types of AutoModelForCausalLM, read from transformers' text, not by import.

    Empty where transformers is not installed or its file looks different; then nothing is held
    against a config here, and loading says what is wrong.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    file = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    table = re.search(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES\b.*?^\)", text, re.M | re.S)
    return frozenset(re.findall(r'\(\s*"([^"]+)",', table[0])) if table else frozenset()


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MemwbError(
            "This folder holds no model",
            f"{folder} has no config.json",
            "Give a folder written by save_pretrained, or another name of `memwb models`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise MemwbError(
            "A model's config.json cannot be read", f"{file}: {error}", "Download or save it anew."
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise MemwbError(
            "A model's config.json names no model_type",
            f"{file} is not the config of a transformers model",
            'Add "model_type", for example "llama", or save the model with save_pretrained.',
        )
    _check_sizes(config, file)
    return config


def _check_sizes(config: dict[str, Any], file: Path) -> None:
    """What is reckoned with must be numbers; of a family not known, nothing is reckoned."""
    if config["model_type"] not in FAMILIES:
        return
    for key, value in config.items():
        # Null means what a left-out key means.
        if ALIASES.get(key, key) not in SIZES or value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MemwbError(
                "A model's config.json cannot be used",
                f"{file}: $.{key}: expected int ≥ 1, not {json.dumps(value)[:80]}",
                "Download or save it anew.",
            )


def _safetensors(folder: Path) -> tuple[Path, ...]:
    """The files that from_pretrained reads: the single one, or those of the index."""
    single = folder / "model.safetensors"
    if single.exists():
        return (single,)
    index = folder / _INDEX
    if not index.exists():
        return ()
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except _MALFORMED as error:
        raise _damaged(index, f"it is not an index of weight files ({error})") from None
    return tuple(folder / name for name in names)


def header(file: Path) -> dict[str, Any]:
    """What a safetensors file holds by tensor: ``shape``, ``dtype`` and ``data_offsets``.

    Eight bytes hold the length of a JSON header, then come the tensors. Raises MemwbError for a
    file that is damaged.
    """
    try:
        found = file.stat()
        return _header(file, found.st_size, found.st_mtime_ns)
    except _MALFORMED as error:
        raise _damaged(file, str(error)) from None


@functools.lru_cache(maxsize=64)
def _header(file: Path, size: int, time: int) -> dict[str, Any]:
    """The header of a file of that size and time; a prediction asks for it more than once."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise _damaged(file, "its header is cut off, or it is a Git LFS pointer")
        found: dict[str, Any] = json.loads(stream.read(length))
    found.pop("__metadata__", None)
    for entry in found.values():
        entry["shape"] = list(entry["shape"])
    end = max((entry["data_offsets"][1] for entry in found.values()), default=0)
    if 8 + length + end > size:
        raise _damaged(file, f"{8 + length + end} bytes were expected, {size} are there")
    return found


def _damaged(file: Path, reason: str) -> MemwbError:
    return MemwbError(
        "The weights are not complete",
        f"{file}: {reason}",
        'Download or save the model again, or run it with weights = "random".',
    )
