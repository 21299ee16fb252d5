"""What the kernels are checked and raced on: inputs, the plain formula, and the least work.

A plain formula is written once and runs in any precision: in bf16 it is what the framework does, in
fp64 it is the truth that every arm is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

Tensors = tuple[torch.Tensor, ...]
IGNORED = -100


class Problem(NamedTuple):
    """One task: inputs by name, those with a gradient asked for, options, the least work there is.

    ``products`` are (m, n, k) of matrix products, ``moved`` the bytes that forward and backward
    read and write at the least; a problem has one or the other, as its roofline.
    """

    kernel: str
    label: str
    inputs: dict[str, torch.Tensor]
    options: dict[str, Any]
    upstream: Tensors
    plain: Callable[[dict[str, torch.Tensor], dict[str, Any]], Tensors]
    split: bool = True
    """Whether forward and backward are timed apart."""
    products: tuple[tuple[int, int, int], ...] = ()
    moved: tuple[int, int] = (0, 0)
    facts: tuple[tuple[str, Any], ...] = ()
    """What of the case goes into its row: tokens, peaky, the head trained."""

    @property
    def wanted(self) -> list[str]:
        """The names of the inputs whose gradients are asked for."""
        return [name for name, value in self.inputs.items() if value.requires_grad]


Forward = Callable[[], Tensors]
"""Runs a problem's forward and gives its outputs."""
Results = dict[str, torch.Tensor]
"""Outputs and gradients by name."""


def results(problem: Problem, forward: Forward) -> Results:
    """Outputs and gradients of one pass, by name."""
    wanted = [problem.inputs[name] for name in problem.wanted]
    # Some kernels write over the upstream gradient that they are given, or over their inputs.
    upstream = [one.clone() for one in problem.upstream]
    outputs = forward()
    found = {f"output {place}": value.detach().clone() for place, value in enumerate(outputs)}
    gradients = torch.autograd.grad(outputs, wanted, upstream)
    return found | {
        f"gradient of {name}": value.clone()
        for name, value in zip(problem.wanted, gradients, strict=True)
    }


def copied(problem: Problem) -> dict[str, torch.Tensor]:
    """The inputs' values, to restore or compare with."""
    return {name: value.detach().clone() for name, value in problem.inputs.items()}


def restore(problem: Problem, values: dict[str, torch.Tensor]) -> None:
    """Give the inputs their values back."""
    for name, value in values.items():
        problem.inputs[name].data.copy_(value)


def raised(problem: Problem, dtype: torch.dtype = torch.float64) -> Problem:
    """The same problem on inputs of another precision, with the same values."""

    def up(value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        return value.detach().to(dtype).requires_grad_(value.requires_grad)

    inputs = {name: up(value) for name, value in problem.inputs.items()}
    return problem._replace(inputs=inputs, upstream=tuple(up(one) for one in problem.upstream))


def plain(problem: Problem) -> Results:
    """What the framework computes in the precision of the inputs."""
    return results(problem, lambda: problem.plain(problem.inputs, problem.options))


def truth(problem: Problem) -> Results:
    """What is true: the plain formula in fp64, the loss by pieces of the vocabulary's size."""
    if problem.plain is linear_cross_entropy:
        return _true_losses(raised(problem))
    return plain(raised(problem))


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    """‖found − true‖ / ‖true‖, or ‖found‖ where the truth is zero; not a number if one is not."""
    apart = torch.linalg.vector_norm(found.double() - true)
    size = torch.linalg.vector_norm(true)
    return float(apart / size) if float(size) else float(apart)


# --- the loss -----------------------------------------------------------------------------------


def losses(
    kernel: str,
    tokens: int,
    hidden: int,
    words: int,
    *,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    peaky: bool = False,
    ignored: float = 0.0,
    trained: bool = True,
    bias: bool = False,
    softcap: float | None = None,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    seed: int = 0,
    name: str = "",
) -> Problem:
    """Hidden states × head → loss. Flat: logits of deviation 1. Peaky: a trained model's.

    Peaky rows point at their label's weight, by amounts from half to one and a half times what
    gives the label a probability of 0.9: some rows are sure, some are not. Labels are drawn evenly.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    weight = drawn(words, hidden) / hidden**0.5
    labels = torch.randint(words, (tokens,), device=device, generator=generator)
    states = drawn(tokens, hidden)
    if peaky:
        amount = torch.log(torch.tensor(9.0 * words)).item() + 0.5
        by = amount * (0.5 + torch.rand(tokens, 1, device=device, generator=generator))
        states += by * weight[labels]
    labels[torch.rand(tokens, device=device, generator=generator) < ignored] = IGNORED
    kept = int((labels != IGNORED).sum())
    inputs = {
        "hidden": states.to(dtype).requires_grad_(),
        "weight": weight.to(dtype).requires_grad_(trained),
        "labels": labels,
    }
    if bias:
        inputs["bias"] = drawn(words).to(dtype).requires_grad_(trained)
    options = {"softcap": softcap, "label_smoothing": smoothing, "z_loss": z_loss, "count": kept}
    products = [(kept, words, hidden), (kept, hidden, words)]
    if trained:
        products.append((words, hidden, kept))
    facts = {
        "model": name, "tokens": tokens, "hidden": hidden, "vocabulary": words,
        "peaky": peaky, "ignored": ignored, "trained": trained,
    }  # fmt: skip
    extra = {"bias": bias, "softcap": softcap, "smoothing": smoothing, "z-loss": z_loss}
    label = " ".join(
        [
            name or f"{hidden}×{words}",
            f"{tokens} tokens",
            "peaky" if peaky else "flat",
            "trained" if trained else "frozen",
            *([f"{ignored:.0%} ignored"] if ignored else []),
            *[
                f"{key} {value}" if value is not True else key
                for key, value in extra.items()
                if value
            ],
        ]
    )
    upstream = torch.tensor(0.75, device=device)
    return Problem(
        kernel, label, inputs, options, (upstream,), linear_cross_entropy, split=False,
        products=tuple(products), facts=tuple(facts.items()),
    )  # fmt: skip


def linear_cross_entropy(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """The plain loss: logits in the inputs' precision, the rest in fp32 (or fp64)."""
    logits = functional.linear(inputs["hidden"], inputs["weight"], inputs.get("bias"))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (_loss(logits, inputs["labels"], options),)


def _loss(logits: torch.Tensor, labels: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """The sum over rows that count, divided by the number of all such rows."""
    if softcap := options["softcap"]:
        logits = softcap * torch.tanh(logits / softcap)
    total = functional.cross_entropy(
        logits, labels, ignore_index=IGNORED, reduction="sum",
        label_smoothing=options["label_smoothing"],
    )  # fmt: skip
    if options["z_loss"]:
        kept = (labels != IGNORED).to(logits.dtype)
        total = total + options["z_loss"] * (torch.logsumexp(logits, -1) ** 2 * kept).sum()
    return total / max(options["count"], 1)


def _true_losses(problem: Problem, rows: int = 1024) -> Results:
    """The loss and its gradients in fp64, by pieces of rows: whole logits would not fit."""
    inputs, options = problem.inputs, problem.options
    total = torch.zeros((), dtype=torch.float64, device=inputs["hidden"].device)
    names = problem.wanted
    sums = {name: torch.zeros_like(inputs[name]) for name in names if name != "hidden"}
    states = torch.zeros_like(inputs["hidden"])
    for start in range(0, len(states), rows):
        part = slice(start, start + rows)
        piece = inputs["hidden"][part].detach().requires_grad_()
        logits = functional.linear(piece, inputs["weight"], inputs.get("bias"))
        loss = _loss(logits, inputs["labels"][part], options)
        wanted = [piece, *(inputs[name] for name in sums)]
        found = torch.autograd.grad(loss, wanted, problem.upstream[0])
        states[part] = found[0]
        for name, value in zip(sums, found[1:], strict=True):
            sums[name] += value
        total += loss.detach()
    gradients = {"hidden": states, **sums}
    return {"output 0": total} | {f"gradient of {name}": gradients[name] for name in names}


# --- row by row ---------------------------------------------------------------------------------


def _drawer(device: str, dtype: torch.dtype, seed: int) -> Callable[..., torch.Tensor]:
    generator = torch.Generator(device).manual_seed(seed)

    def drawn(*shape: int, grad: bool = True, about: float = 0.0) -> torch.Tensor:
        value = about + torch.randn(*shape, device=device, generator=generator)
        return value.to(dtype).requires_grad_(grad)

    return drawn


def norms(
    kernel: str, rows: int, columns: int, *, device: str,
    dtype: torch.dtype = torch.bfloat16, residual: bool = False, seed: int = 0,
) -> Problem:  # fmt: skip
    """RMSNorm or LayerNorm over the last dimension, with a residual added first if asked."""
    drawn = _drawer(device, dtype, seed)
    inputs = {"x": drawn(rows, columns), "weight": drawn(columns, about=1.0)}
    if kernel == "layer_norm":
        inputs["bias"] = drawn(columns)
    if residual:
        inputs["residual"] = drawn(rows, columns)
    outputs = 2 if residual else 1
    upstream = tuple(drawn(rows, columns, grad=False) for _ in range(outputs))
    size = rows * columns * dtype.itemsize
    # Forward reads x (and the residual), writes y (and their sum); backward reads the saved input
    # and the upstream gradients, and writes one: the two addends share it.
    moved = (2 * outputs * size, (2 + outputs) * size)
    return Problem(
        kernel, f"{rows}×{columns}{' + residual' if residual else ''}", inputs, {"eps": 1e-6},
        upstream, norm, moved=moved, facts=(("rows", rows), ("columns", columns)),
    )  # fmt: skip


def norm(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """As transformers writes them: the norm in fp32, cast back, scaled."""
    x = inputs["x"]
    if "residual" in inputs:
        x = x + inputs["residual"]
    if "bias" in inputs:
        shape = (x.shape[-1],)
        found = functional.layer_norm(x, shape, inputs["weight"], inputs["bias"], options["eps"])
    else:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + options["eps"])
        found = inputs["weight"] * (wide * scale).to(x.dtype)
    return (found, x) if "residual" in inputs else (found,)


def gates(
    kernel: str, rows: int, columns: int, *, device: str,
    dtype: torch.dtype = torch.bfloat16, seed: int = 0,
) -> Problem:  # fmt: skip
    """SwiGLU or GEGLU: act(gate) × up."""
    drawn = _drawer(device, dtype, seed)
    inputs = {"gate": drawn(rows, columns), "up": drawn(rows, columns)}
    size = rows * columns * dtype.itemsize
    return Problem(
        kernel, f"{rows}×{columns}", inputs, {}, (drawn(rows, columns, grad=False),),
        swiglu if kernel == "swiglu" else geglu,
        moved=(3 * size, 5 * size), facts=(("rows", rows), ("columns", columns)),
    )  # fmt: skip


def swiglu(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """As transformers writes it."""
    return (functional.silu(inputs["gate"]) * inputs["up"],)


def geglu(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """With the tanh form of GELU, as Gemma has it."""
    return (functional.gelu(inputs["gate"], approximate="tanh") * inputs["up"],)


def ropes(
    kernel: str, batch: int, length: int, heads: int, shared: int, width: int, *, device: str,
    dtype: torch.dtype = torch.bfloat16, rotary: int = 0, seed: int = 0,
) -> Problem:  # fmt: skip
    """Rotary embedding of queries and keys laid out (batch, heads, length, width) as views.

    As attention makes them: the projection's result seen with heads before positions.
    """
    drawn = _drawer(device, dtype, seed)
    rotary = rotary or width
    made = {
        name: drawn(batch, length, count, width, grad=False).transpose(1, 2).requires_grad_()
        for name, count in (("query", heads), ("key", shared))
    }
    turns = torch.arange(0, rotary, 2, device=device, dtype=torch.float32) / rotary
    angles = torch.arange(length, device=device)[:, None] * 10000.0**-turns
    both = torch.cat((angles, angles), -1)[None]
    inputs = {**made, "cos": both.cos().to(dtype), "sin": both.sin().to(dtype)}
    size = batch * length * (heads + shared) * width * dtype.itemsize
    label = f"{batch}×{length} {heads}+{shared} heads of {width}"
    return Problem(
        kernel, label + (f", {rotary} rotated" if rotary != width else ""), inputs, {},
        tuple(drawn(*value.shape, grad=False) for value in made.values()), rope,
        moved=(2 * size, 2 * size), facts=(("rows", batch * length), ("columns", width)),
    )  # fmt: skip


def rope(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """As transformers writes it, the halves of a head's rotated part against each other."""
    cos, sin = inputs["cos"][:, None], inputs["sin"][:, None]
    rotary = cos.shape[-1]
    found = []
    for value in (inputs["query"], inputs["key"]):
        turned, rest = value[..., :rotary], value[..., rotary:]
        half = torch.cat((-turned[..., rotary // 2 :], turned[..., : rotary // 2]), -1)
        found.append(torch.cat((turned * cos + half * sin, rest), -1))
    return tuple(found)


def adapters(
    kernel: str, rows: int, columns: int, width: int, rank: int, *, device: str,
    dtype: torch.dtype = torch.bfloat16, seed: int = 0,
) -> Problem:  # fmt: skip
    """A frozen linear layer of ``columns`` → ``width`` with a LoRA adapter beside it."""
    drawn = _drawer(device, dtype, seed)
    inputs = {
        "x": drawn(rows, columns),
        "weight": (drawn(width, columns, grad=False) / columns**0.5),
        "down": (drawn(rank, columns, grad=False) / columns**0.5).requires_grad_(),
        "up": drawn(width, rank),
    }
    products = ((rows, width, columns), (rows, columns, width))
    return Problem(
        kernel, f"{rows} rows {columns}→{width} rank {rank}", inputs, {"scale": 2.0},
        (drawn(rows, width, grad=False),), lora_linear, split=False, products=products,
        facts=(("rows", rows), ("columns", columns), ("rank", rank)),
    )  # fmt: skip


def lora_linear(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """As peft writes it: base and adapter apart, then their sum."""
    low = functional.linear(inputs["x"], inputs["down"])
    base = functional.linear(inputs["x"], inputs["weight"])
    return (base + options["scale"] * functional.linear(low, inputs["up"]),)


def adapted_gates(
    kernel: str, rows: int, columns: int, width: int, rank: int, *, device: str,
    dtype: torch.dtype = torch.bfloat16, seed: int = 0,
) -> Problem:  # fmt: skip
    """The last product of a SwiGLU MLP, ``columns`` → ``width``, frozen, with its adapter."""
    base = adapters(kernel, rows, columns, width, rank, device=device, dtype=dtype, seed=seed)
    gate = gates("swiglu", rows, columns, device=device, dtype=dtype, seed=seed + 1)
    inputs = {name: value for name, value in base.inputs.items() if name != "x"}
    inputs = {**inputs, "gate": gate.inputs["gate"], "values": gate.inputs["up"]}
    return base._replace(inputs=inputs, plain=lora_mlp)


def lora_mlp(inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> Tensors:
    """The gate's activation times the values, then as peft writes it."""
    product = functional.silu(inputs["gate"]) * inputs["values"]
    return lora_linear({**inputs, "x": product}, options)


def kept_only(problem: Problem) -> int:
    """Bytes of the gradients that a pass must return: no arm can have less extra memory."""
    return sum(problem.inputs[name].nbytes for name in problem.wanted)


def products_of(problems: Sequence[Problem]) -> list[tuple[int, int, int]]:
    """The distinct matrix products of the problems, in their order."""
    return list(dict.fromkeys(shape for problem in problems for shape in problem.products))
