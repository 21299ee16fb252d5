"""The arms of a race: memwb's kernel, the framework, the compiler, and other libraries' kernels.

An arm makes, of a problem, the forward function to be called again and again. One whose package is
not installed, or that says beforehand that it cannot do a problem, is left out with the reason.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.problems import Forward, Problem, Tensors

OURS = "memwb"
PLAIN = "plain"


class Arm(NamedTuple):
    """A competitor. ``make`` gives the forward function of a problem."""

    name: str
    make: Callable[[Problem], Forward]
    package: str = ""
    """Import name of what it runs on, beyond torch and triton."""
    cannot: Callable[[Problem], str] = lambda problem: ""
    """Why it cannot do this problem; empty where it can."""
    writes: bool = False
    """Whether it writes over its inputs, which then are restored before each sample."""


def why_not(arm: Arm, problem: Problem, device: str) -> str:
    """Why an arm does not take part; empty where it does."""
    if arm.package and importlib.util.find_spec(arm.package) is None:
        return f"{arm.package} is not installed"
    if device != "cuda" and arm.package:
        return "its kernels need a GPU"
    return arm.cannot(problem)


def arms_of(kernel: str) -> list[Arm]:
    """The arms for a kernel, ours first."""
    others = {
        "fused_linear_cross_entropy": [*_LIGER_LOSSES, *_CCE, _QUACK_LOSS],
        "cut_cross_entropy": [*_LIGER_LOSSES, *_CCE, _QUACK_LOSS],
        "rms_norm": [_LIGER_RMS, _QUACK_RMS],
        "layer_norm": [_LIGER_LAYER],
        "rope": [_LIGER_ROPE],
        "swiglu": [_LIGER_SWIGLU],
        "geglu": [_LIGER_GEGLU],
        "lora_linear": [],
        "lora_mlp": [],
    }
    ours = Arm(OURS, _ours, cannot=_not_there)
    return [ours, Arm(PLAIN, _plain), Arm("torch.compile", _compiled), *others[kernel]]


# --- ours and the framework's -------------------------------------------------------------------


def _not_there(problem: Problem) -> str:
    try:
        importlib.import_module(f"memwb.kernels.{problem.kernel}")
    except ImportError as error:
        return f"memwb.kernels.{problem.kernel}: {error}"
    return ""


def _ours(problem: Problem) -> Forward:
    call = _function(problem, problem.kernel)
    return lambda: _OURS[problem.kernel](call, problem)


def _function(problem: Problem, name: str) -> Any:
    return getattr(importlib.import_module(f"memwb.kernels.{problem.kernel}"), name)


def _our_loss(call: Any, problem: Problem) -> Tensors:
    inputs, options = problem.inputs, problem.options
    # The mean of no rows is not a number; a sum over a count that is given is zero.
    given = {} if options["count"] else {"tokens": 1}
    return (
        call(
            inputs["hidden"], inputs["weight"], inputs["labels"], inputs.get("bias"),
            label_smoothing=options["label_smoothing"], softcap=options["softcap"] or 0.0,
            z_loss=options["z_loss"], reduction="mean", **given,
        ),
    )  # fmt: skip


def _our_norm(call: Any, problem: Problem) -> Tensors:
    inputs, eps = problem.inputs, problem.options["eps"]
    scales = [inputs[name] for name in ("weight", "bias") if name in inputs]
    if "residual" in inputs:
        both = _function(problem, f"add_{problem.kernel}")
        found: Tensors = both(inputs["x"], inputs["residual"], *scales, eps)
        return found
    return (call(inputs["x"], *scales, eps),)


def _our_gate(call: Any, problem: Problem) -> Tensors:
    more = {"tanh": True} if problem.kernel == "geglu" else {}
    return (call(problem.inputs["gate"], problem.inputs["up"], **more),)


def _our_rope(call: Any, problem: Problem) -> Tensors:
    inputs = problem.inputs
    found: Tensors = call(inputs["query"], inputs["key"], inputs["cos"], inputs["sin"])
    return found


def _our_adapter(call: Any, problem: Problem) -> Tensors:
    inputs = problem.inputs
    scale = problem.options["scale"]
    return (call(inputs["x"], inputs["weight"], None, inputs["down"], inputs["up"], scale),)


def _our_adapted_gate(call: Any, problem: Problem) -> Tensors:
    inputs = problem.inputs
    factors = [inputs[name] for name in ("down", "up")]
    weight, scale = inputs["weight"], problem.options["scale"]
    return (call(inputs["gate"], inputs["values"], weight, None, *factors, scale, "silu"),)


_OURS: dict[str, Callable[[Any, Problem], Tensors]] = {
    "fused_linear_cross_entropy": _our_loss,
    "cut_cross_entropy": _our_loss,
    "rms_norm": _our_norm,
    "layer_norm": _our_norm,
    "rope": _our_rope,
    "swiglu": _our_gate,
    "geglu": _our_gate,
    "lora_linear": _our_adapter,
    "lora_mlp": _our_adapted_gate,
}


def _plain(problem: Problem) -> Forward:
    return lambda: problem.plain(problem.inputs, problem.options)


def _compiled(problem: Problem) -> Forward:
    torch._dynamo.reset()
    made = torch.compile(problem.plain, dynamic=False)
    return lambda: made(problem.inputs, problem.options)


# --- Liger --------------------------------------------------------------------------------------


def _liger(name: str) -> Any:
    return getattr(importlib.import_module("liger_kernel.transformers.functional"), name)


def _liger_loss(budget: int) -> Callable[[Problem], Forward]:
    """Liger's loss with C = ``budget``: its chunks hold C × tokens × hidden elements of logits."""

    def make(problem: Problem) -> Forward:
        call, inputs, options = _liger("liger_fused_linear_cross_entropy"), *problem[2:4]
        more = {} if budget == 1 else {"chunk_mem_const": budget}
        return lambda: (
            call(
                inputs["hidden"], inputs["weight"], inputs["labels"], bias=inputs.get("bias"),
                lse_square_scale=options["z_loss"], label_smoothing=options["label_smoothing"],
                softcap=options["softcap"], reduction="mean", **more,
            ),
        )  # fmt: skip

    return make


def _liger_cannot(budget: int) -> Callable[[Problem], str]:
    def cannot(problem: Problem) -> str:
        try:
            call = _liger("liger_fused_linear_cross_entropy")
        except ImportError as error:
            return str(error)
        known = call.__code__.co_varnames
        if budget > 1 and "chunk_mem_const" not in known:
            return "this liger-kernel has no chunk_mem_const"
        return ""

    return cannot


_LIGER_LOSSES = [
    Arm(f"Liger C={budget}", _liger_loss(budget), "liger_kernel", _liger_cannot(budget))
    for budget in (1, 8, 16)
]


def _liger_rms(problem: Problem) -> Forward:
    inputs, eps = problem.inputs, problem.options["eps"]
    if "residual" in inputs:
        both = _liger("liger_fused_add_rms_norm")
        return lambda: both(inputs["x"], inputs["residual"], inputs["weight"], eps)
    call = _liger("liger_rms_norm")
    return lambda: (call(inputs["x"], inputs["weight"], eps),)


def _liger_layer(problem: Problem) -> Forward:
    call, inputs = _liger("liger_layer_norm"), problem.inputs
    return lambda: (call(inputs["x"], inputs["weight"], inputs["bias"], problem.options["eps"]),)


def _liger_rope(problem: Problem) -> Forward:
    call, inputs = _liger("liger_rope"), problem.inputs
    return lambda: call(inputs["query"], inputs["key"], inputs["cos"], inputs["sin"])


def _liger_gate(name: str) -> Callable[[Problem], Forward]:
    def make(problem: Problem) -> Forward:
        call, inputs = _liger(name), problem.inputs
        return lambda: (call(inputs["gate"], inputs["up"]),)

    return make


def _one_output(problem: Problem) -> str:
    return "it has no fused addition" if "residual" in problem.inputs else ""


_LIGER_RMS = Arm("Liger", _liger_rms, "liger_kernel")
_LIGER_LAYER = Arm("Liger", _liger_layer, "liger_kernel", _one_output)
# It turns queries and keys where they are, and writes gradients over a gate's saved inputs.
_LIGER_ROPE = Arm("Liger", _liger_rope, "liger_kernel", writes=True)
_LIGER_SWIGLU = Arm("Liger", _liger_gate("liger_swiglu"), "liger_kernel", writes=True)
_LIGER_GEGLU = Arm("Liger", _liger_gate("liger_geglu"), "liger_kernel", writes=True)


# --- Apple's cut cross-entropy, QuACK -----------------------------------------------------------


def _cce(filtered: bool) -> Callable[[Problem], Forward]:
    """By default gradients below a threshold are filtered out; exact asks for all of them."""

    def make(problem: Problem) -> Forward:
        call = importlib.import_module("cut_cross_entropy").linear_cross_entropy
        inputs = problem.inputs
        more = {} if filtered else {"filter_eps": None}
        return lambda: (
            call(
                inputs["hidden"], inputs["weight"], inputs["labels"],
                softcap=problem.options["softcap"], reduction="mean", **more,
            ),
        )  # fmt: skip

    return make


def _cce_cannot(problem: Problem) -> str:
    asked = [name for name in ("label_smoothing", "z_loss") if problem.options[name]]
    asked += ["bias"] if "bias" in problem.inputs else []
    return f"it has no {asked[0]}" if asked else ""


_CCE = [
    Arm(name, _cce(filtered), "cut_cross_entropy", _cce_cannot)
    for name, filtered in (("CCE", True), ("CCE exact", False))
]


def _quack_loss(problem: Problem) -> Forward:
    call = importlib.import_module("quack.linear_cross_entropy").chunked_linear_cross_entropy
    inputs = problem.inputs
    return lambda: (call(inputs["hidden"], inputs["weight"], inputs["labels"], reduction="mean"),)


def _quack_cannot(problem: Problem) -> str:
    if problem.options["softcap"] or _cce_cannot(problem):
        return "it has no such option"
    if len(problem.inputs["hidden"]) % 8:
        return "it wants tokens in multiples of 8"
    return _importable("quack.linear_cross_entropy")


def _importable(name: str) -> str:
    try:
        importlib.import_module(name)
    # Its own packages may be too old, or not there: their errors are of many kinds.
    except Exception as error:
        return f"{name}: {error}"
    return ""


def _quack_rms(problem: Problem) -> Forward:
    call, inputs = importlib.import_module("quack.rmsnorm").rmsnorm, problem.inputs
    eps = problem.options["eps"]
    if "residual" in inputs:
        return lambda: call(
            inputs["x"], inputs["weight"], residual=inputs["residual"], eps=eps, prenorm=True
        )
    return lambda: (call(inputs["x"], inputs["weight"], eps=eps),)


_QUACK_LOSS = Arm("QuACK", _quack_loss, "quack", _quack_cannot)
_QUACK_RMS = Arm("QuACK", _quack_rms, "quack", lambda problem: _importable("quack.rmsnorm"))
