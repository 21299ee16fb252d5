"""Odd plans are predicted or refused: never a crash, never without bounds in time or memory."""

from __future__ import annotations

import json
import os
import random
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.errors import MemwbError
from memwb.engine.plan import override, plan_from
from memwb.engine.predict.predictor import predict
from memwb.engine.technique import parameters_of, techniques

pytestmark = pytest.mark.long

GIB = 2**30
SMALL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported at first use is imported here: a fork's growth is the prediction's own."""
    small = made(tmp_path_factory.mktemp("warm"), SMALL)
    data = {"model": small, "workload": {"sequence_length": 8, "steps": 2}}
    for target in ("cpu", "h200"):
        assert told(data, "lora=on", "packing=on", target=target) == "predicted"


def told(data: dict[str, Any], *overrides: str, target: str = "cpu") -> str:
    """``predicted``, or the refusal's title. What else is raised is a defect."""
    try:
        plan = plan_from(data)
        for text in overrides:
            plan = override(plan, text)
        found = predict(plan, target)
    except MemwbError as error:
        assert error.title and error.what and error.fix, repr(error)
        assert "Traceback" not in str(error)
        return error.title
    assert found.peak.allocated == found.peak.categories.total > 0
    return "predicted"


def apart(work: Callable[[], str]) -> tuple[str, int, float]:
    """The work's answer, the bytes by which its process grew, and its seconds; in a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            # A real tensor of gibibytes fails here, and not on the machine's other work.
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + 2 * GIB, size + 2 * GIB))
            answer = work()
        except BaseException:
            answer = traceback.format_exc()
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        with os.fdopen(writing, "w") as out:
            json.dump((answer, grown, time.monotonic() - began), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        text = result.read()
    os.waitpid(child, 0)
    assert text, "the process died"
    answer, grown, seconds = json.loads(text)
    return answer, grown, seconds


def made(folder: Path, config: dict[str, Any]) -> str:
    place = folder / f"model-{len(list(folder.iterdir()))}"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    return str(place)


@pytest.mark.parametrize("target", ["cpu", "h200"])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("llama-3.1-70b", ()),
        ("llama-3.1-70b", ("bf16=on", "lora=on", "packing=on")),
        ("llama-3.1-70b", ("bf16=on", "padding=on", "padding.to=sequence_length")),
    ],
)
def test_a_large_model_takes_no_memory(name: str, overrides: tuple[str, ...], target: str) -> None:
    data = {"model": name, "workload": {"batch_size": 64, "sequence_length": 8192}}
    answer, grown, seconds = apart(lambda: told(data, *overrides, target=target))
    assert answer == "predicted"
    assert grown < GIB // 2 and seconds < 60


@pytest.mark.parametrize("target", ["cpu", "rtx-4090"])
@pytest.mark.parametrize(
    ("work", "technique"),
    [
        ({"sequence_length": 10**6}, "packing"),
        ({"sequence_length": 2**24}, "concatenation"),
        ({"batch_size": 2**16, "sequence_length": 2**20}, "padding"),
        ({"batch_size": 2**16, "sequence_length": 2}, "concatenation"),
        ({"gradient_accumulation": 2**16, "sequence_length": 8}, "concatenation"),
        ({"gradient_accumulation": 500, "sequence_length": 8}, "padding"),
        ({"steps": 10**7, "sequence_length": 8}, "concatenation"),
    ],
)
def test_extreme_workloads_stay_within_bounds(
    tmp_path: Path, work: dict[str, int], technique: str, target: str
) -> None:
    data = {"model": made(tmp_path, SMALL), "workload": work}
    answer, grown, seconds = apart(lambda: told(data, f"{technique}=on", target=target))
    assert "Traceback" not in answer, answer
    assert grown < GIB and seconds < 60


ODD: list[dict[str, Any]] = [
    {"num_hidden_layers": 1},
    {"num_attention_heads": 1, "num_key_value_heads": 1},
    {"vocab_size": 1},
    {"vocab_size": 7, "tie_word_embeddings": True},
    {"num_attention_heads": 4, "num_key_value_heads": 1},
    {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10},
    {"max_position_embeddings": 1},
    {"num_hidden_layers": 0},
    {"hidden_size": 0},
    {"hidden_size": "large"},
    {"num_attention_heads": 5},
    {"model_type": "nothing"},
    {"model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 4},
]


@pytest.mark.parametrize("change", ODD, ids=str)
def test_odd_models_are_predicted_or_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    model = made(tmp_path, SMALL | change)
    for target in ("cpu", "h200"):
        told({"model": model, "workload": {"sequence_length": 16, "steps": 2}}, target=target)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    small = made(tmp_path, SMALL)
    short = {"sequence_length": 8, "steps": 1}
    assert told({"model": small, "workload": short | {"data": "/nowhere.txt"}}) != "predicted"
    assert told({"model": str(tmp_path / "nowhere"), "workload": short}) != "predicted"
    assert told({"model": small, "workload": short}, target="abacus") != "predicted"
    assert told({"model": "tynie", "workload": short}) != "predicted"
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert told({"model": small, "workload": short | {"data": str(empty)}}) != "predicted"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    assert told({"model": str(broken), "workload": short}) != "predicted"
    # A pretrained model without a tokenizer beside it has rows all the same.
    assert told({"model": small, "weights": "random", "workload": short}) == "predicted"


def test_drawn_plans_are_predicted_or_refused(tmp_path: Path) -> None:
    rng = random.Random(8)
    quick = [name for name, one in techniques().items() if one.group != "compile"]
    models = [made(tmp_path, SMALL), made(tmp_path, SMALL | ODD[-1] | {"n_positions": 64})]
    answers = []
    for _ in range(30):
        work = {
            "batch_size": rng.choice((1, 2, 5)),
            "sequence_length": rng.choice((2, 3, 17, 40, 65)),
            "gradient_accumulation": rng.choice((1, 2)),
            "steps": rng.choice((1, 2)),
        }
        edits = []
        for name in rng.sample(quick, rng.randint(0, 4)):
            edits.append(f"{name}=on")
            for parameter in parameters_of(techniques()[name]):
                values = list(parameter.choices) or [0, 1, -1, 3, 0.5, "x", 10**9]
                if rng.random() < 0.3:
                    edits.append(f"{name}.{parameter.name}={rng.choice(values)}")
        data = {"model": rng.choice(models), "workload": work}
        answers.append(told(data, *edits, target=rng.choice(("cpu", "h200", "rtx-4090"))))
    assert "predicted" in answers and len(set(answers)) > 1
