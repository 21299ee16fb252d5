"""Write a plan as a training script: the chosen functions as text, and a main that calls them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import platform
import re
import textwrap
from importlib import metadata
from typing import Any

import msgspec

from memwb.engine.catalog import Model
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, active, check, plan_toml
from memwb.engine.stitch import Piece, gather, import_block
from memwb.engine.technique import (
    OLDEST_TORCH,
    REPLACING,
    STAGES,
    hooks_of,
    module_of,
    release_of,
    techniques,
)
from memwb.engine.version import VERSION

RECIPE = "memwb.engine.recipe"
WIDTH = 100
START = """\
if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        raise SystemExit(f"train.py: {error}") from None"""


class Call(msgspec.Struct, frozen=True):
    """One hook as the script names it and calls it."""

    stage: str
    technique: str
    name: str
    arguments: dict[str, Any]


def script(plan: Plan, model: Model, evidence: str = "", merge: bool = False) -> str:
    """The text of train.py for a plan and the model it resolves to.

    ``evidence`` goes into the header as comment lines: what was measured or predicted; ``merge``
    is what --merge is by default. Raises MemwbError if the plan's techniques do not go together
    or do not fit the model, or if there is nothing to merge.
    """
    check(plan, model.config)
    if merge and not adapters_of(plan):
        raise MemwbError(
            "There is nothing to merge",
            "the plan trains the model's own weights, no adapters beside them",
            "Leave --merge out, or turn adapters on (-o lora=on).",
        )
    calls = _calls(plan)
    pieces = _pieces(calls)
    imports = [statement for piece in pieces for statement in piece.imports]
    main = _main(calls)
    imports += ["import torch", "from collections.abc import Sequence"]
    imports += ["from functools import partial"] if "partial(" in main else []
    parts = [
        f'#!/usr/bin/env python3\n"""{_title(plan, model)}\n"""',
        _header(plan, model, evidence),
        "from __future__ import annotations\n\n" + import_block(imports),
        f"DEFAULTS = {literal(_defaults(plan, model, merge))}",
    ]
    config = (model.config or {}) if model.weights == "random" else {}
    what = "The architecture: the content of a config.json." if config else "As pretrained."
    parts.append(f'CONFIG: dict[str, Any] = {literal(config)}\n"""{what}"""')
    definitions = [*(piece.text for piece in pieces), main, START]
    return "\n\n".join(parts) + "\n\n\n" + "\n\n\n".join(definitions) + "\n"


def literal(value: Any, indent: int = 0) -> str:
    """A Python expression that evaluates to the value, laid out over lines when it is long.

    For strings, numbers, booleans, None, and lists, tuples and dicts of these: whatever a
    string holds, it comes out as a string.
    """
    flat = _flat(value)
    if len(flat) + indent + 20 <= WIDTH and not (isinstance(value, dict) and indent == 0 and value):
        return flat
    pad = " " * (indent + 4)
    if isinstance(value, dict):
        rows = [f"{pad}{_flat(k)}: {literal(v, indent + 4)},\n" for k, v in value.items()]
        return "{\n" + "".join(rows) + " " * indent + "}"
    if isinstance(value, list | tuple):
        rows = [f"{pad}{literal(item, indent + 4)},\n" for item in value]
        return "[\n" + "".join(rows) + " " * indent + "]"
    return flat


def _flat(value: Any) -> str:
    if isinstance(value, str):
        plain = value.isascii() and value.isprintable() and not set(value) & {'"', "\\"}
        return f'"{value}"' if plain else ascii(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flat(k)}: {_flat(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flat(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise TypeError(f"{type(value).__name__} has no place in a plan")


def title_of(stage: str, technique: str) -> str:
    """What a technique's hook is called in the script."""
    return stage if stage in REPLACING else f"{stage}_{technique}"


def _calls(plan: Plan) -> list[Call]:
    calls = []
    for name, params in active(plan).items():
        for stage, hook in hooks_of(name).items():
            takes = inspect.signature(hook).parameters.values()
            given = {
                taken.name: getattr(params, taken.name)
                for taken in takes
                if taken.kind is inspect.Parameter.KEYWORD_ONLY
            }
            title = title_of(stage, name)
            calls.append(Call(stage, name, title, given))
    return sorted(calls, key=lambda call: STAGES.index(call.stage))


def _pieces(calls: list[Call]) -> list[Piece]:
    """Every function of the script in the order in which main calls them."""
    hooks = {
        stage: [(_module(call), stage) for call in calls if call.stage == stage] for stage in STAGES
    }
    wanted = [
        *_recipe("parse_arguments", "load_config", "load_tokenizer", "read_tokens"),
        *_recipe("choose_device"),
        *hooks["arguments"],
        *hooks["batches"],
        *hooks["configure"],
        *_recipe("load_model"),
        *hooks["adapt_model"],
        *hooks["patch_model"],
        *hooks["shard_model"],
        *hooks["build_optimizer"],
        *hooks["patch_optimizer"],
        *_recipe("build_schedule"),
        *(hooks["loss"] or _recipe("loss")),
        *(hooks["train"] or _recipe("train")),
        *(hooks["save"] or _recipe("save")),
    ]
    return gather(wanted, {(_module(call), call.stage): call.name for call in calls})


def _recipe(*names: str) -> list[tuple[str, str]]:
    return [(RECIPE, name) for name in names]


def _module(call: Call) -> str:
    return str(module_of(call.technique).__name__)


def _main(calls: list[Call]) -> str:
    lines = ["args = parse_arguments(DEFAULTS, argv)"]
    lines += [_call(call, "args", "") for call in calls if call.stage == "arguments"]
    lines += [
        "config = load_config(args, CONFIG)",
        "tokenizer = load_tokenizer(args)",
        "vocabulary = config.get_text_config().vocab_size",
        "documents = read_tokens(args, tokenizer, vocabulary)",
        _call(_replacing("batches", calls), "args, documents", "stream = "),
        "options: dict[str, Any] = {}",
    ]
    lines += [_call(call, "options", "options = ") for call in calls if call.stage == "configure"]
    lines.append("model = load_model(args, config, options)")
    for stage in ("adapt_model", "patch_model", "shard_model"):
        lines += [_call(call, "model", "model = ") for call in calls if call.stage == stage]
    optimizer = _replacing("build_optimizer", calls)
    lines.append(_call(optimizer, "model, args.learning_rate", "optimizer = "))
    patches = [call for call in calls if call.stage == "patch_optimizer"]
    lines += [_call(call, "model, optimizer", "optimizer = ") for call in patches]
    lines.append("schedule = build_schedule(args, optimizer)")
    training = f"args, model, optimizer, schedule, stream, {_loss(calls)}"
    lines.append(_call(_replacing("train", calls), training, "steps = "))
    lines += [
        "for step, value in steps:",
        '    print(f"step {step}  loss {value:.6f}", flush=True)',
    ]
    lines += ["if args.output:"]
    save = _call(_replacing("save", calls), "args, model, tokenizer", "")
    lines += [f"    print({save})"]
    body = "\n".join(lines).replace("\n", "\n    ")
    return (
        "def main(argv: Sequence[str] | None = None) -> None:\n"
        '    """Build the model stage by stage, train it, print one line a step."""\n'
        f"    {body}"
    )


def _replacing(stage: str, calls: list[Call]) -> Call:
    """The technique's hook of a stage, or else the recipe's own function."""
    return next((call for call in calls if call.stage == stage), Call(stage, "", stage, {}))


def _loss(calls: list[Call]) -> str:
    arguments = next((call.arguments for call in calls if call.stage == "loss"), {})
    return f"partial(loss, {_keywords(arguments)})" if arguments else "loss"


def _call(call: Call, first: str, result: str) -> str:
    inside = ", ".join(part for part in (first, _keywords(call.arguments)) if part)
    line = f"{result}{call.name}({inside})"
    if len(line) + 4 <= WIDTH:
        return line
    rows = [*first.split(", "), *(f"{k}={literal(v, 8)}" for k, v in call.arguments.items())]
    if len(inside) + 8 <= WIDTH:
        return f"{result}{call.name}(\n    {inside}\n)"
    return f"{result}{call.name}(\n" + "".join(f"    {row},\n" for row in rows) + ")"


def _keywords(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_flat(value)}" for key, value in arguments.items())


def _defaults(plan: Plan, model: Model, merge: bool) -> dict[str, Any]:
    work = msgspec.to_builtins(plan.workload)
    source = {"model": model.location, "weights": model.weights, "tokenizer": model.tokenizer}
    return {**source, **work, "adapters": adapters_of(plan), "merge": merge}


def adapters_of(plan: Plan) -> str:
    """The technique that trains adapters beside the model; empty where the model is trained."""
    known = techniques()
    return next((name for name in active(plan) if known[name].group == "adapters"), "")


def _title(plan: Plan, model: Model) -> str:
    name = model.name if re.fullmatch(r"[\w.\-]+", model.name, re.ASCII) else "a language model"
    known = techniques()
    chosen = ", ".join(known[technique].title for technique in active(plan))
    return f"Fine-tune {name}.\n\n" + textwrap.fill(f"With {chosen}.", WIDTH)


def _needed(plan: Plan) -> list[str]:
    """The packages beyond torch and transformers that the script runs on."""
    needed = [name for chosen in active(plan) for name in techniques()[chosen].packages]
    if plan.workload.data.lower().endswith(".parquet"):
        needed.append("pyarrow")
    return list(dict.fromkeys(needed))


def _torch(plan: Plan) -> str:
    """The oldest torch that has what all of the plan's techniques need."""
    versions = [OLDEST_TORCH, *(techniques()[name].torch for name in active(plan))]
    return max(versions, key=release_of)


def _versions(needed: list[str]) -> list[str]:
    """The packages that the script imports, with their versions on this machine."""
    found = []
    for name in ["torch", "transformers", *needed]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {_version(name)}")
    return [f"Python {platform.python_version()}", *found]


# It reads a file, and predicting a plan writes its script twice.
_version = functools.cache(metadata.version)


def _header(plan: Plan, model: Model, evidence: str) -> str:
    needed = _needed(plan)
    random = "random weights" if model.weights == "random" else "pretrained weights"
    lines = [
        f"Written by memwb {VERSION}; runs without it.",
        f"Needs torch>={_torch(plan)}, transformers>=5.17{''.join(f', {one}' for one in needed)}.",
        *textwrap.wrap(f"Written beside {', '.join(_versions(needed))}.", WIDTH - 2),
        f"The model has {random}; tokens are "
        + ("those of its tokenizer." if model.tokenizer else "bytes: no tokenizer was at hand."),
        *(evidence or "Not measured.").splitlines(),
        "",
        "The plan:",
        *(f"    {line}" for line in plan_toml(plan).strip().splitlines()),
    ]
    # A comment ends at the line's end: nothing that is left in a line may end it earlier.
    shown = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "\n".join(f"# {line}".rstrip() for line in shown)
