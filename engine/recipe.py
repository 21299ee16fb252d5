"""The stage functions that every script starts from. Their text lands in train.py as it stands.

Each function is self-contained: it imports what it needs first thing inside itself (the script
lifts these imports to its top), and may call other functions of this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array
    from pathlib import Path

    import torch


def parse_arguments(defaults: dict[str, Any], argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; every default is the value of the plan."""
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default=defaults["model"], help="hub id or folder [%(default)s]")
    add("--weights", default=defaults["weights"], choices=["pretrained", "random"])
    add("--tokenizer", default=defaults["tokenizer"], help="hub id or folder; empty means bytes")
    kinds = ".txt (a blank line ends a document), .jsonl, .parquet or builtin"
    add("--data", default=defaults["data"], help=f"{kinds} [%(default)s]")
    add("--text-field", default=defaults["text_field"], help="of jsonl and parquet [%(default)s]")
    add("--steps", type=int, default=defaults["steps"], help="optimizer steps [%(default)s]")
    add("--batch-size", type=int, default=defaults["batch_size"], help="[%(default)s]")
    add("--sequence-length", type=int, default=defaults["sequence_length"], help="[%(default)s]")
    add(
        "--gradient-accumulation",
        type=int,
        default=defaults["gradient_accumulation"],
        help="micro-batches before one optimizer step [%(default)s]",
    )
    add("--learning-rate", type=float, default=defaults["learning_rate"], help="[%(default)s]")
    add(
        "--schedule",
        default=defaults["schedule"],
        choices=["constant", "cosine", "linear"],
        help="[%(default)s]",
    )
    add(
        "--warmup-steps",
        type=int,
        default=defaults["warmup_steps"],
        help="of linear warm-up [%(default)s]",
    )
    add(
        "--seed", type=int, default=defaults["seed"], help="of weights, data, dropout [%(default)s]"
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    add("--output", default="", help="folder for the trained model; nothing is saved without")
    add(
        "--merge",
        action=argparse.BooleanOptionalAction,
        default=defaults["merge"],
        help="save one model with the adapters added into its weights, in the precision it "
        "computed in: a quantized base is expanded, since quantizing again would lose updates",
    )
    add("--allow-pickle", action="store_true", help="load pickled weights: they can run code")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    args = parser.parse_args(argv)
    least = {"steps": 1, "batch_size": 1, "sequence_length": 2, "gradient_accumulation": 1}
    for name, value in (least | {"warmup_steps": 0, "seed": 0}).items():
        if getattr(args, name) < value:
            parser.error(f"--{name.replace('_', '-')} is too small: {getattr(args, name)}")
    if not 0 < args.learning_rate < 10:
        parser.error(f"--learning-rate must be between 0 and 10, not {args.learning_rate}")
    if args.model != defaults["model"] and args.weights == "random":
        parser.error("--model goes with --weights pretrained: random weights are of this model")
    if args.weights == "pretrained" and not args.model:
        parser.error("--weights pretrained needs --model: this one has no weights to download")
    if args.merge and not defaults["adapters"]:
        parser.error("--merge goes with adapters: this plan trains the model's own weights")
    if args.output:
        # Now, not after a night's training.
        try:
            Path(args.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output {args.output} cannot be written: {error.strerror}")
    return args


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the GPU if there is one, else the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise SystemExit(f"--device {name}: it is auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {name}: torch finds no CUDA device here")
    if number:
        count = torch.cuda.device_count()
        if int(number) >= count:
            raise SystemExit(f"--device {name}: torch finds {count} here, and counts from 0")
        # Triton and other libraries launch on the current device, wherever their tensors are.
        torch.cuda.set_device(int(number))
    return torch.device(name)


def load_tokenizer(args: argparse.Namespace) -> Any:
    """The model's tokenizer; None when there is none, and bytes are used."""
    from transformers import AutoTokenizer

    if not args.tokenizer:
        return None
    return AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=args.trust_remote_code)


class DataError(ValueError):
    """The data cannot be trained on; the message says what was wrong and where."""


def read_documents(data: str, text_field: str) -> Iterator[str]:
    """The documents of a file one after another; ``builtin`` is Python's own documentation.

    Raises DataError if there is no such file, or no text where it should be.
    """
    from os.path import expanduser
    from pathlib import Path
    from pydoc_data.topics import topics

    path = Path(expanduser(data))
    kind = path.suffix.lower()
    readers = {".txt": read_text, ".jsonl": read_jsonl, ".parquet": read_parquet}
    if data == "builtin":
        yield from (topics[name] for name in sorted(topics))
    elif kind not in readers:
        raise DataError(f"{data}: expected builtin, or a .txt, .jsonl or .parquet file")
    else:
        try:
            # Where a folder may not be entered, already the question is an error.
            if not path.is_file():
                raise DataError(f"there is no data file {data}")
            yield from readers[kind](path, text_field)
        except DataError:
            raise
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{data} cannot be read: {reason}") from error


def read_text(path: Path, text_field: str) -> Iterator[str]:
    """The documents of a text file: blank lines stand between them.

    A document ends after a million characters at the latest, so that a file without blank
    lines, or without lines, is never read as a whole.
    """
    longest = 1 << 20
    with path.open(encoding="utf-8-sig") as stream:
        document, size = [], 0
        while line := stream.readline(longest):
            if line.strip():
                document.append(line)
                size += len(line)
            if document and (size >= longest or not line.strip()):
                yield "".join(document)
                document, size = [], 0
        if document:
            yield "".join(document)


def read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    """The text of each line's record."""
    import json

    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
                raise ValueError(f"line {number} has no text in field {text_field!r}")
            yield record[text_field]


def read_parquet(path: Path, text_field: str) -> Iterator[str]:
    """The texts of one column."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("parquet files need pyarrow (pip install pyarrow)") from None
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    if text_field not in names:
        raise ValueError(f"no column {text_field!r}, only {', '.join(names)}")
    for rows in file.iter_batches(batch_size=256, columns=[text_field]):
        yield from (text for text in rows.column(0).to_pylist() if isinstance(text, str))


def read_tokens(args: argparse.Namespace, tokenizer: Any, vocabulary: int) -> Iterator[array[int]]:
    """The documents as token ids, in their order; no more is read than is asked for.

    Each is ended by the end-of-sequence token where the tokenizer has one. Without a tokenizer
    a token is one byte of UTF-8. Raises DataError when tokenizer and model do not go together.
    """
    from array import array

    for text in read_documents(args.data, args.text_field):
        if tokenizer is None:
            tokens = array("i", (byte % vocabulary for byte in text.encode(errors="replace")))
        else:
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            tokens = array("i", [*ids, *end])
        if tokens and max(tokens) >= vocabulary:
            raise DataError(
                f"the tokenizer makes token {max(tokens)}, and the model knows only "
                f"{vocabulary}: they do not belong together"
            )
        yield tokens


def load_config(args: argparse.Namespace, config: dict[str, Any]) -> Any:
    """The architecture: of the pretrained model, or from the content of a config.json."""
    from transformers import AutoConfig

    if args.weights == "pretrained" or not config:
        made = AutoConfig.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    else:
        made = AutoConfig.for_model(**config)
    # Other models compute their positions: they have no such limit.
    learned = made.to_dict().get("n_positions")
    if learned is not None and args.sequence_length > learned:
        raise SystemExit(
            f"train.py: --sequence-length {args.sequence_length} is too long: "
            f"this model has learned {learned} positions"
        )
    return made


def load_model(args: argparse.Namespace, config: Any, options: dict[str, Any]) -> Any:
    """The model in training mode on its device: pretrained, or with random weights.

    ``options`` is what the configure functions made: ``dtype``, perhaps
    ``attn_implementation`` and ``quantization_config``, and ``convert``, which is applied to
    each module as soon as it has its random weights (pretrained ones are converted by
    transformers, from ``quantization_config``).
    """
    import torch
    from transformers import AutoModelForCausalLM

    convert = options.pop("convert", None)
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    if args.weights == "pretrained":
        if "quantization_config" in options:
            options["device_map"] = {"": device}
        model = AutoModelForCausalLM.from_pretrained(
            args.model,
            config=config,
            use_safetensors=None if args.allow_pickle else True,
            trust_remote_code=args.trust_remote_code,
            **options,
        )
        # Quantized weights are where they belong; transformers does not let them be moved.
        model = model if "quantization_config" in options else model.to(device)
    else:
        settings = options.pop("quantization_config", None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=args.trust_remote_code, **options
            )
        fill_at_random(model, device, convert)
        if settings is not None:
            # So that what is saved can be told from full precision when it is loaded.
            model.config.quantization_config = settings
    model.config.use_cache = False
    return model.train()


def fill_at_random(model: Any, device: torch.device, convert: Any) -> None:
    """Give a model on the meta device random weights, one module at a time.

    So that at no time more than one module stands beside what ``convert`` makes of it.
    Tied weights stay tied.
    """
    from weakref import WeakValueDictionary

    import torch

    # Held weakly, and modules by name: or each would outlive what it was converted to.
    made: WeakValueDictionary[int, Any] = WeakValueDictionary()
    head = model.get_output_embeddings()
    for name in [name for name, _ in model.named_modules()]:
        module = model.get_submodule(name)
        for key, old in list(module._parameters.items()):
            new = made.get(id(old)) if old is not None else None
            if old is not None and new is None:
                empty = torch.empty_like(old, device=device)
                new = torch.nn.Parameter(empty, requires_grad=old.requires_grad)
                made[id(old)] = new
            module._parameters[key] = new
        for key, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[key] = torch.empty_like(old, device=device)
        model._init_weights(module)
        if convert is not None and name and module is not head:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, convert(module))


def decoder_layers(model: Any) -> Any:
    """The decoder layers of a model, adapters or not: its longest list of equal modules."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def loss(model: Any, batch: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
    """The model's own next-token cross-entropy, summed over the batch, divided by ``tokens``.

    ``tokens`` counts the labels of the whole optimizer step, so that the micro-batches of
    gradient accumulation add up to the loss of one big batch.
    """
    return model(**batch, num_items_in_batch=tokens).loss


def build_schedule(args: argparse.Namespace, optimizer: Any) -> Any:
    """The learning rate's course: linear warm-up, then constant, cosine or linear decay."""
    from transformers import get_scheduler

    name = "constant_with_warmup" if args.schedule == "constant" else args.schedule
    return get_scheduler(
        name, optimizer, num_warmup_steps=args.warmup_steps, num_training_steps=args.steps
    )


def shuffled(args: argparse.Namespace, count: int) -> Iterator[list[int]]:
    """The rows of each batch, without end: all ``count`` shuffled anew for each pass over them."""
    import torch

    generator = torch.Generator().manual_seed(args.seed)
    order: list[int] = []
    while True:
        while len(order) < args.batch_size:
            order += torch.randperm(count, generator=generator).tolist()
        whole = len(order) // args.batch_size * args.batch_size
        for first in range(0, whole, args.batch_size):
            yield order[first : first + args.batch_size]
        order = order[whole:]


def collated(
    args: argparse.Namespace,
    order: Iterator[list[int]],
    collate: Callable[[list[int]], dict[str, torch.Tensor]],
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches that ``collate`` makes of the rows in ``order``, on the device."""
    device = choose_device(args.device)
    for rows in order:
        yield {name: value.to(device) for name, value in collate(rows).items()}


def next_step(
    args: argparse.Namespace, stream: Iterator[dict[str, torch.Tensor]]
) -> tuple[list[dict[str, torch.Tensor]], int]:
    """The micro-batches of one optimizer step, and how many labels they have together."""
    micro_batches = [next(stream) for _ in range(args.gradient_accumulation)]
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
    return micro_batches, tokens


def train(
    args: argparse.Namespace,
    model: Any,
    optimizer: Any,
    schedule: Any,
    stream: Iterator[dict[str, torch.Tensor]],
    loss_function: Callable[[Any, dict[str, torch.Tensor], int], torch.Tensor],
) -> Iterator[tuple[int, float]]:
    """Train; yields the number of each step, from 1, and its loss.

    Dropout starts from the seed, whatever was drawn before: so that plans can be compared.
    """
    import torch

    torch.manual_seed(args.seed)
    for step in range(1, args.steps + 1):
        micro_batches, tokens = next_step(args, stream)
        total = 0.0
        for batch in micro_batches:
            value = loss_function(model, batch, tokens)
            value.backward()
            total += value.item()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step, total


def save(args: argparse.Namespace, model: Any, tokenizer: Any) -> str:
    """Write the trained model so that ``from_pretrained`` loads it; say how to load it."""
    if tokenizer is not None:
        tokenizer.save_pretrained(args.output)
    model.config.use_cache = True
    model.save_pretrained(args.output)
    return f"saved the model to {args.output}: AutoModelForCausalLM.from_pretrained loads it"
