"""Runs a plan's script on the meta device, with few layers or all, and gives its stream."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from memwb.engine import catalog, script
from memwb.engine.errors import CannotPredict
from memwb.engine.gpus import capability
from memwb.engine.plan import Plan, active
from memwb.engine.predict import documents
from memwb.engine.predict.documents import Rows, rows_of
from memwb.engine.predict.layers import depths, pattern, shorten
from memwb.engine.predict.libraries import kernels, own_kernel
from memwb.engine.predict.meter import MetaMeter
from memwb.engine.predict.places import MOST_VALUES, Place
from memwb.engine.predict.pretend import pretending
from memwb.engine.predict.reading import reading
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import Target
from memwb.engine.predict.words import MICRO_BATCHES
from memwb.engine.protocol import Device
from memwb.engine.technique import hooks_of, lacking, module_of, techniques
from memwb.engine.trainer import hub, inventory
from memwb.engine.trainer.burst import TRACED, About, Instead, Watched

ALL, SHORT, LONG, LONGER = -1, 0, 1, 2

MOST_STEP = 4 * MOST_VALUES
"""Tokens of one step, all of which are held while it runs."""
MOST_MICRO = 4096
"""Micro-batches of one step."""


class Traced(NamedTuple):
    """What a run on the meta device has shown."""

    stream: Stream
    layers: int
    """Decoder layers of the whole model, however many were traced."""
    depths: tuple[int, int] | None
    """The numbers of layers that tell the rest; None where all of them are traced."""
    vocabulary: int
    """How many logits a token has."""
    parameters: int
    """Of the traced model, as ``trainable``."""
    trainable: int
    missing: str = ""
    """The tokenizer that would say how long rows are, and is not on this machine."""
    in_place: bool = False
    """A burst reads a checkpoint, and here its weights were made in place."""


def traced(plan: Plan, target: Target, take: int = ALL, trust_remote_code: bool = False) -> Traced:
    """Run the plan's script on meta: loading and two steps.

    ``take`` says of how many layers: ALL, or, if few layers tell the rest, the SHORT or the LONG of
    the two depths that do, or LONGER by a period. Of weights the headers are read. Whatever the
    script raises is raised.
    """
    _refuse_kernels(plan, target)
    _refuse_missing(plan)
    _refuse(plan)
    import_libraries()
    # No values are read, so it does not matter how they are stored.
    model = catalog.resolve(
        plan.model, plan.weights, allow_pickle=True, trust_remote_code=trust_remote_code
    )
    if model.config is None:
        hub.reach(plan.model)
    pretrained = model.weights == "pretrained"
    files = catalog.local_weights(model)
    if model.config is not None and catalog.to_be_fetched(model):
        # The catalogue's config tells as much: nothing is downloaded.
        model = msgspec.structs.replace(model, weights="random")
    text = script.script(plan, model)
    rows = rows_of(plan, model, target.kind, trust_remote_code)
    host = Place.TARGET if target.kind == "cpu" else Place.HOST
    meter = MetaMeter(target.scratch, host, target.results)
    meter.kernels = kernels(target.kind)
    meter.own_kernel = own_kernel(target.kind)
    meter.compiles = _compiles(plan)
    found = _Found()
    _forget()
    every = [_period(name, params) for name, params in active(plan).items()]
    device = Device(target.kind, target.name, target.capacity)
    argv = ["--device", target.kind, *(["--trust-remote-code"] if trust_remote_code else [])]
    with tempfile.TemporaryDirectory(prefix="memwb-") as folder:
        path = Path(folder) / "train.py"
        path.write_text(text, encoding="utf-8")
        watched = Watched(path, lambda event: None, About(device=device), lambda: meter)
        try:
            # The script's own words are for who trains.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                torch.random.fork_rng(devices=()),
                pretending(target, meter) as seen,
            ):
                read = _Read(files, meter, host)
                watched.run(argv, _instead(plan, seen, found, take, every, rows, read))
        finally:
            meter.close()
            watched.detach()
            gc.enable()
            sys.modules.pop("memwb_train", None)
    return Traced(
        meter.stream(),
        found.layers,
        found.depths,
        found.vocabulary,
        found.parameters,
        found.trainable,
        rows.missing,
        in_place=pretrained and not files,
    )


@functools.cache
def import_libraries() -> None:
    """Have the libraries imported that a script may use, before anything is pretended.

    Some look for CUDA when they are imported, and would take what is pretended for true.
    """
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # What watches operators is not what a plan compiles. (Importing the compiler makes a folder.)
    from torch._dynamo import trace_rules

    for name in ("meter", "operators", "shortcuts"):
        trace_rules.add(f"memwb.engine.predict.{name}")


LIBRARIES = (
    "triton.language",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_utils",
    "transformers.optimization",
    "transformers.quantizers.auto",
    "transformers.integrations.bitsandbytes",
    "transformers.utils.quantization_config",
    "accelerate",
    "bitsandbytes",
    "peft.tuners.lora",
    "peft.tuners.ia3",
    "torch._dynamo",
    "torch.optim",
)


def _refuse_kernels(plan: Plan, target: Target) -> None:
    """Kernels need their language, here and on the GPU."""
    names = [name for name in active(plan) if "triton" in techniques()[name].packages]
    if names and importlib.util.find_spec("triton") is None:
        raise CannotPredict(
            f"{names[0]} cannot be predicted",
            "its kernels are written for Triton, which is not on this machine (there are "
            "packages of it for Linux)",
            f"Predict on Linux, or without it: -o {names[0]}=off.",
            technique=names[0],
        )
    version = capability(target.arch) if target.kind == "cuda" else None
    if names and version is not None and version < (8, 0):
        raise CannotPredict(
            f"{names[0]} cannot be predicted for {target.name}",
            "its kernels are written for Triton, which supports GPUs of compute capability 8.0 "
            f"(Ampere) and later; this one has {'.'.join(map(str, version))}",
            f"Predict for a later GPU, or without it: -o {names[0]}=off.",
            technique=names[0],
        )


def _refuse_missing(plan: Plan) -> None:
    """The script runs here, and imports what its techniques need."""
    for name in active(plan):
        if lack := lacking(techniques()[name]):
            raise CannotPredict(
                f"{name} cannot be predicted here",
                f"the script that is run to predict it {lack}",
                f"Install that, or predict without it: -o {name}=off.",
                technique=name,
            )


def _refuse(plan: Plan) -> None:
    """Token ids have values also here: very many are not predicted."""
    work = plan.workload
    tokens = work.batch_size * work.sequence_length
    if tokens > MOST_VALUES:
        raise CannotPredict(
            "A batch of so many tokens cannot be predicted",
            f"$.workload: {tokens:,} tokens in one forward pass; at most {MOST_VALUES:,} can be",
            "Lower batch_size or sequence_length.",
        )
    if tokens * work.gradient_accumulation > MOST_STEP or work.gradient_accumulation > MOST_MICRO:
        raise CannotPredict(
            "A step of so many tokens cannot be predicted",
            f"$.workload: {work.gradient_accumulation:,} micro-batches, "
            f"{tokens * work.gradient_accumulation:,} tokens in one step; at most {MOST_MICRO:,} "
            f"and {MOST_STEP:,} can be",
            "Lower gradient_accumulation: from the second micro-batch on the peak is the same.",
        )


class _Found:
    """What is learned of the model while its script runs."""

    def __init__(self) -> None:
        self.layers = self.vocabulary = self.parameters = self.trainable = 0
        self.depths: tuple[int, int] | None = None

    def meet(self, model: torch.nn.Module) -> None:
        """The finished model, before its optimizer is built."""
        self.parameters = inventory.count(model.parameters())
        self.trainable = inventory.count(p for p in model.parameters() if p.requires_grad)


class _Read(NamedTuple):
    """A checkpoint to be read."""

    files: tuple[Path, ...]
    """Empty where weights are made in place."""
    meter: MetaMeter
    host: Place


def _instead(
    plan: Plan,
    device: torch.device,
    found: _Found,
    take: int,
    every: list[int],
    rows: Rows,
    read: _Read,
) -> Instead:
    """What is other in a prediction: of weights the headers are read, and two steps do."""

    def choose_device(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda name: device

    def load_config(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(*args: Any) -> Any:
            config = original(*args)
            text = config.get_text_config()
            found.layers, found.vocabulary = text.num_hidden_layers, text.vocab_size
            whole = pattern(config, every)
            found.depths = depths(found.layers, whole.period, whole.head, _wraps_layers(plan))
            if take != ALL and found.depths is not None:
                few, more = found.depths
                shorten(config, few + take * (more - few))
            return config

        return load

    def load_model(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(args: Any, config: Any, options: Any) -> Any:
            if not read.files:
                args.weights = "random"
                return original(args, config, options)
            # By its folder: the hub is not asked for what is here.
            args.model = str(read.files[0].parent)
            few = config.get_text_config().num_hidden_layers
            with reading(*read, found.layers, few):
                return original(args, config, options)

        return load

    def build_optimizer(original: Callable[..., Any]) -> Callable[..., Any]:
        def build(model: Any, *args: Any, **kwargs: Any) -> Any:
            found.meet(model)
            return original(model, *args, **kwargs)

        return build

    def next_step(original: Callable[..., Any]) -> Callable[..., Any]:
        def draw(*args: Any) -> Any:
            micro_batches, tokens = original(*args)
            return _Few(micro_batches), tokens

        return draw

    def train(original: Callable[..., Any]) -> Callable[..., Any]:
        def train(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for step, value in original(*args, **kwargs):
                yield step, value
                if step == TRACED:
                    return

        return train

    own: dict[str, Callable[..., Any]] = {
        "choose_device": choose_device,
        "load_config": load_config,
        "load_model": load_model,
        "build_optimizer": build_optimizer,
        "next_step": next_step,
        "train": train,
        **documents.instead(rows),
    }
    return {**_twins(plan, own), **own}


MOST_UNLIKE = 8
"""Up to so many micro-batches that are not alike are all run."""


class _Few:
    """The micro-batches of a step: all of them are held, and few of them are run.

    Where they differ, and are many, the widest are among those that run.
    """

    def __init__(self, micro_batches: list[dict[str, torch.Tensor]]) -> None:
        self._held = micro_batches
        run: Sequence[int] = range(len(micro_batches))
        if alike(micro_batches):
            run = range(min(MICRO_BATCHES, len(micro_batches)))
        elif len(micro_batches) > MOST_UNLIKE:
            widths = [sum(value.numel() for value in one.values()) for one in micro_batches]
            widest = sorted(run, key=lambda place: -widths[place])[:MICRO_BATCHES]
            run = sorted({*range(MICRO_BATCHES), *widest})
        self._run = run

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self._held[place] for place in self._run)

    def __len__(self) -> int:
        return len(self._held)


def alike(micro_batches: list[dict[str, torch.Tensor]]) -> bool:
    """Whether all micro-batches have the same tensors but for the values."""
    looks = [
        {name: (value.shape, value.dtype) for name, value in batch.items()}
        for batch in micro_batches
    ]
    return all(look == looks[0] for look in looks)


def _compiles(plan: Plan) -> bool:
    """Whether code is compiled, which then has no modules that could be told apart: a hook on each
    would be compiled with it, and break it up."""
    return any(techniques()[name].group == "compile" for name in active(plan))


def _wraps_layers(plan: Plan) -> bool:
    """Whether something is done around layers (they are computed again, or what they keep goes
    elsewhere), which at the last of them is another thing than at those before it."""
    return any(techniques()[name].group == "activations" for name in active(plan))


def _forget() -> None:
    """Have every run make what a library makes once a process.

    bitsandbytes keeps the map of its nested quantization (bitsandbytes/functional.py).
    """
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is not None:
        vars(functional).get("name2qmap", {}).clear()


def _period(technique: str, params: Any) -> int:
    """After how many layers a technique does the same again."""
    period = getattr(module_of(technique), "layer_period", None)
    return int(period(params)) if period is not None else 1


def _twins(plan: Plan, own: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The ``meta_`` twins that techniques have of hooks that do not run on meta."""
    found: dict[str, Callable[..., Any]] = {}
    for name in active(plan):
        module = module_of(name)
        for stage in hooks_of(name):
            twin = getattr(module, f"meta_{stage}", None)
            if twin is not None:
                title = script.title_of(stage, name)
                found[title] = _exchanged(twin, own.pop(title, None))
    return found


def _exchanged(
    twin: Callable[..., Any], change: Callable[..., Any] | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda original: change(twin) if change is not None else twin
