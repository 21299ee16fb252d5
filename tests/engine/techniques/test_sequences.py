"""How documents become rows: whole documents stay apart, and padding trains nothing."""

from __future__ import annotations

import random
from argparse import Namespace
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from memwb.engine import recipe
from memwb.engine.plan import Plan, Workload, plan_from, problems
from memwb.engine.protocol import Ended, Event, Start
from memwb.engine.technique import module_of
from memwb.engine.techniques import chunked_cross_entropy, length_grouping, packing, padding
from memwb.engine.trainer.burst import run_plan

NAMES = (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_bigcode",
)  # fmt: skip
ATTENTION = [(name, kind) for name in NAMES for kind in ("eager", "sdpa")]
# transformers has no sdpa for scores that are capped.
ATTENTION.remove(("gemma2", "sdpa"))

# Two ways to the same sum of fp32 differ by their roundings: 2^-24 each, along the longest chain
# of additions. That is 64 to 96 terms in each product, 6 products a layer, 2 layers and the head:
# below 1,024 there, and as many again on the way back and over the tokens of a batch.
FORWARD = 2**10 * 2**-24
BACKWARD = 3 * FORWARD

Batch = dict[str, torch.Tensor]


def arguments(**changes: Any) -> Namespace:
    """What a script's command line would hold."""
    known = {"steps": 4, "batch_size": 2, "gradient_accumulation": 1, "sequence_length": 64}
    return Namespace(**{**known, "seed": 0, "device": "cpu", "data": "some.txt", **changes})


def documents(*lengths: int, seed: int = 0) -> list[array[int]]:
    """Documents of these lengths, of tokens that the small models know."""
    rng = random.Random(seed)
    return [array("i", (rng.randrange(1, 320) for _ in range(length))) for length in lengths]


def model_of(config: dict[str, Any], attention: str = "eager") -> Any:
    """A small model without dropout: its numbers are to be compared."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation=attention
    )
    made.config.use_cache = False
    return made.eval()


def total_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The batch's loss as the script computes it, divided by nothing."""
    return recipe.loss(model, batch, 1)


def own_loss(model: Any, document: array[int]) -> torch.Tensor:
    """One document's loss when it is alone in the world."""
    tokens = torch.tensor(document.tolist())
    logits = model(input_ids=tokens[None]).logits[0, :-1]
    return functional.cross_entropy(logits.float(), tokens[1:], reduction="sum")


def gradients(model: Any, value: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of each parameter."""
    model.zero_grad()
    value.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    """Gradients equal but for the order of their sums, measured by the largest of each tensor."""
    for one, other in zip(found, wanted, strict=True):
        scale = max(other.abs().max().item(), 2**-10)
        assert (one - other).abs().max().item() <= BACKWARD * scale


def test_the_families_are_those_of_the_other_tests(families: dict[str, Any]) -> None:
    assert set(NAMES) == set(families)


@pytest.mark.parametrize(("name", "attention"), ATTENTION)
def test_a_packed_batch_trains_like_its_documents_one_by_one(
    name: str, attention: str, families: dict[str, Any]
) -> None:
    """Also where windows slide over 16 or 32 tokens, and where positions are learned."""
    alone = documents(45, 12, 40, 2, 9)
    model = model_of(families[name], attention)
    batch = next(packing.batches(arguments(steps=1), iter(alone), window=8))
    assert batch["input_ids"].shape == (2, 64)
    assert int((batch["labels"] != -100).sum()) == sum(len(one) - 1 for one in alone)
    packed = total_loss(model, batch)
    wanted = sum(own_loss(model, one) for one in alone)
    assert isinstance(wanted, torch.Tensor)
    assert packed.item() == pytest.approx(wanted.item(), rel=FORWARD)
    assert_same(gradients(model, packed), gradients(model, wanted))


@pytest.mark.parametrize(("name", "attention"), ATTENTION)
def test_a_packed_document_does_not_see_the_others(
    name: str, attention: str, families: dict[str, Any]
) -> None:
    model = model_of(families[name], attention)
    batch = next(packing.batches(arguments(steps=1), iter(documents(20, 15, 12, 30)), window=8))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    first, end = starts[1], starts[2]
    changed["input_ids"][0, first:end] = (batch["input_ids"][0, first:end] + 7) % 320
    with torch.no_grad():
        before, after = (
            model(input_ids=each["input_ids"], position_ids=each["position_ids"]).logits
            for each in (batch, changed)
        )
    assert torch.equal(before[0, :first], after[0, :first])
    assert torch.equal(before[0, end:], after[0, end:])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, first:end], after[0, first:end])


@pytest.mark.parametrize(("name", "attention"), ATTENTION)
def test_a_padded_batch_trains_like_its_documents_one_by_one(
    name: str, attention: str, families: dict[str, Any]
) -> None:
    alone = documents(45, 12)
    model = model_of(families[name], attention)
    batch = next(padding.batches(arguments(steps=1), iter(alone), to="longest"))
    padded = total_loss(model, batch)
    wanted = own_loss(model, alone[0]) + own_loss(model, alone[1])
    assert padded.item() == pytest.approx(wanted.item(), rel=FORWARD)
    assert_same(gradients(model, padded), gradients(model, wanted))


def chunked(model: Any, batch: Batch, tokens: int) -> torch.Tensor:
    """The chunked loss, with chunks that fit no row."""
    return chunked_cross_entropy.loss(model, batch, tokens, chunk_size=13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", [recipe.loss, chunked], ids=["plain", "chunked"])
@pytest.mark.parametrize("rows", ["padding", "packing"])
def test_accumulated_micro_batches_train_like_the_big_batch(
    name: str, loss: Callable[..., Any], rows: str, families: dict[str, Any]
) -> None:
    """However unevenly the labels lie: 4 rows at once, or one after another."""
    model = model_of(families[name])
    found = []
    for size, accumulation in ((4, 1), (1, 4)):
        args = arguments(steps=1, batch_size=size, gradient_accumulation=accumulation)
        options: dict[str, Any] = {"window": 8} if rows == "packing" else {"to": "longest"}
        alone = iter(documents(60, 5, 33, 12, 50, 41))
        stream = module_of(rows).batches(args, alone, **options)
        found.append(one_step(args, model, stream, loss))
    (whole, gradient), (added, accumulated) = found
    assert added == pytest.approx(whole, rel=FORWARD)
    assert_same(accumulated, gradient)


def one_step(
    args: Namespace, model: Any, stream: Iterator[Batch], loss: Callable[..., Any]
) -> tuple[float, list[torch.Tensor]]:
    """The loss that the script prints for its step, and the gradients it steps with."""
    kept: list[torch.Tensor] = []

    class Keeper(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            kept.extend(p.grad.clone() for p in model.parameters())

    optimizer = Keeper(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    ((_, value),) = recipe.train(args, model, optimizer, schedule, stream, loss)
    return value, kept


def test_positions_begin_anew_and_no_document_predicts_the_next() -> None:
    alone = documents(30, 20, 10)
    args = arguments(steps=1, batch_size=1)
    batch = next(packing.batches(args, iter(alone), window=8))
    inputs, labels, positions = (
        batch[name][0].tolist() for name in ("input_ids", "labels", "position_ids")
    )
    assert inputs == [*alone[0], *alone[1], *alone[2], 0, 0, 0, 0]
    assert positions == [*range(30), *range(20), *range(10), *range(4)]
    assert labels == [
        -100, *alone[0][1:], -100, *alone[1][1:], -100, *alone[2][1:], *[-100] * 4,
    ]  # fmt: skip


def test_every_document_is_packed_once_and_no_row_overflows() -> None:
    rng = random.Random(5)
    for _ in range(50):
        length = rng.randint(2, 90)
        pieces = documents(*(rng.randint(1, length) for _ in range(rng.randint(1, 60))))
        rows = packing.best_fit(pieces, length)
        assert sorted(map(id, pieces)) == sorted(id(piece) for row in rows for piece in row)
        assert all(0 < sum(map(len, row)) <= length for row in rows)
        # No two rows could be one: else the later's pieces had gone into the earlier.
        fills = sorted(sum(map(len, row)) for row in rows)
        assert len(fills) < 2 or fills[0] + fills[1] > length


def test_a_long_document_is_cut_and_a_single_token_left_out() -> None:
    (long,) = documents(130)
    packed = packing.pack(arguments(), iter([long, *documents(1, 65)]), 8)
    assert sorted(len(piece) for row in packed for piece in row) == [2, 64, 64, 64]
    pieces = padding.read_pieces(arguments(), iter([long, *documents(1, 65)]))
    assert [len(piece) for piece in pieces] == [64, 64, 2, 64]


ROWS: dict[str, dict[str, Any]] = {
    "concatenation": {},
    "padding": {"to": "longest"},
    "length_grouping": {"window": 50},
    "packing": {"window": 1024},
}


@pytest.mark.parametrize("name", ROWS)
def test_no_more_is_read_than_is_trained_on(name: str) -> None:
    taken: list[int] = []

    def endless() -> Iterator[array[int]]:
        while True:
            taken.append(50)
            yield from documents(50)

    args = arguments(steps=3, gradient_accumulation=2)
    list(islice(module_of(name).batches(args, endless(), **ROWS[name]), 6))
    rows = 3 * 2 * 2
    if name in ("concatenation", "packing"):
        assert sum(taken) < rows * 64 + 50
    else:
        assert len(taken) == rows


@pytest.mark.parametrize("name", ["padding", "length_grouping", "packing"])
def test_documents_with_nothing_to_predict_are_a_data_error(name: str) -> None:
    with pytest.raises(recipe.DataError, match=r"some\.txt holds no document of two tokens"):
        module_of(name).batches(arguments(), iter(documents(1, 0, 1)), **ROWS[name])


@pytest.mark.parametrize("name", ROWS)
def test_the_order_is_the_seeds(name: str) -> None:
    rng = random.Random(3)
    lengths = [rng.randint(2, 64) for _ in range(40)]

    def drawn(seed: int) -> list[list[list[int]]]:
        args = arguments(seed=seed, steps=20)
        stream = module_of(name).batches(args, iter(documents(*lengths)), **ROWS[name])
        return [batch["input_ids"].tolist() for batch in islice(stream, 20)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_width_that_never_changes(capsys: pytest.CaptureFixture[str]) -> None:
    stream = padding.batches(arguments(), iter(documents(5, 6, 7, 8)), to="sequence_length")
    for batch in islice(stream, 4):
        assert batch["input_ids"].shape == (2, 64)
        assert torch.equal(batch["labels"] != -100, batch["attention_mask"] == 1)
    said = "4 documents in 4 rows of at most 64 tokens, 89.8 % padding\n"
    assert capsys.readouterr().out == said


def test_grouping_keeps_like_lengths_together() -> None:
    rng = random.Random(4)
    lengths = [rng.randint(2, 64) for _ in range(64)]
    args = arguments(batch_size=4)
    grouped = length_grouping.grouped(args, lengths, window=50)
    passes = [list(islice(grouped, 16)) for _ in range(2)]
    for rows in passes:
        assert sorted(row for batch in rows for row in batch) == list(range(64))
    # The longest first: a burst's first steps meet the peak.
    assert max(lengths[row] for row in passes[0][0]) == max(lengths)
    assert passes[0] != passes[1]

    def waste(batches: list[list[int]]) -> int:
        return sum(max(lengths[r] for r in batch) - lengths[r] for batch in batches for r in batch)

    plain = list(islice(recipe.shuffled(args, 64), 16))
    # Sorted as a whole, neighbours differ by all 62 lengths together, 3 times in each batch.
    assert waste(passes[0]) <= 3 * 62 < waste(plain)


def test_fewer_rows_than_a_batch_are_repeated() -> None:
    args = arguments(batch_size=5)
    for order in (recipe.shuffled(args, 2), length_grouping.grouped(args, [3, 4], 50)):
        for batch in islice(order, 3):
            assert len(batch) == 5 and set(batch) == {0, 1}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mamba2"}, "carry a state"),
        ({"model_type": "qwen3_next", "linear_conv_kernel_dim": 4}, "carry a state"),
        ({"model_type": "lfm2"}, "carry a state"),
        ({"model_type": "bloom"}, "takes no position ids"),
        ({"model_type": "falcon", "alibi": True}, "takes no position ids"),
    ],
)
def test_where_documents_could_not_be_kept_apart_packing_is_refused(
    config: dict[str, Any], reason: str
) -> None:
    plan = plan_from(
        {"model": "x", "workload": {"sequence_length": 64}, "techniques": {"packing": {}}}
    )
    (problem,) = problems(plan, config)
    assert reason in problem.reason and problem.override == "padding=on"


def test_flash_attention_packs_one_row_at_a_time() -> None:
    """transformers looks for packed documents in a batch of one row only."""

    def refusal(batch_size: int, kind: str, **chosen: str) -> tuple[str, str] | None:
        plan = Plan("x", "auto", Workload(batch_size=batch_size))
        plan.techniques["attention"] = Namespace(**{"backend": "auto", **chosen})
        return packing.refuse(packing.Params(), plan, {"model_type": kind})

    flash = {"implementation": "flash_attention_2"}
    assert refusal(1, "llama", **flash) is None
    assert refusal(2, "llama", implementation="sdpa") is None
    assert refusal(2, "llama", **flash) == (
        "flash_attention_2 keeps documents apart only in a batch of one row",
        "workload.batch_size=1",
    )
    assert "cannot keep documents apart" in str(refusal(1, "gpt_bigcode", **flash))
    assert "takes no mask" in str(refusal(1, "llama", implementation="sdpa", backend="flash"))


def test_packing_fits_the_families(families: dict[str, Any]) -> None:
    plan = plan_from(
        {"model": "x", "workload": {"sequence_length": 64}, "techniques": {"packing": {}}}
    )
    assert not [problem for config in families.values() for problem in problems(plan, config)]


def burst(data: Path, model: str, *names: str) -> Ended:
    work = {
        "steps": 3, "batch_size": 2, "sequence_length": 64, "gradient_accumulation": 2,
        "data": str(data),
    }  # fmt: skip
    events: list[Event] = []
    plan = {"model": model, "workload": work, "techniques": {name: {} for name in names}}
    run_plan(Start(plan, device="cpu"), events.append)
    ended = events[-1]
    assert isinstance(ended, Ended) and ended.outcome == "done", ended
    return ended


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A text file of short documents."""
    rng = random.Random(6)
    file = tmp_path / "short.TXT"
    file.write_text("\n\n".join("a word " * rng.randint(1, 6) for _ in range(99)))
    return file


def test_a_burst_says_how_much_was_padding(short: Path, checkpoint: Path) -> None:
    padded, grouped = (
        burst(short, str(checkpoint), name).padding for name in ("padding", "length_grouping")
    )
    assert padded is not None and grouped is not None
    assert 0 < grouped < padded < 1


def test_packing_goes_with_what_saves_memory(short: Path, checkpoint: Path) -> None:
    model = str(checkpoint)
    plain = burst(short, model, "packing")
    kept = burst(short, model, "packing", "activation_checkpointing")
    assert kept.losses == plain.losses
    both = burst(short, model, "packing", "chunked_cross_entropy", "activation_checkpointing")
    assert both.losses == pytest.approx(plain.losses, rel=BACKWARD)
    adapted = burst(short, model, "packing", "amp_bf16", "lora", "chunked_cross_entropy")
    # bf16 rounds what a layer hands on by 2^-9; adapters begin as nothing.
    assert adapted.losses[0] == pytest.approx(plain.losses[0], rel=2**-7)
