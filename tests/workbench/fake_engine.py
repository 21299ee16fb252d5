"""An engine for tests: speaks the protocol, runs nothing. Its argument is how the burst goes.

A burst can also be a recorded one: the argument is then its file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from memwb.engine.prediction import Change, Fit, Large, Parameters, Point, Prediction
from memwb.engine.protocol import (
    AllPredicted,
    Categories,
    Command,
    Device,
    Ended,
    Event,
    Hello,
    Loaded,
    Peak,
    Predict,
    Predicted,
    Problem,
    Ready,
    Sample,
    Samples,
    Start,
    Started,
    Step,
    Stop,
    Toggled,
    Unpredicted,
    decode_command,
    decode_event,
    encode,
)

CPU = Device("cpu", "a test's CPU", 2**34)
PEAK = Peak(110, 120, 130, "backward", Categories(50, 30, 20, 8, 2))
LESS = Peak(90, 90, 90, "loss", Categories(90))
FORETOLD = Peak(100, 100, 100, "loss", Categories(50, 0, 20, 8, 22))
SCRIPT = "print('the script')\n"


def say(event: Event) -> None:
    sys.stdout.buffer.write(encode(event))
    sys.stdout.flush()


def hear() -> Command | None:
    line = sys.stdin.buffer.readline()
    return decode_command(line) if line else None


def garbage() -> None:
    """Everything that is no event, a line each."""
    lines = (
        b"Traceback (most recent call last):",
        b'{"type":"step","burst":1,"step":"x"}',
        b'{"type":"step"',
        b'{"type":"no such event"}',
        b"[1, 2, 3]",
        b"null",
        b"{" * 5000,
        bytes(range(256)).replace(b"\n", b""),
        b"\x1b[2J\x1b]52;c;AAAA\x07",
        b"x" * 1_000_000,
        b"",
    )
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    sys.stdout.flush()


def run(start: Start, how: str) -> None:
    name = start.burst
    if how.endswith(".jsonl"):
        for line in Path(how).read_bytes().splitlines():
            say(decode_event(line))
        return
    if how == "refused":
        say(Ended(name, "refused", title="Three words", what="too few", fix="give more"))
        return
    if how == "untaken":
        say(Problem("The engine is busy", "another burst runs", "wait"))
        return
    if how == "garbage":
        garbage()
    if how == "dies early":
        sys.exit(7)
    say(Started(name, CPU, str(start.plan["model"]), "random", 1000, 2, (1, 2), SCRIPT))
    say(Loaded(name, 1000, 1000, 50, 0.25))
    say(Samples(name, [Sample(0.5, 1, "forward", 60, 60, 70)]))
    say(Step(name, 1, 5.5, 0.25, 32, True))
    if how == "dies":
        sys.exit(7)
    if how == "waits":
        while not isinstance(hear(), Stop):
            time.sleep(0.01)
        say(Ended(name, "stopped", PEAK, [5.5], None, 0.5, title="The burst was stopped"))
        return
    if how == "garbage":
        garbage()
    say(Step(name, 2, 5.25, 0.25, 32, True))
    if how == "garbage":
        # Half of an event, and then nothing for ever.
        sys.stdout.buffer.write(encode(Step(name, 3, 5.0, 0.25, 32, True))[:20])
        sys.stdout.flush()
        sys.exit(7)
    if how == "oom":
        say(Ended(name, "oom", PEAK, [5.5], None, 1.0, "Out of memory", "in backward", "use lora"))
    elif how == "failed":
        say(Ended(name, "failed", PEAK, [5.5], None, 1.0, "The burst failed: x", "why", "so"))
    else:
        say(Ended(name, "done", PEAK, [5.5, 5.25], 1234.5, 1.0))


def predict(question: Predict, how: str) -> None:
    name, target = question.prediction, question.target or "cpu"
    if how == "unpredicted":
        say(Unpredicted(name, "The plan cannot be predicted", "lora: why", "lora=off", "lora"))
        return
    if how == "no answer":
        return
    if how == "dies predicting":
        sys.exit(7)
    peak = FORETOLD
    if how == "exceeds late":
        time.sleep(0.5)
    if how.startswith("exceeds"):
        peak = Peak(2**35, 2**35, 2**35, "loss", Categories(temporary=2**35))
    lora = Change(technique="lora", on=True, overrides=("lora=on",), peak=PEAK)
    sgd = Change(technique="sgd", on=True, overrides=("sgd=on",), reason="no such luck")
    say(
        Predicted(
            name,
            Prediction(
                target=target,
                peak=peak,
                step=2,
                timeline=(
                    Point("load", 0, 50, Categories(50)),
                    Point("loss", 2, 100, peak.categories),
                ),
                largest=(Large(64, "temporary", "lm_head", "aten.mm", (4, 4), "float32"),),
                fits=(
                    Fit("rtx-4090", 2**34, "fits", 2**34 - 100),
                    Fit("rtx-4070", 90, "exceeds", -10),
                    Fit("h200", 2**37, "fits", 2**37 - 100, False),
                ),
                parameters=Parameters(1000, 1000),
                words=("The peak is in the loss.",),
                notes=("Made up.",),
                seconds=0.5,
            ),
        )
    )
    if question.changes:
        say(Toggled(name, lora))
        say(Toggled(name, sgd))
        # The default of its group: it acts already.
        say(Toggled(name, Change(technique="adamw", on=True, overrides=("adamw=on",), peak=peak)))
        edits = ("bf16=on", "fp32=off")
        say(Toggled(name, Change(technique="bf16", on=True, overrides=edits, peak=LESS)))
    say(AllPredicted(name, 0.75))


def main() -> None:
    how = sys.argv[1]
    print("chatter on standard error", file=sys.stderr)
    say(Hello("0", 1))
    say(Ready(CPU, {"torch": "0"}))
    while (command := hear()) is not None:
        if isinstance(command, Start):
            run(command, how)
        if isinstance(command, Predict):
            predict(command, how)


main()
