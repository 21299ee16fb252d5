"""The command line: the arguments are read first, all else is imported by the command's own file.

The table of them is in ``memwb.workbench.arguments``; each lives in ``memwb.workbench.headless``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from memwb.engine.version import VERSION
from memwb.workbench.arguments import Command, commands

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage or plan, 3 out of memory, 130 stopped"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: the entry point of ``memwb``."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        os.environ["MEMWB_DEBUG"] = "1"
    return _guarded(lambda: _dispatch(words), "--json" in words or "--jsonl" in words, debug)


def _open_streams() -> None:
    """Standard streams that can be used, whatever memwb was started with."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # Closed: the next file that is opened, as a pipe to the engine, would get its number.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the end
    # An encoding that lacks ✓ or × shows a question mark, and a name that is no UTF-8 too.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _dispatch(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        print(f"memwb {VERSION}")
        return 0
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
