"""What the command line understands: every command with its arguments, a table."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

Argument = tuple[tuple[str, ...], dict[str, Any]]


class Command(NamedTuple):
    """One command: what it is called, which function runs it, and what it takes."""

    name: str
    run: str
    """``module:function`` within memwb.workbench; takes the parsed arguments and gives
    the exit code."""
    help: str
    examples: str
    arguments: tuple[Argument, ...] = ()


def commands() -> tuple[Command, ...]:
    """Every command, in the order in which the help lists them."""
    json = _argument("--json", action="store_true", help="one JSON document on standard output")
    jsonl = _argument("--jsonl", action="store_true", help="one JSON object a line, as it happens")
    plan = _argument("plan", metavar="PLAN", help="a preset's name, or a plan's TOML file")
    override = _argument(
        "-o",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a value by its dotted path, or a technique with NAME=on|off; repeatable",
    )
    trust = (
        _argument("--allow-pickle", action="store_true", help="load pickled weights: can run code"),
        _argument(
            "--trust-remote-code", action="store_true", help="run code that comes with the model"
        ),
    )
    run = _argument("run", metavar="RUN", help="a number, latest, pinned, or a run's folder")
    return (
        Command(
            "open",
            "headless.start:workbench",
            "start the workbench (as memwb alone does), with a plan",
            "memwb open qlora\nmemwb open plan.toml -o workload.sequence_length=2048",
            (_argument("plan", metavar="PLAN", nargs="?", help=plan[1]["help"]), override),
        ),
        Command(
            "serve",
            "headless.serve:serve",
            "serve the workbench to a browser on this machine; also memwb --serve",
            "memwb --serve\nmemwb --serve qlora --port 0",
            (
                _argument("plan", metavar="PLAN", nargs="?", help=plan[1]["help"]),
                override,
                _argument(
                    "--host",
                    default="127.0.0.1",
                    help="the address to listen on (default 127.0.0.1: this machine alone). "
                    "Whoever reaches it and knows the printed address can run code as you",
                ),
                _argument("--port", type=_port, default=8000, help="default 8000; 0: any free one"),
            ),
        ),
        Command(
            "run",
            "headless.run:run",
            "run a burst and tell its peak memory and its loss",
            "memwb run tiny-demo\nmemwb run tiny-demo -o lora=on -o workload.steps=4 --json",
            (
                plan,
                override,
                _argument("--device", choices=["auto", "cpu", "cuda"], default="auto"),
                _argument("--name", default="", help="what the run is called in the history"),
                _argument(
                    "-y",
                    "--yes",
                    action="store_true",
                    help="run a plan that is predicted not to fit; else that is asked on a "
                    "terminal, and anywhere else it runs with a warning",
                ),
                *trust,
                json,
                jsonl,
            ),
        ),
        Command(
            "predict",
            "headless.predict:predict",
            "predict a plan's peak memory for a GPU that need not be here",
            "memwb predict qlora --target rtx-4090\n"
            "memwb predict plan.toml -o workload.sequence_length=4096 --changes\n"
            "memwb predict lora --target h200 --json\n"
            "memwb predict lora --target rtx-3060-12gb --fail-if-exceeds && memwb run lora",
            (
                plan,
                override,
                _argument(
                    "--target",
                    default="",
                    metavar="GPU|cpu",
                    help="an id of `memwb gpus`, or cpu for what a CPU burst would measure "
                    "(default: this machine's GPU, else its CPU)",
                ),
                _argument(
                    "--changes",
                    action="store_true",
                    help="also what each technique would change, switched on or off",
                ),
                _argument(
                    "--fail-if-exceeds",
                    action="store_true",
                    help="exit with 3 when the plan exceeds the target",
                ),
                trust[1],
                json,
            ),
        ),
        Command(
            "export",
            "headless.export:export",
            "write the plan's train.py, which runs without memwb",
            "memwb export lora out\nmemwb export plan.toml out -o model=qwen2.5-0.5b --force\n"
            "memwb export qlora out --merge",
            (
                plan,
                _argument("directory", metavar="DIR", help="the folder to write into"),
                override,
                _argument("--force", action="store_true", help="overwrite what is there"),
                _argument(
                    "-m",
                    "--merge",
                    action="store_true",
                    help="let train.py save one model with the adapters in its weights (a "
                    "quantized base is expanded for that); else it saves the adapters",
                ),
                *trust,
                json,
            ),
        ),
        Command(
            "techniques",
            "headless.show:techniques",
            "list what can be toggled, or explain one with its arithmetic in bytes",
            "memwb techniques\nmemwb techniques lora qwen2.5-7b-full\n"
            "memwb techniques attention --device cuda\n"
            "memwb techniques adamw_8bit -o model=qwen2.5-1.5b -o bf16=on",
            (
                _argument("name", nargs="?", metavar="NAME"),
                _argument(
                    "plan",
                    nargs="?",
                    metavar="PLAN",
                    help="the plan to reckon for: a preset's name, or a plan's TOML file "
                    "(default: the model tiny)",
                ),
                override,
                _argument("--device", choices=["auto", "cpu", "cuda"], default="auto"),
                json,
            ),
        ),
        Command(
            "models",
            "headless.models:models",
            "list the models, or tell what one needs in four typical plans",
            "memwb models --json\nmemwb models qwen2.5-7b --target rtx-4090\n"
            "memwb models ./my-model -o workload.sequence_length=4096",
            (
                _argument("name", nargs="?", metavar="NAME", help="a name, folder or hub id"),
                override,
                _argument(
                    "--target", default="", metavar="GPU|cpu", help="an id of `memwb gpus`, or cpu"
                ),
                trust[1],
                json,
            ),
        ),
        Command(
            "gpus",
            "headless.gpus:gpus",
            "list the GPUs that a plan can be predicted for",
            "memwb gpus\nmemwb gpus --json",
            (json,),
        ),
        Command(
            "presets",
            "headless.show:presets",
            "list the presets, show one, hold one against a plan, delete one of your own",
            "memwb presets\nmemwb presets show tiny-demo\nmemwb presets diff qlora plan.toml\n"
            "memwb presets delete my-lora",
            (
                _argument("action", nargs="?", default="list", metavar="list|show|diff|delete"),
                _argument("name", nargs="?", metavar="NAME"),
                _argument("plan", nargs="?", metavar="PLAN", help=plan[1]["help"]),
                json,
            ),
        ),
        Command(
            "runs",
            "headless.history:runs",
            "the history: list, show, compare, name, note, pin and delete runs",
            "memwb runs\nmemwb runs list --sort peak --filter 'lora done'\n"
            "memwb runs show latest\nmemwb runs compare pinned 3 latest --json\n"
            "memwb runs rename 3 'rank 64'\nmemwb runs note 3 'spilled at 4096 tokens'\n"
            "memwb runs pin 3\nmemwb runs delete 1 2 --yes",
            (
                _argument(
                    "action",
                    nargs="?",
                    default="list",
                    metavar="ACTION",
                    help="list (the default), show RUN, compare RUN RUN [RUN [RUN]], rename RUN "
                    "NAME, note RUN [TEXT], pin RUN, unpin, delete RUN...",
                ),
                _argument(
                    "words", nargs="*", metavar="RUN", help="a number, latest, pinned, or a folder"
                ),
                _argument(
                    "--sort",
                    default="",
                    metavar="KEY",
                    help="time, peak, speed, loss, name, model or outcome (default: time)",
                ),
                _argument("--reverse", action="store_true", help="the other way round"),
                _argument(
                    "--filter",
                    default="",
                    metavar="TEXT",
                    help="only runs that contain every word of it: in their name, note, model, "
                    "techniques, device, outcome or time",
                ),
                _argument("-y", "--yes", action="store_true", help="delete without being asked"),
                json,
            ),
        ),
        Command(
            "replay",
            "headless.replay:replay",
            "tell a run again as it happened",
            "memwb replay latest --speed 4\nmemwb replay 3 --speed 0 --jsonl",
            (
                run,
                _argument(
                    "--speed",
                    type=_speed,
                    default=1.0,
                    metavar="X",
                    help="times as fast; 0: at once",
                ),
                json,
                jsonl,
            ),
        ),
        Command(
            "demo",
            "demo:demo",
            "run a ladder of four plans on a tiny model and compare their memory",
            "memwb demo",
            (json,),
        ),
        Command(
            "doctor",
            "headless.doctor:doctor",
            "look at what is installed and works",
            "memwb doctor",
            (json,),
        ),
        Command(
            "locate",
            "headless.show:locate",
            "tell where memwb keeps things",
            "memwb locate --json",
            (json,),
        ),
    )


def _argument(*names: str, **settings: Any) -> Argument:
    return names, settings


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a speed: 0 or more")
    return value


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return int(text)
