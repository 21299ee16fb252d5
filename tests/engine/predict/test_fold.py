"""Folding: from two traces of a few layers exactly what the trace of all of them would be."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from memwb.engine.plan import override, plan_from
from memwb.engine.predict import layers
from memwb.engine.predict.fold import fold
from memwb.engine.predict.run import import_libraries
from memwb.engine.predict.stream import Birth, Stream
from memwb.engine.trainer.trace import ACTIVATIONS, GRADIENTS, OPTIMIZER, TEMPORARY, WEIGHTS, Moment


class Done(NamedTuple):
    """A moment with what it was done to: storages by the order of their births."""

    step: int
    phase: str
    storage: int
    change: int
    birth: Birth | None


def done(stream: Stream | None) -> list[Done]:
    assert stream is not None
    order: dict[int, int] = {}
    return [
        Done(
            moment.step,
            moment.phase,
            order.setdefault(moment.storage, len(order)),
            moment.change,
            stream.births.get(moment.storage),
        )
        for moment in stream.moments
    ]


class Tape:
    """A stream made by hand."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.births: dict[int, Birth] = {}
        self.sizes: dict[int, int] = {}
        self.at = (0, "load")

    def mark(self, step: int, phase: str) -> None:
        self.at = (step, phase)
        self._moment(-1, 0)

    def take(self, category: int, op: str, *shape: int, module: str = "", size: int = 0) -> int:
        name = len(self.births) + 1
        self.births[name] = Birth(category, module, op, shape, "float32")
        size = size or 4 * shape[0]
        self.sizes[name] = size
        self._moment(name, size)
        return name

    def grow(self, name: int, change: int) -> None:
        self.sizes[name] += change
        self._moment(name, change)

    def drop(self, *names: int) -> None:
        for name in names:
            self._moment(name, -self.sizes.pop(name))

    def stream(self) -> Stream:
        return Stream(self.moments, self.births)

    def _moment(self, name: int, change: int) -> None:
        self.moments.append(Moment(len(self.moments), *self.at, name, change))


SIZES = (64, 64, 96, 8)


def trained(count: int, rounds: int = 1, first: bool = False, kinds: int = 1) -> Stream:
    """What two steps of training do, in small.

    Weights; gradient accumulation over ``rounds``; a clipped norm in one tensor; an optimizer
    that works on lists. Gradients are let go first to last, activations last to first, or with
    ``first`` first to last too. Layers are of ``kinds`` sizes, in turns.
    """
    tape = Tape()
    places = [("embed", 0), *((f"layers.{n}", n % kinds) for n in range(count)), ("head", 0)]
    weights = [(place, kind, part) for place, kind in places for part in range(len(SIZES))]
    tape.mark(0, "load")
    for place, kind, part in weights:
        tape.take(WEIGHTS, "empty", SIZES[part] + kind, module=place)
    gradients: dict[tuple[str, int], int] = {}
    for step in (1, 2):
        for turn in range(rounds):
            tape.mark(step, "forward")
            kept = []
            for place, kind in places:
                before = tape.take(TEMPORARY, "norm", 16, module=place)
                kept.append([tape.take(ACTIVATIONS, "mm", 64 + kind, module=place) for _ in "ab"])
                tape.drop(before)
            tape.mark(step, "backward")
            for index in range(len(places)) if first else reversed(range(len(places))):
                place, kind = places[index]
                for part in range(len(SIZES)):
                    made = GRADIENTS if turn == 0 else TEMPORARY
                    new = tape.take(made, "mm", SIZES[part] + kind, module=place)
                    if turn == 0:
                        gradients[place, part] = new
                    else:
                        tape.drop(new)
                tape.drop(*kept[index])
        tape.mark(step, "optimizer")
        norms = [tape.take(TEMPORARY, "norm", 1) for _ in weights]
        stacked = tape.take(TEMPORARY, "stack", len(weights))
        tape.drop(*norms, stacked)
        if step == 1:
            for _, kind, part in weights:
                tape.take(OPTIMIZER, "zeros_like", SIZES[part] + kind)
        roots = [tape.take(TEMPORARY, "sqrt", SIZES[part] + kind) for _, kind, part in weights]
        tape.drop(*reversed(roots))
        tape.drop(*(gradients.pop((place, part)) for place, _, part in weights))
    return tape.stream()


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("depth", [3, 4, 5, 20])
def test_like_layers(rounds: int, first: bool, depth: int) -> None:
    made = [trained(count, rounds, first) for count in (3, 4, depth)]
    assert done(fold(made[0], made[1], depth, 3, 4)) == done(made[2])


@pytest.mark.parametrize("depth", [11, 23])
@pytest.mark.parametrize("kinds", [2, 3])
def test_layers_in_turns(kinds: int, depth: int) -> None:
    found = layers.depths(depth + 20, kinds)
    assert found is not None
    short, long = found
    depth = short + kinds * depth
    made = [trained(count, kinds=kinds) for count in (short, long, depth)]
    assert done(fold(made[0], made[1], depth, short, long)) == done(made[2])


def test_a_storage_that_grows() -> None:
    def made(count: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        whole = tape.take(TEMPORARY, "empty", 8)
        for _ in range(count):
            part = tape.take(TEMPORARY, "mm", 4)
            tape.grow(whole, 32)
            tape.drop(part)
        tape.drop(whole)
        return tape.stream()

    assert done(fold(made(3), made(4), 9, 3, 4)) == done(made(9))


def test_times_count_moments() -> None:
    made = fold(trained(3), trained(4), 12, 3, 4)
    assert made is not None
    assert [moment.time for moment in made.moments] == list(range(len(made.moments)))


@pytest.mark.parametrize("depths", [(2, 3, 4), (9, 3, 3), (9, 4, 3), (10, 3, 5)])
def test_depths_that_do_not_fit(depths: tuple[int, int, int]) -> None:
    assert fold(trained(3), trained(4), *depths) is None


def listed(*sizes: int) -> Stream:
    tape = Tape()
    tape.mark(1, "forward")
    for size in sizes:
        tape.take(ACTIVATIONS, "mm", size)
    tape.mark(1, "backward")
    return tape.stream()


def test_layers_that_differ() -> None:
    """Each layer is twice as wide as the one before: there is no stretch to repeat."""
    assert fold(listed(1, 2, 4), listed(1, 2, 4, 8), 5, 3, 4) is None


def test_something_beside_the_layers() -> None:
    assert fold(listed(1, 2, 2, 3), listed(1, 2, 2, 2, 3, 1), 5, 3, 4) is None
    assert fold(listed(1, 2, 2, 3), listed(1, 2, 2, 3, 4), 5, 3, 4) is None


def test_fewer_moments_with_more_layers() -> None:
    assert fold(trained(4), trained(3), 6, 3, 4) is None


def test_a_size_that_grows_both_ways() -> None:
    """A square of as many rows and columns as there are layers does not grow evenly."""

    def made(count: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        for _ in range(count):
            tape.take(ACTIVATIONS, "mm", 7)
        tape.take(TEMPORARY, "mm", count, count, size=4 * count**2)
        return tape.stream()

    assert fold(made(3), made(4), 9, 3, 4) is None


def test_an_order_that_does_not_go_on() -> None:
    """With a layer more another storage goes first: who would it be with many more?"""

    def made(count: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        kept = [tape.take(ACTIVATIONS, "mm", 7) for _ in range(count)]
        tape.mark(1, "backward")
        tape.drop(kept.pop(0 if count == 3 else 3))
        tape.take(TEMPORARY, "add", 5)
        tape.drop(*kept)
        return tape.stream()

    assert fold(made(3), made(4), 9, 3, 4) is None


CHECKPOINTING = "activation_checkpointing"
PLANS = {
    "llama": ("rtx-4090", ["lora=on", "quantize_4bit=on", f"{CHECKPOINTING}=on"]),
    "qwen2": ("cpu", ["lora=on"]),
    "qwen3": ("cpu", ["workload.gradient_accumulation=2"]),
    "mistral": ("rtx-4090", [f"{CHECKPOINTING}=on", f"{CHECKPOINTING}.every=2"]),
    "gemma2": ("cpu", ["chunked_cross_entropy=on", "chunked_cross_entropy.chunk_size=8"]),
    "gemma3": ("rtx-4090", ["optimizer_in_backward=on"]),
    "phi3": ("cpu", [f"{CHECKPOINTING}=on", f"{CHECKPOINTING}.mode=submodule"]),
    "gpt2": ("cpu", ["sgd=on"]),
    "gpt_bigcode": ("rtx-4090", ["gradient_clipping=on"]),
}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """As in the engine's server: imported before anything is pretended."""
    import_libraries()
    # A trace collects garbage often, and need not look at what the imports made.
    gc.collect()
    gc.freeze()


def test_the_script_itself(
    family: str,
    families: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each family with other techniques: every moment is that of the trace of all layers."""
    from memwb.engine.predict.run import ALL, LONG, SHORT, traced
    from memwb.engine.predict.targets import target_named

    # So few layers are not worth folding, and are enough to see that it is right.
    monkeypatch.setattr(layers, "FIXED", -100)
    period = 2 if family in ("mistral", "gemma2") else 1
    config = {**families[family], "layer_types": None, "sliding_window_pattern": 1}
    if family != "gemma3":
        del config["sliding_window_pattern"]
    config["n_layer" if "n_layer" in config else "num_hidden_layers"] = (
        3 * period + 2 if period > 1 else 6
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    workload = {"batch_size": 1, "sequence_length": 24, "steps": 2}
    plan = plan_from({"model": str(tmp_path), "workload": workload})
    target, edits = PLANS[family]
    for text in edits:
        plan = override(plan, text)
    few, more, full = (traced(plan, target_named(target), take) for take in (SHORT, LONG, ALL))
    assert full.depths is not None
    assert full.depths[1] - full.depths[0] == period
    folded = fold(few.stream, more.stream, full.layers, *full.depths)
    assert done(folded) == done(full.stream)


def test_a_third_depth_tells_what_two_do_not(
    families: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs fetched one layer ahead: which are there is even only from the fourth layer on."""
    from memwb.engine.predict import predictor
    from memwb.engine.predict.run import ALL, LONG, SHORT, traced
    from memwb.engine.predict.targets import target_named

    for module in (layers, predictor):
        monkeypatch.setattr(module, "FIXED", -100)
    (tmp_path / "config.json").write_text(json.dumps(families["llama"] | {"num_hidden_layers": 8}))
    workload = {"batch_size": 1, "sequence_length": 24, "steps": 2}
    plan = plan_from({"model": str(tmp_path), "workload": workload})
    plan, target = override(plan, "checkpoint_offload=on"), target_named("rtx-4090")
    few, more, full = (traced(plan, target, take) for take in (SHORT, LONG, ALL))
    assert fold(few.stream, more.stream, 8, 3, 4) is None, "two depths are enough"
    folded = predictor.folded(plan, target)
    assert folded is not None
    assert done(folded.stream) == done(full.stream)
    assert (folded.parameters, folded.trainable) == (full.parameters, full.trainable)
