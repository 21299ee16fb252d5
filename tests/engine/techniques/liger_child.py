"""Patches a small model of each family with Liger's kernels, on meta, and tells what they launch.

A process of its own: the library patches functions of transformers' modules for good. Prints one
JSON object: by family the names of the kernels of one step.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

# Before torch pretends to have a GPU: what it imports would believe it.
import liger_kernel.transformers.monkey_patch  # noqa: F401
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from triton.runtime.jit import JITFunction

from memwb.engine.techniques.liger_kernels import FAMILIES, OURS, patch_model

PARTS = (*OURS, "loss")


class NoDevice:
    """In place of ``torch.cuda.device``."""

    def __init__(self, *_: Any) -> None:
        """Whichever it is."""

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def launched(config: dict[str, Any], parts: dict[str, bool]) -> list[str]:
    """The kernels of one forward and backward pass, launching nothing."""
    names: list[str] = []

    def run(self: Any, *_: Any, **__: Any) -> None:
        names.append(self.__name__)

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).train()
        ids = torch.zeros(1, 8, dtype=torch.int64)
    properties = SimpleNamespace(multi_processor_count=132)
    answers: dict[str, Any] = {
        "cuda.device": NoDevice,
        "cuda.is_available": lambda: True,
        "cuda.current_device": lambda: 0,
        "cuda.get_device_capability": lambda *_: (9, 0),
        "cuda.get_device_properties": lambda *_: properties,
        "equal": lambda *_: False,
        "Tensor.item": lambda one: 7,
    }
    with mock.patch.object(JITFunction, "run", run):
        for name, answer in answers.items():
            mock.patch(f"torch.{name}", answer).start()
        try:
            patch_model(model, **parts)
            found = model(input_ids=ids, labels=ids, num_items_in_batch=7)
            assert found.loss.shape == () and (found.logits is None) is parts["loss"]
            found.loss.backward()
        finally:
            mock.patch.stopall()
    assert all(weight.grad is not None for weight in model.parameters())
    return names


def main() -> None:
    """Every family with every part."""
    found: dict[str, Any] = {}
    for config in json.load(sys.stdin):
        if config["model_type"] not in FAMILIES:
            continue
        found[config["model_type"]] = launched(config, dict.fromkeys(PARTS, True))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
