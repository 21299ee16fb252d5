"""The command line: the arguments are read first, all else is imported by the command's own file.

``commands()`` is the whole table; each command lives in ``memwb.workbench.headless``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memwb.engine.version import VERSION

Argument = tuple[tuple[str, ...], dict[str, Any]]

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage or plan, 3 out of memory, 130 stopped"


class Command(NamedTuple):
    """One command: what it is called, which function runs it, and what it takes."""

    name: str
    run: str
    """``module:function`` within memwb.workbench; takes the parsed arguments and gives
    the exit code."""
    help: str
    examples: str
    arguments: tuple[Argument, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: the entry point of ``memwb``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"]):
        print(f"memwb {VERSION}")
        return 0
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        os.environ["MEMWB_DEBUG"] = "1"
    return _guarded(lambda: _dispatch(words), "--json" in words or "--jsonl" in words, debug)


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


def _dispatch(words: list[str]) -> int:
    table = {command.name: command for command in commands()}
    if not words:
        on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        words = ["open"] if on_terminal else ["demo"]
    if words[0] == "--serve":
        words = ["serve", *words[1:]]
    if not words[0].startswith("-") and words[0] not in table:
        from memwb.engine.errors import MemwbError, nearest

        hint = nearest(words[0], table)
        raise MemwbError(f"There is no command {words[0]!r}", hint, "See `memwb --help`.")
    arguments = _parser(table).parse_args(words)
    module, _, function = table[arguments.command].run.partition(":")
    import importlib

    run: Callable[[argparse.Namespace], int] = getattr(
        importlib.import_module(f"memwb.workbench.{module}"), function
    )
    return run(arguments)


def _parser(table: dict[str, Command]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="memwb",
        description="A workbench for the memory of language-model training. Without a command: "
        "the workbench on\na terminal, else the demonstration.",
        epilog=f"memwb COMMAND --help tells more.\n{EXIT_CODES}",
        formatter_class=raw,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"memwb {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--serve", action="store_true", help="the same as the command serve")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in table.values():
        examples = "\n".join(f"  {line}" for line in command.examples.splitlines())
        sub = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
            formatter_class=raw,
            allow_abbrev=False,
        )
        for names, settings in command.arguments:
            sub.add_argument(*names, **settings)
    return parser


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


def _guarded(run: Callable[[], int], as_json: bool, debug: bool) -> int:
    """Turn what can go wrong into words and an exit code; a traceback only if asked for."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse has said what was wrong
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        from memwb.workbench.headless.output import print_error, report_error

        if isinstance(error, OSError) and (lost := _unwritten("\n")):
            print_error("Standard output cannot be written", lost, "Send it elsewhere.")
            return 1
        code = report_error(error, as_json)
        _unwritten()
        return code


def _unwritten(more: str = "") -> str:
    """Why what is printed does not get out, as on a full disk; then the rest goes nowhere."""
    try:
        print(more, end="", flush=True)
    except OSError as error:
        # The interpreter flushes once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.strerror or str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
