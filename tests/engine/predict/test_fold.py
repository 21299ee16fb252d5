"""Folding: from two traces of a few layers exactly what the trace of all of them would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from memwb.engine.plan import override, plan_from
from memwb.engine.predict.fold import fold
from memwb.engine.predict.layers import depths
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


def trained(layers: int, rounds: int = 1, first: bool = False, kinds: int = 1) -> Stream:
    """What two steps of training do, in small.

    Weights; gradient accumulation over ``rounds``; a clipped norm in one tensor; an optimizer
    that works on lists. Gradients are let go first to last, activations last to first, or with
    ``first`` first to last too. Layers are of ``kinds`` sizes, in turns.
    """
    tape = Tape()
    places = [("embed", 0), *((f"layers.{n}", n % kinds) for n in range(layers)), ("head", 0)]
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
    made = [trained(layers, rounds, first) for layers in (3, 4, depth)]
    assert done(fold(made[0], made[1], depth, 3, 4)) == done(made[2])


@pytest.mark.parametrize("depth", [11, 23])
@pytest.mark.parametrize("kinds", [2, 3])
def test_layers_in_turns(kinds: int, depth: int) -> None:
    found = depths(depth + 20, kinds)
    assert found is not None
    short, long = found
    depth = short + kinds * depth
    made = [trained(layers, kinds=kinds) for layers in (short, long, depth)]
    assert done(fold(made[0], made[1], depth, short, long)) == done(made[2])


def test_a_storage_that_grows() -> None:
    def made(layers: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        whole = tape.take(TEMPORARY, "empty", 8)
        for _ in range(layers):
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

    def made(layers: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        for _ in range(layers):
            tape.take(ACTIVATIONS, "mm", 7)
        tape.take(TEMPORARY, "mm", layers, layers, size=4 * layers**2)
        return tape.stream()

    assert fold(made(3), made(4), 9, 3, 4) is None


def test_an_order_that_does_not_go_on() -> None:
    """With a layer more another storage goes first: who would it be with many more?"""

    def made(layers: int) -> Stream:
        tape = Tape()
        tape.mark(1, "forward")
        kept = [tape.take(ACTIVATIONS, "mm", 7) for _ in range(layers)]
        tape.mark(1, "backward")
        tape.drop(kept.pop(0 if layers == 3 else 3))
        tape.take(TEMPORARY, "add", 5)
        tape.drop(*kept)
        return tape.stream()

    assert fold(made(3), made(4), 9, 3, 4) is None


CHECKPOINTING = "activation_checkpointing"
PLANS = {
    "llama": ["workload.gradient_accumulation=2"],
    "qwen2": ["lora=on"],
    "qwen3": [f"{CHECKPOINTING}=on"],
    "mistral": [f"{CHECKPOINTING}=on", f"{CHECKPOINTING}.every=2"],
    "gemma2": ["optimizer_in_backward=on"],
    "gemma3": ["chunked_cross_entropy=on", "chunked_cross_entropy.chunk_size=8"],
    "phi3": [f"{CHECKPOINTING}=on", f"{CHECKPOINTING}.mode=submodule"],
    "gpt2": ["sgd=on"],
    "gpt_bigcode": ["gradient_clipping=on"],
}
EVERY = {"mistral": 2, "gemma2": 2, "gemma3": 2}
"""Periods of the layers: of checkpointing, and of sliding windows."""


def test_the_script_itself(
    family: str, families: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Each family with another technique: every moment is that of the trace of all layers."""
    from memwb.engine.predict.run import traced
    from memwb.engine.predict.targets import cpu

    period = EVERY.get(family, 1)
    short, long, depth = (3, 4, 7) if period == 1 else (4, 6, 10)
    config = {**families[family], "layer_types": None, "sliding_window_pattern": 2}
    config["n_layer" if "n_layer" in config else "num_hidden_layers"] = depth
    (tmp_path / "config.json").write_text(json.dumps(config))
    workload = {"batch_size": 1, "sequence_length": 24, "steps": 2}
    plan = plan_from({"model": str(tmp_path), "workload": workload})
    for text in PLANS[family]:
        plan = override(plan, text)
    few, more, full = (traced(plan, cpu(), layers).stream for layers in (short, long, 0))
    assert done(fold(few, more, depth, short, long)) == done(full)
