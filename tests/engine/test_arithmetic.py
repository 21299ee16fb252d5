"""The arithmetic of every technique that has one, held against what bursts measure, to the byte."""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memwb.engine.arithmetic import (
    Effect,
    Facts,
    amount,
    effects_of,
    facts_of,
    has_arithmetic,
    no_arithmetic,
)
from memwb.engine.plan import Plan, Workload, override, plan_data, problems, toggle
from memwb.engine.protocol import Categories, Device, Ended, Event, Loaded, Start, Timeline
from memwb.engine.shapes import Weight, shape_of
from memwb.engine.technique import module_of, parameters_of, techniques, unavailable

pytestmark = pytest.mark.long

CPU = Device("cpu", "test", 2**33)
WORK = Workload(batch_size=2, sequence_length=24, steps=2)

CONFIGS: dict[str, dict[str, Any]] = {
    # Matrices of more than 4096 values, below which 8-bit optimizers keep fp32 states.
    "llama": {
        "model_type": "llama",
        "hidden_size": 80,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 64,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 80,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 320,
        "n_positions": 64,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
LAYERS = {"llama": "num_hidden_layers", "gpt2": "n_layer"}

CONTEXTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "bf16": ("bf16=on",),
    "bf16 and lora": ("bf16=on", "lora=on", "lora.rank=4"),
}


SHORT = Path(__file__).parents[1] / "data" / "short.txt"
"""Documents of a few bytes: several fit a row, and each leaves some of it empty."""

WITHOUT = {"set_to_none": "zero_in_place"}
"""What a default is held against, where leaving it out would change nothing."""


class Case(msgspec.Struct, frozen=True):
    """A technique with parameters (as overrides) among others, on a model."""

    technique: str
    model: str
    context: str
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.technique, self.model, self.context, *self.changes])


def without(case: Case) -> Plan:
    """The context alone, with what the technique cannot do without."""
    plan = Plan(model=case.model, weights="random", workload=WORK)
    if techniques()[case.technique].group == "sequence":
        plan = override(plan, f"data={SHORT}")
    for text in CONTEXTS[case.context]:
        plan = override(plan, text)
    if case.technique in WITHOUT:
        plan = toggle(plan, WITHOUT[case.technique], True)
    for need in techniques()[case.technique].needs:
        if not any(name in plan.techniques for name in need.names):
            plan = toggle(plan, need.names[0], True)
    return plan


def with_it(case: Case) -> Plan:
    plan = toggle(without(case), case.technique, True)
    for text in case.changes:
        plan = override(plan, text)
    return plan


def variants(name: str) -> Iterator[tuple[str, ...]]:
    """Each other value of its choices and switches, one at a time."""
    for parameter in parameters_of(techniques()[name]):
        values: tuple[Any, ...] = parameter.choices
        if isinstance(parameter.default, bool):
            values = (False, True)
        for value in values:
            if value != parameter.default:
                yield (f"{name}.{parameter.name}={str(value).lower()}",)


def cases() -> Iterator[Case]:
    """Every technique with effects, wherever it runs: discovered, so that none is forgotten."""
    for name, technique in techniques().items():
        if not has_arithmetic(name):
            continue
        everywhere = [Case(name, model, "plain") for model in CONFIGS]
        everywhere += [Case(name, "llama", context) for context in CONTEXTS if context != "plain"]
        everywhere += [Case(name, "llama", "plain", changes) for changes in variants(name)]
        for case in everywhere:
            plan, off = with_it(case), without(case)
            # One of the context's own, or another of an exclusive group in its place.
            gone = off.techniques.keys() - plan.techniques.keys() - {WITHOUT.get(name)}
            replaced = name in off.techniques or gone
            refused = problems(plan, CONFIGS[case.model])
            if not (replaced or refused or unavailable(technique, plan.techniques[name], CPU)):
                yield case


@functools.cache
def folder(model: str, layers: int, root: Path) -> Path:
    """A folder with the config of a small model."""
    made = root / f"{model}-{layers}"
    made.mkdir()
    config = {**CONFIGS[model], LAYERS[model]: layers}
    architecture = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[model]
    text = json.dumps({**config, "architectures": [architecture]})
    (made / "config.json").write_text(text)
    return made


class Measured(msgspec.Struct, frozen=True):
    """What a burst shows: the weights without buffers, and the samples of its second step."""

    weights: int
    samples: list[tuple[str, Categories]]

    def figure(self, category: str, phase: str) -> int:
        """The bytes that an effect on this category, in this phase, speaks of."""
        if category == "weights":
            return self.weights
        chosen = [parts for name, parts in self.samples if phase in ("", name)]
        if category == "optimizer":
            chosen = chosen[-1:]
        if category == "activations":
            # As backward begins: what was kept for it.
            chosen = [parts for name, parts in self.samples if name == "backward"][:1]
        sizes = [getattr(parts, category) for parts in chosen]
        # What stands all through a phase is of no technique: the batch, the losses.
        return int(max(sizes) - (min(sizes) if category == "temporary" else 0))


@functools.cache
def measured(text: str, layers: int, root: Path) -> Measured:
    """The second step of a burst of the plan, which is given as JSON."""
    from memwb.engine.trainer import burst, cpu

    buffers: list[int] = []
    inventory = burst.inventory
    weights_of = inventory.weights_of

    def weights(model: Any) -> Any:
        buffers.append(inventory.size(model.buffers()))
        return weights_of(model)

    plan = json.loads(text)
    plan["model"] = str(folder(plan["model"], layers, root))
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory, "weights_of", weights)
        # Every moment, not the highest of each slice of time.
        patch.setattr(cpu, "downsample", list)
        ended = burst.run_plan(Start(burst="1", plan=plan, device="cpu"), events.append)
    assert isinstance(ended, Ended) and ended.outcome == "done", ended
    loaded = next(event for event in events if isinstance(event, Loaded))
    second = next(e.samples for e in events if isinstance(e, Timeline) and e.step == 2)
    known = [(sample.phase, sample.categories) for sample in second if sample.categories]
    return Measured(loaded.weights - buffers[0], known)


def figure(plan: Plan, effect: Effect, root: Path) -> int:
    """What is measured of an effect: in all, or a layer's share."""
    text = json.dumps(plan_data(plan))

    def of(layers: int) -> int:
        return measured(text, layers, root).figure(effect.category, effect.phase)

    return (of(4) - of(2)) // 2 if effect.each else of(2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models' folders are made."""
    from memwb.engine.trainer.server import PRELOADED

    for name in PRELOADED:
        importlib.import_module(name)
    # A burst collects garbage several times: without all that was imported it takes an eighth.
    gc.collect()
    gc.freeze()
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_arithmetic_is_what_a_burst_measures(case: Case, root: Path) -> None:
    plan = with_it(case)
    facts = facts_of(plan, CONFIGS[case.model], CPU)
    assert facts is not None
    for effect in effects_of(case.technique, plan.techniques[case.technique], facts):
        after = figure(plan, effect, root)
        if effect.before is None:
            assert effect.after == after - stays(plan, facts), effect
            continue
        before = figure(without(case), effect, root)
        if effect.category == "activations":
            assert effect.after - effect.before == after - before, effect
        else:
            assert (effect.before, effect.after) == (before, after), effect


def stays(plan: Plan, facts: Facts) -> int:
    """What a layer keeps beside the inputs of attention and MLP, where these alone are told.

    It is what its two norms keep. Llama's: their input in fp32, the root of each token, and,
    if their factors are trained, what these multiply. GPT-2's: their input, and two numbers of
    each token, in the weights' precision on a CPU.
    """
    chosen = plan.techniques.get("activation_checkpointing")
    if getattr(chosen, "mode", "") != "submodule":
        return 0
    width, states = facts.weight_bytes, facts.tokens * facts.shape.hidden
    if facts.shape.family == "gpt2":
        return 2 * width * (states + 2 * facts.tokens)
    multiplied = 0 if facts.adapters else width * states
    return 2 * (4 * states + 4 * facts.tokens + multiplied)


@pytest.mark.parametrize("name", techniques())
def test_every_technique_has_arithmetic_or_says_on_what_it_depends(name: str) -> None:
    assert has_arithmetic(name) or no_arithmetic(name)
    plans = [toggle(Plan(model="llama", workload=WORK), name, True)]
    plans += [override(plans[0], text) for changes in variants(name) for text in changes]
    for plan, kind in itertools.product(plans, ("", "cpu", "cuda")):
        found = facts_of(plan, CONFIGS["llama"], Device(kind, "test", 2**33) if kind else None)
        assert found is not None
        told = effects_of(name, plan.techniques[name], found)
        assert told or no_arithmetic(name), plan.techniques
        assert all(each.formula for each in told)


def test_on_a_gpu_two_inputs_of_layers_stay_on_the_device() -> None:
    plan = toggle(Plan(model="llama", workload=WORK), "checkpoint_offload", True)
    found = facts_of(plan, {**CONFIGS["llama"], "num_hidden_layers": 9}, Device("cuda", "x", 1))
    assert found is not None
    [effect] = effects_of("checkpoint_offload", plan.techniques["checkpoint_offload"], found)
    assert (effect.before, effect.after, effect.each) == (None, 2 * 4 * 48 * 80, False)


def facts(model: str, *changes: str) -> Facts:
    plan = Plan(model=model, workload=WORK)
    for text in changes:
        plan = override(plan, text)
    found = facts_of(plan, CONFIGS[model])
    assert found is not None
    return found


def test_the_bytes_of_a_value_follow_precision_and_adapters() -> None:
    widths = {
        (): (4, 4, 4),
        ("bf16=on",): (2, 2, 2),
        ("amp_bf16=on",): (4, 2, 4),
        ("bf16=on", "lora=on"): (2, 2, 4),
    }
    for changes, expected in widths.items():
        found = facts("llama", *changes)
        assert (found.weight_bytes, found.compute_bytes, found.trained_bytes) == expected
    assert facts("llama").tokens == 48


PRECISIONS = [name for name, each in techniques().items() if each.group == "precision"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_says_what_its_weights_take(precision: str, root: Path) -> None:
    plan = toggle(Plan(model="llama", weights="random", workload=WORK), precision, True)
    if unavailable(techniques()[precision], None, CPU) or problems(plan):
        return
    found = facts_of(plan, CONFIGS["llama"])
    assert found is not None
    weights = measured(json.dumps(plan_data(plan)), 2, root).weights
    assert weights == found.weight_bytes * found.shape.parameters


def trained_on_meta(name: str, params: Any, config: dict[str, Any]) -> dict[str, int]:
    """How many values of each shape an adapter trains on the real model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        adapted = module_of(name).adapt_model(model, **msgspec.to_builtins(params))
    return _counted((tuple(w.shape), 1) for w in adapted.parameters() if w.requires_grad)


def _counted(shapes: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for shape, count in shapes:
        found[str(shape)] = found.get(str(shape), 0) + count
    return found


ADAPTERS = [name for name in techniques() if hasattr(module_of(name), "trained")]


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_an_adapter_trains_is_told_for_every_family(
    name: str, families: dict[str, dict[str, Any]]
) -> None:
    for family, config in families.items():
        shape = shape_of(config)
        assert shape is not None
        # The parameters' values on two families: one with linear layers, one with Conv1D.
        others = variants(name) if family in ("llama", "gpt2") else ()
        for changes in ((), *others):
            plan = toggle(Plan(model=family), name, True)
            for text in changes:
                plan = override(plan, text)
            if problems(plan, config):
                continue
            params = plan.techniques[name]
            told: tuple[Weight, ...] = module_of(name).trained(params, shape)
            expected = _counted((weight.shape, weight.count) for weight in told)
            assert expected == trained_on_meta(name, params, config), (family, changes)


def test_only_known_families_have_facts() -> None:
    assert facts_of(Plan(model="x"), {}) is None
    assert facts_of(Plan(model="x"), {"model_type": "mixtral"}) is None


def test_amounts_are_read_at_a_glance() -> None:
    counts = (0, 12_288, 999_499, 999_600, 4_600_000, 134_515_008, 1_543_714_304)
    texts = ("0", "12,288", "999,499", "1 M", "4.6 M", "135 M", "1.54 B")
    assert tuple(map(amount, counts)) == texts
