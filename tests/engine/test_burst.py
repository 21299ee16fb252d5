"""A burst from outside: what its script does, and how it may end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from memwb.engine.advice import Setting
from memwb.engine.catalog import resolve
from memwb.engine.devices import device_for
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Categories,
    Device,
    Ended,
    Event,
    Loaded,
    Peak,
    Samples,
    Start,
    Started,
    Step,
    Timeline,
)
from memwb.engine.trainer import outcome
from memwb.engine.trainer.burst import About, run_file, run_plan
from memwb.engine.trainer.phases import decoder_of

WORKLOAD = {"steps": 3, "sequence_length": 16}


def run(
    plan: dict[str, object] | None = None, *, device: str = "cpu", **workload: object
) -> list[Event]:
    events: list[Event] = []
    data = {"model": "tiny", "workload": {**WORKLOAD, **workload}, **(plan or {})}
    run_plan(Start(data, device=device, burst="b"), events.append)
    return events


def end(events: list[Event]) -> Ended:
    last = events[-1]
    assert isinstance(last, Ended)
    assert sum(isinstance(event, Ended) for event in events) == 1
    return last


def run_text(folder: Path, text: str) -> list[Event]:
    path = folder / "train.py"
    path.write_text(text)
    events: list[Event] = []
    run_file(path, [], events.append, About(device=Device("cpu", "test", 1)))
    return events


def script_with(body: str) -> str:
    """A script of the usual shape whose training does ``body``."""
    return f"""
import torch

def batches():
    return torch.ones(4)

def build_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def loss(model, batch, tokens):
    return model(batch).sum()

def train(model, optimizer, batch):
    for step in range(1, 10):
        value = loss(model, batch, 1)
        value.backward()
        optimizer.step()
        {body}
        yield step, value.item()

def main(argv=None):
    batch = batches()
    model = torch.nn.Linear(4, 4)
    for step, value in train(model, build_optimizer(model), batch):
        pass
"""


def test_the_order_of_a_bursts_events() -> None:
    events = run()
    kinds = [type(event) for event in events if not isinstance(event, Samples)]
    assert kinds == [Started, Loaded, Timeline, Timeline, Step, Timeline, Step, Step, Ended]
    started = next(e for e in events if isinstance(e, Started))
    assert (started.model, started.weights, started.steps) == ("tiny", "random", 3)
    assert started.traced == (1, 2)
    assert "def main(" in started.script
    loaded = next(e for e in events if isinstance(e, Loaded))
    assert loaded.parameters == started.parameters == loaded.trainable
    ended = end(events)
    assert ended.outcome == "done" and ended.peak is not None
    assert len(ended.losses) == 3 and ended.padding == 0
    steps = [event for event in events if isinstance(event, Step)]
    # A row's first token is nobody's next one.
    assert [step.tokens for step in steps] == [15, 15, 15]
    # Steps 1 and 2 are traced. An event's seconds are rounded to millionths.
    assert ended.tokens_per_second == pytest.approx(15 / steps[2].seconds, rel=1e-3)
    assert {e.burst for e in events} == {"b"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"techniques": {"lora": {"rank": "many"}}}, "$.techniques.lora.rank"),
        ({"techniques": {"no_such": {}}}, "$.techniques.no_such"),
        ({"techniques": {"quantize_4bit": {}}}, "$.techniques.quantize_4bit"),
        ({"workload": {"data": "/no/such/file.txt"}}, "/no/such/file.txt"),
    ],
)
def test_a_wrong_plan_or_input_is_refused_before_anything_runs(
    plan: dict[str, object], said: str
) -> None:
    events = run(plan)
    ended = end(events)
    assert ended.outcome == "refused"
    assert said in f"{ended.title} {ended.what}"
    assert ended.fix
    assert not [e for e in events if isinstance(e, Started | Loaded | Step)]


def test_a_random_base_is_quantized_module_by_module() -> None:
    """At no time does the loading hold all of the fp32 base beside the 4-bit one."""
    pytest.importorskip("bitsandbytes")
    events = run({"techniques": {"quantize_4bit": {}, "lora": {}}}, steps=1)
    loaded = next(e for e in events if isinstance(e, Loaded))
    loading = next(e for e in events if isinstance(e, Timeline) and e.step == 0)
    most = max(sample.allocated for sample in loading.samples)
    assert most - loaded.weights < 4 * loaded.parameters / 4


def test_three_words_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "three.txt"
    path.write_text("just three words")
    ended = end(run(data=str(path), sequence_length=512))
    assert ended.outcome == "refused"
    assert "three.txt" in ended.what


def test_a_missing_cuda_device_is_refused() -> None:
    if torch.version.cuda is not None:
        assert device_for("auto").kind in ("cpu", "cuda")
    else:
        assert end(run(device="cuda")).outcome == "refused"
    with pytest.raises(MemwbError):
        device_for("tpu")
    assert device_for("cpu").capacity > 2**28


def test_out_of_memory_tells_the_peak_and_what_to_do(tmp_path: Path) -> None:
    size = 1 << 52
    events = run_text(tmp_path, script_with(f"torch.empty({size}, dtype=torch.uint8)"))
    ended = end(events)
    assert ended.outcome == "oom"
    assert ended.peak is not None and ended.peak.categories.weights == 4 * (16 + 4)
    assert "GiB" in ended.what and "weights" in ended.what
    assert ended.fix
    # The step that failed is seen, too.
    assert [e.step for e in events if isinstance(e, Timeline)] == [0, 1]


def test_a_fault_is_one_sentence_and_its_traceback_is_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = run_text(tmp_path, script_with("raise RuntimeError('first line\\nsecond')"))
    ended = end(events)
    assert ended.outcome == "failed"
    assert ended.title == "The burst failed: RuntimeError: first line"
    assert ended.what == "second"
    assert "Traceback" not in f"{ended.title}{ended.what}{ended.fix}"
    assert "Traceback" in capfd.readouterr().err


def test_a_value_error_once_started_is_a_failure(tmp_path: Path) -> None:
    assert end(run_text(tmp_path, script_with("raise ValueError('late')"))).outcome == "failed"


def test_an_interrupt_stops_with_what_is_known(tmp_path: Path) -> None:
    body = "\n        if step == 2: raise KeyboardInterrupt"
    ended = end(run_text(tmp_path, script_with(body)))
    assert ended.outcome == "stopped"
    assert len(ended.losses) == 1 and ended.peak is not None


def test_a_config_that_no_model_can_have_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 7, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    events = run({"model": str(tmp_path), "weights": "random"}, steps=1)
    ended = end(events)
    assert (ended.outcome, ended.title) == ("refused", "The model cannot be loaded")
    assert not [e for e in events if isinstance(e, Started)]


def test_a_script_that_is_no_script_fails(tmp_path: Path) -> None:
    assert end(run_text(tmp_path, "import no_such_package")).outcome == "failed"


def test_what_an_allocator_says_is_understood() -> None:
    cuda = "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23"
    cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error"
    assert outcome.requested(cuda) == 3 * 2**29
    assert outcome.requested(cpu) == 4096
    assert outcome.requested("nothing of the kind") == 0
    assert outcome.is_oom(MemoryError())
    assert outcome.is_oom(torch.OutOfMemoryError(cuda))
    assert outcome.is_oom(RuntimeError(cpu))
    assert not outcome.is_oom(RuntimeError("shapes do not match"))


def test_what_would_help_is_proposed_by_its_title() -> None:
    peak = Peak(10, 10, 10, "backward", Categories(activations=10))
    setting = Setting(Plan(model="tiny"), resolve("tiny").config, Device("cpu", "test", 1))
    ended = outcome.ended_by("1", MemoryError(), True, peak, setting)
    assert "Turn on activation checkpointing (-o activation_checkpointing=on)" in ended.fix
    unknown = outcome.ended_by("1", MemoryError(), True, peak)
    assert unknown.fix == "Take a smaller batch_size or sequence_length."


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_the_decoder_is_found_below_heads_and_adapters(kind: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    if kind == "gpt2":
        small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64}
    else:
        small |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small))
    decoder = decoder_of(model)
    assert decoder is not model and not hasattr(decoder, "lm_head")
    assert decoder_of(get_peft_model(model, LoraConfig(target_modules="all-linear"))) is decoder


def test_a_loss_that_is_no_number_is_told() -> None:
    from memwb.engine.trainer.outcome import done

    assert done("1", [3.0, 2.0], None).title == ""
    told = done("1", [3.0, float("nan"), float("nan")], None)
    assert told.outcome == "done"
    assert "from step 2" in told.title and "learning_rate" in told.fix
