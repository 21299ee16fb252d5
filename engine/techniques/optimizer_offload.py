"""The optimizer's states and its step on the host, so that the GPU never holds them."""

from __future__ import annotations

from typing import Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique
from memwb.engine.techniques.adamw import adamw_states

technique = Technique(
    name="optimizer_offload",
    title="optimizer offload",
    group="step",
    shrinks=("gradients", "optimizer"),
    to_host=True,
    saves="All optimizer states, and gradients but those on their way to the host.",
    costs="A second copy of each trained weight and its gradient on the host; steps as slow as it.",
    not_when="Few weights are trained (adapters). On a CPU everything is on the host already.",
    source="arXiv:2101.06840",
    # The same formula on another device: of the at most 7 bf16 roundings of one update each may
    # fall the other way (2^-8). The loss's whole change, which is at most the loss, is off by as
    # much: 7 * 2^-8 < 2^-5.
    tolerance=2**-5,
    conflicts=(
        Relation(
            ("paged_adamw", "paged_adamw_8bit"),
            "there is nothing to page where all states are on the host",
        ),
        Relation(
            ("optimizer_in_backward",), "a step on the host waits until every gradient has come"
        ),
        Relation(("amp_fp16",), "its scaler looks for the gradients on the GPU"),
    ),
)


def patch_optimizer(model: Any, optimizer: Any) -> Any:
    """Give the optimizer twins of the weights on the host; on a CPU it has them already."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if all(weight.device.type == "cpu" for weight in weights):
        return optimizer
    return step_on_twins(optimizer)


def step_on_twins(optimizer: Any) -> Any:
    """Have the optimizer step twins of its weights on the host and write the weights back.

    A gradient leaves on a side stream as soon as it is complete and is freed on the GPU; those
    of several micro-batches add up on the host.
    """
    from collections import deque
    from types import MethodType

    import torch

    twins: dict[Any, Any] = {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            twins[weight] = torch.nn.Parameter(host_copy(weight.detach()))
        group["params"] = [twins[weight] for weight in group["params"]]
    device = next(iter(twins)).device
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    under_way: deque[tuple[Any, Any, Any]] = deque()

    def depart(weight: Any) -> None:
        gradient, weight.grad = weight.grad, None
        if side is None:
            under_way.append((twins[weight], host_copy(gradient), None))
        else:
            # Not before the gradient is computed, and its memory not reused before it is copied.
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                copy = host_copy(gradient)
            gradient.record_stream(side)
            under_way.append((twins[weight], copy, side.record_event()))
        # So that few gradients wait on the GPU, and with accumulation few copies beside the sums.
        while len(under_way) > 2:
            arrive()

    def arrive() -> None:
        twin, copy, copied = under_way.popleft()
        if copied is not None:
            copied.synchronize()
        twin.grad = copy if twin.grad is None else twin.grad.add_(copy)

    inner = optimizer.step.__func__

    def step(optimizer: Any, closure: Any = None) -> Any:
        while under_way:
            arrive()
        if side is not None:
            # The twins may still be on their way back from the last step.
            torch.cuda.current_stream(device).synchronize()
        result = inner(optimizer, closure)
        with torch.no_grad():
            for weight, twin in twins.items():
                if twin.grad is not None:
                    weight.copy_(twin, non_blocking=True)
        return result

    for weight in twins:
        weight.register_post_accumulate_grad_hook(depart)
    optimizer.step = MethodType(step, optimizer)
    return optimizer


def host_copy(tensor: Any) -> Any:
    """A copy on the host, in pinned memory where it comes from a GPU: then it is asynchronous."""
    import torch

    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def effects(params: Any, facts: Facts) -> list[Effect]:
    """The states of AdamW, which another optimizer makes smaller, leave the GPU."""
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=adamw_states(facts) if facts.device == "cpu" else 0,
            formula="the optimizer's states are on the host; on a CPU nothing changes",
        )
    ]
