"""Runs training scripts, each in a fork of this process, which has the heavy imports behind it.

One JSON object a line: in, the text of a train.py; out, the losses it trained with, a digest of
each parameter's gradients of the first step, or how it failed. This process never trains: a fork
after that is broken, and no run sees what another has left behind.
"""

from __future__ import annotations

import gc
import hashlib
import json
import linecache
import os
import selectors
import signal
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any


def main() -> None:
    # The answers go where standard output was; what a library prints must not mix with them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(forked(**json.loads(line))), file=answers, flush=True)


def forked(text: str, seconds: float) -> dict[str, Any]:
    """What the script did in a process of its own, killed when it takes too long."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            found = train(text)
        except BaseException:
            found = {"error": traceback.format_exc(limit=-6)}
        with os.fdopen(writing, "w") as out:
            json.dump(found, out)
        os._exit(0)
    os.close(writing)
    answer, late = b"", False
    with selectors.DefaultSelector() as ready:
        ready.register(reading, selectors.EVENT_READ)
        while not late:
            late = not ready.select(seconds)
            block = b"" if late else os.read(reading, 1 << 16)
            answer += block
            if not block:
                break
    os.close(reading)
    if late:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if late:
        return {"error": f"still running after {seconds} s"}
    code = os.waitstatus_to_exitcode(status)
    found: dict[str, Any] = json.loads(answer) if answer else {"error": f"the run died: {code}"}
    return found


def train(text: str) -> dict[str, Any]:
    """Run the script's main with its losses and first gradients watched from outside."""
    losses: list[float] = []
    gradients: dict[str, str] = {}
    module = types.ModuleType("train")
    # Annotations and pickles look a module up by its name, and torch the one of an operator by its
    # file: without one it looks at all there are, for each operator anew.
    sys.modules["train"] = module
    module.__file__ = "train.py"
    # Triton reads the text of its kernels.
    linecache.cache["train.py"] = (len(text), None, text.splitlines(keepends=True), "train.py")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    steps, build = module.train, module.build_optimizer

    def watched_train(*args: Any, **named: Any) -> Iterator[tuple[int, float]]:
        for step, loss in steps(*args, **named):
            losses.append(loss)
            yield step, loss

    def watched_build(model: Any, *args: Any, **named: Any) -> Any:
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                # Before any hook of the script's own, which may use the gradient up.
                weight.register_post_accumulate_grad_hook(recorder(name))
        return build(model, *args, **named)

    def recorder(name: str) -> Any:
        def record(weight: Any) -> None:
            if not losses:
                gradients[name] = digest(weight.grad)

        return record

    module.__dict__.update(train=watched_train, build_optimizer=watched_build)
    module.main(["--device", "cpu"])
    return {"losses": losses, "gradients": gradients}


def digest(tensor: Any) -> str:
    """A short hash of a tensor's dtype, shape and bits."""
    import torch

    bits = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    head = f"{tensor.dtype} {tuple(tensor.shape)} "
    return head + hashlib.blake2b(bits, digest_size=8).hexdigest()


if __name__ == "__main__":
    main()
