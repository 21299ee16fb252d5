"""What an exception of a script means to who asked for a prediction."""

from __future__ import annotations

import pytest
import torch

from memwb.engine.plan import plan_from
from memwb.engine.predict.predictor import _cannot

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
    assert "ValueError: odd" in _cannot(PLAN, ValueError("odd:\nand more")).what


def test_a_compiler_is_told_of_without_its_log() -> None:
    from torch._dynamo.exc import Unsupported

    told = _cannot(PLAN, Unsupported("a page of text", case_name="x"))
    assert told.what == "torch's compiler gave up on tensors that have no values (Unsupported)"
