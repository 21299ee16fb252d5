"""Activations computed again, on the host, or left to a compiler: the same gradients, fewer bytes.

What a GPU does in streams is done here without any: the bookkeeping is the same, and the host
stands for both sides.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from memwb.engine.plan import override, plan_from, problems
from memwb.engine.protocol import Device
from memwb.engine.recipe import decoder_layers, loss
from memwb.engine.techniques import (
    activation_checkpointing,
    activation_offload,
    amp_bf16,
    checkpoint_offload,
    chunked_cross_entropy,
    lora,
    quantize_4bit,
    torch_compile,
)
from memwb.engine.techniques.checkpoint_offload import HostKeeper
from memwb.engine.trainer.cpu import CpuMeter
from memwb.engine.trainer.trace import WEIGHTS

pytestmark = pytest.mark.long

NINE = (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_bigcode",
)  # fmt: skip
MODES = ("layer", "submodule", "selective")
TOKENS = 2 * 24
HIDDEN = 64

Patch = Callable[[Any], Any]
Loss = Callable[[Any, dict[str, torch.Tensor], int], torch.Tensor]


def small(config: dict[str, Any], layers: int = 2) -> Any:
    """A model of the family with random weights, in training mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    depth = "n_layer" if "n_layer" in config else "num_hidden_layers"
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config, depth: layers}))
    made.config.use_cache = False
    return made.train()


def batch() -> dict[str, torch.Tensor]:
    rows = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(1))
    return {"input_ids": rows, "labels": rows}


def learned(model: Any, function: Loss = loss, passes: int = 1) -> tuple[float, list[torch.Tensor]]:
    """The loss, and the gradients of whatever is trained."""
    torch.manual_seed(2)
    value = torch.zeros(())
    for _ in range(passes):
        value = function(model, batch(), 2 * 23)
        value.backward()
    return value.item(), [p.grad for p in model.parameters() if p.grad is not None]


def assert_learned(
    model: Any, expected: tuple[float, list[torch.Tensor]], function: Loss = loss, passes: int = 1
) -> None:
    """Loss and gradients are equal to the last bit, and none is missing."""
    found, gradients = learned(model, function, passes)
    assert found == expected[0]
    assert len(gradients) == len(expected[1]) > 0
    for one, other in zip(gradients, expected[1], strict=True):
        assert torch.equal(one, other)


def checkpointing(mode: str, every: int = 1) -> Patch:
    return lambda model: activation_checkpointing.patch_model(
        model, mode=mode, every=every, budget=0.5
    )


def offloading_checkpoints(keeper: HostKeeper | None) -> Patch:
    def patch(model: Any) -> Any:
        for layer in decoder_layers(model):
            layer.forward = checkpoint_offload.checkpointed(layer.forward, keeper)
        return model

    return patch


def offloading_saved(keeper: HostKeeper, least: int = 1) -> Patch:
    def patch(model: Any) -> Any:
        activation_offload.offload_saved(model, keeper, least)
        return model

    return patch


def kept(model: Any) -> int:
    """Bytes that forward and loss leave behind for backward, as the CPU's meter counts them."""
    inputs = batch()
    meter = CpuMeter(lambda: 0.0, lambda samples: None)
    meter.start()
    meter.sight(WEIGHTS, [*model.parameters(), *model.buffers(), *inputs.values()])
    meter.settle()
    before = sum(meter.trace.live)
    meter.mark(1, "forward")
    value = loss(model, inputs, 2 * 23)
    left = sum(meter.trace.live) - before
    meter.stop()
    del value
    return left


@pytest.mark.parametrize("family", NINE)
def test_checkpointing_changes_no_gradient(
    families: dict[str, dict[str, Any]], family: str
) -> None:
    plain = small(families[family])
    plain.set_attn_implementation("eager" if family == "gemma2" else "sdpa")
    for layer in decoder_layers(plain):
        parts = activation_checkpointing.large_parts(layer)
        names = {name for name, part in layer.named_children() if part in parts}
        assert names in ({"self_attn", "mlp"}, {"attn", "mlp"})
    expected = learned(plain)
    for mode in MODES:
        patched = checkpointing(mode)(copy.deepcopy(plain))
        assert_learned(patched, expected)
        assert kept(patched) < kept(plain)


def quantized(model: Any) -> Any:
    """The layers' linear modules in 4 bits, frozen, with adapters."""
    for layer in decoder_layers(model):
        for name, module in list(layer.named_modules()):
            if name and not any(True for _ in module.children()):
                made = quantize_4bit.quantize_linear(module, "nf4", True, torch.float32)
                parent, _, child = name.rpartition(".")
                setattr(layer.get_submodule(parent), child, made)
    return quantize_4bit.adapt_model(model, upcast=True)


def adapted(model: Any) -> Any:
    torch.manual_seed(3)
    settings = msgspec.to_builtins(lora.Params(rank=4, alpha=8, dropout=0.1))
    return lora.adapt_model(model, **settings)


BASES: dict[str, Patch] = {
    "lora": adapted,
    "qlora": lambda model: adapted(quantized(model)),
    "autocast": amp_bf16.patch_model,
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_adapters_a_4bit_base_autocast_and_the_chunked_loss(
    families: dict[str, dict[str, Any]], base: str, family: str
) -> None:
    def chunked(model: Any, inputs: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
        return chunked_cross_entropy.loss(model, inputs, tokens, chunk_size=20)

    expected = learned(BASES[base](small(families[family])), chunked)
    patches = [checkpointing(mode) for mode in MODES]
    patches.append(offloading_checkpoints(HostKeeper(None, 1)))
    patches.append(offloading_saved(HostKeeper(None, 4)))
    for patch in patches:
        assert_learned(patch(BASES[base](small(families[family]))), expected, chunked)


def test_what_each_checkpoint_keeps_is_its_input(families: dict[str, dict[str, Any]]) -> None:
    """Two layers more keep two hidden states more."""
    config = families["llama"]
    layer = TOKENS * HIDDEN * 4
    four, two = (kept(checkpointing("layer")(small(config, layers))) for layers in (4, 2))
    assert four - two == 2 * layer
    assert kept(offloading_checkpoints(None)(small(config, 4))) == four
    # A layer that is not checkpointed keeps what it keeps in the plain run.
    plain4, plain2 = (kept(small(config, layers)) for layers in (4, 2))
    half = kept(checkpointing("layer", every=2)(small(config, 4)))
    assert half == two + (plain4 - plain2)


def test_submodules_keep_what_stands_between_them(families: dict[str, dict[str, Any]]) -> None:
    """Attention's and MLP's inputs, and what the two norms and residual sums keep.

    A norm keeps its input, the normalised values before the weight, and a factor a token.
    """
    config = families["llama"]
    hidden = TOKENS * HIDDEN * 4
    four, two = (kept(checkpointing("submodule")(small(config, layers))) for layers in (4, 2))
    each = 2 * (3 * hidden + TOKENS * 4)
    assert four - two == 2 * each


def test_selective_keeps_products_and_attention(families: dict[str, dict[str, Any]]) -> None:
    """Seven products' results, attention's with a log-sum a head, and the layer's input."""
    config = families["llama"]
    four, two = (kept(checkpointing("selective")(small(config, layers))) for layers in (4, 2))
    q, k, v, o, gate, up, down = 64, 32, 32, 64, 96, 96, 64
    results = q + k + v + o + gate + up + down
    attention = HIDDEN + config["num_attention_heads"]
    assert four - two == 2 * (TOKENS * 4 * (results + attention + HIDDEN))


def test_checkpoints_wait_on_the_host_and_come_back_one_ahead(
    families: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    out, back = checkpoint_offload.copy_out, checkpoint_offload.copy_back
    monkeypatch.setattr(checkpoint_offload, "copy_out", lambda *a: log.append("out") or out(*a))
    monkeypatch.setattr(checkpoint_offload, "copy_back", lambda *a: log.append("back") or back(*a))
    keeper = HostKeeper(None, in_flight=1)
    plain = small(families["llama"], layers=4)
    patched = copy.deepcopy(plain)
    for layer in decoder_layers(patched):
        inner = layer.forward

        def forward(*args: Any, inner: Any = inner, **kwargs: Any) -> Any:
            log.append("run")
            return inner(*args, **kwargs)

        layer.forward = forward
    patched = offloading_checkpoints(keeper)(patched)
    assert_learned(patched, learned(plain, passes=2), passes=2)
    # The last input is still there when backward begins; each layer that is computed again
    # has the copy of the one below on its way.
    forward_pass = ["out", "run"] * 4
    backward_pass = ["back", "run"] * 3 + ["run"]
    assert log == 2 * (forward_pass + backward_pass)
    # The second pass used the buffers of the first, and all have come back.
    gc.collect()
    (buffers,) = keeper.buffers.values()
    assert len(buffers) == 4
    assert sum(host.nbytes for host in buffers) == 4 * TOKENS * HIDDEN * 4


def test_at_most_one_input_is_still_on_its_way_out() -> None:
    keeper = HostKeeper(None, in_flight=1)
    held = [keeper.pack(torch.full((8,), float(number))) for number in range(5)]
    assert [away.tensor is not None for away in held] == [False] * 4 + [True]
    values = [keeper.unpack(away)[0].item() for away in reversed(held)]
    assert values == [4, 3, 2, 1, 0]
    # Asked a second time, it is the same copy.
    assert keeper.unpack(held[2]) is keeper.unpack(held[2])


def test_a_buffer_comes_back_without_a_backward_pass() -> None:
    keeper = HostKeeper(None, in_flight=1)
    away = keeper.pack(torch.ones(4))
    host = away.host
    keeper.pack(torch.ones(4))
    del away
    assert keeper.pack(torch.zeros(4)).host is host


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_offloaded_activations_change_no_gradient(
    families: dict[str, dict[str, Any]], family: str
) -> None:
    plain = small(families[family])
    for below in (None, *MODES):
        patched = copy.deepcopy(plain)
        patched = checkpointing(below)(patched) if below else patched
        assert_learned(offloading_saved(HostKeeper(None, 4))(patched), learned(plain))
        plain.zero_grad()


def test_each_storage_leaves_once_and_weights_stay(families: dict[str, dict[str, Any]]) -> None:
    model = small(families["llama"])
    keeper = HostKeeper(None, in_flight=2)
    sources: list[int] = []
    alive: list[torch.Tensor] = []
    pack = keeper.pack

    def counted(tensor: torch.Tensor) -> Any:
        # Held, so that an address names one storage only.
        alive.append(tensor)
        sources.append(tensor.untyped_storage().data_ptr())
        return pack(tensor)

    keeper.pack = counted  # type: ignore[method-assign]
    least = TOKENS * HIDDEN * 4
    offloading_saved(keeper, least)(model)
    learned(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(sources) == len(set(sources)) > 10
    assert not set(sources) & weights
    assert min(tensor.nbytes for tensor in alive) >= least


def test_a_cpu_keeps_its_activations(families: dict[str, dict[str, Any]]) -> None:
    plain = small(families["gpt2"])
    patched = activation_offload.patch_model(copy.deepcopy(plain), min_size=0.0)
    assert kept(patched) == kept(plain)
    checkpointed = checkpoint_offload.patch_model(copy.deepcopy(plain))
    assert kept(checkpointed) == kept(checkpointing("layer")(copy.deepcopy(plain)))
    assert_learned(checkpointed, learned(plain))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["activation_checkpointing.mode=budget"], "needs torch.compile"),
        (
            [
                "activation_checkpointing.mode=budget",
                "activation_checkpointing.every=2",
                "torch_compile=on",
            ],
            "every has no meaning",
        ),
        (["activation_checkpointing.budget=0.2"], "budget has no meaning for mode layer"),
        (["activation_checkpointing=on", "checkpoint_offload=on"], "checkpoints every layer"),
        (["activation_offload=on", "checkpoint_offload=on"], "offloads the little"),
        (["torch_compile=on", "checkpoint_offload=on"], "graphs would break"),
        (["torch_compile=on", "activation_offload=on"], "graphs would break"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], reason: str) -> None:
    plan = plan_from({"model": "tiny"})
    for text in overrides:
        plan = override(plan, text)
    (problem,) = problems(plan)
    assert reason in problem.reason
    assert not problems(override(plan, problem.override))


def test_a_budget_is_refused_where_dropout_is_drawn(families: dict[str, dict[str, Any]]) -> None:
    """torch's partitioner recomputes dropout with other random numbers."""
    plan = plan_from({"model": "tiny", "workload": {"sequence_length": 64}})
    for text in ("torch_compile=on", "activation_checkpointing.mode=budget"):
        plan = override(plan, text)
    assert not problems(plan, families["llama"])
    (problem,) = problems(plan, families["gpt2"])
    assert "dropout" in problem.reason
    without = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    assert not problems(plan, {**families["gpt2"], **without})
    adapted_too = override(override(plan, "lora=on"), "lora.dropout=0.1")
    assert "dropout" in problems(adapted_too, families["llama"])[0].reason


def test_inductor_says_what_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Device("cpu", "test", 1)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "needs a C++ compiler" in torch_compile.unavailable(torch_compile.Params(), cpu)
    eager = torch_compile.Params(backend="aot_eager")
    assert torch_compile.unavailable(eager, cpu) == ""


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler that has compiled nothing yet, and forgets what it was told."""
    from torch._dynamo import config as dynamo_config
    from torch._functorch import config as functorch_config

    torch._dynamo.reset()
    with (
        dynamo_config.patch(recompile_limit=dynamo_config.recompile_limit),
        functorch_config.patch(activation_memory_budget=1.0),
    ):
        yield
    torch._dynamo.reset()


def compiled(model: Any, scope: str = "layers") -> Any:
    return torch_compile.patch_model(model, scope=scope, backend="aot_eager", dynamic="auto")


def assert_rounded_alike(model: Any, plain: Any) -> None:
    """A compiler may take derivatives in another order of operations: fp32's last bits differ."""
    torch.testing.assert_close(learned(model), learned(plain))


@pytest.mark.usefixtures("compiler")
def test_layers_run_compiled_under_the_meter_and_after_it(
    families: dict[str, dict[str, Any]],
) -> None:
    """Twelve layers are one graph; what is measured is what runs when nobody measures."""
    from torch._dynamo.utils import counters

    plain = small(families["llama"], layers=12)
    model = compiled(copy.deepcopy(plain))
    names = set(plain.state_dict())
    assert set(model.state_dict()) == names
    counters.clear()
    traced = kept(model)
    assert counters["stats"]["unique_graphs"] == 1
    assert traced < kept(plain)
    assert_rounded_alike(model, plain)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.usefixtures("compiler")
def test_a_budget_bounds_what_the_compiler_keeps(families: dict[str, dict[str, Any]]) -> None:
    plain = small(families["llama"])
    sizes = []
    for budget in (1.0, 0.3):
        torch._dynamo.reset()
        model = activation_checkpointing.patch_model(
            copy.deepcopy(plain), mode="budget", every=1, budget=budget
        )
        sizes.append(kept(compiled(model)))
    assert_rounded_alike(model, plain)
    assert kept(plain) > sizes[0] > sizes[1]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("mode", ["layer", "selective"])
def test_checkpointing_holds_under_compile(families: dict[str, dict[str, Any]], mode: str) -> None:
    plain = small(families["llama"])
    model = compiled(checkpointing(mode)(copy.deepcopy(plain)))
    assert kept(model) < kept(plain)
    assert_rounded_alike(model, plain)


@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(
    bool(torch_compile.unavailable(torch_compile.Params(), None)), reason="there is no compiler"
)
def test_the_meter_sees_what_inductors_code_allocates() -> None:
    """Byte for byte what torch's own allocator reports to its profiler."""
    layers = torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.LayerNorm(128)
    model = torch.nn.Sequential(*layers, torch.nn.Linear(128, 32))
    model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    inputs = torch.randn(50, 64)
    meter = CpuMeter(lambda: 0.0, lambda samples: None)
    meter.start()
    meter.sight(WEIGHTS, [*model.parameters(), inputs])
    model(inputs).pow(2).sum().backward()
    model.zero_grad()
    meter.settle()
    before = sum(meter.trace.live)
    meter.mark(1, "forward")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(inputs).pow(2).sum().backward()
    rows = meter.trace.settle()
    meter.stop()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    changes = [
        event.nbytes()
        for event in sorted(
            profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()
        )
        if event.name() == "[memory]"
    ]
    assert max(row.total for row in rows) - before == highest_sum(changes) > 0
    assert rows[-1].total - before == sum(changes)


def highest_sum(changes: list[int]) -> int:
    total = most = 0
    for change in changes:
        total += change
        most = max(most, total)
    return most
