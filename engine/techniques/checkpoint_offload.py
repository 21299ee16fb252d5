"""Activation checkpointing whose layer inputs wait on the host, fetched back one layer ahead."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Relation, Technique

if TYPE_CHECKING:
    import torch

technique = Technique(
    name="checkpoint_offload",
    title="checkpoint offload",
    group="activations",
    shrinks=("activations",),
    to_host=True,
    saves="What checkpointing leaves on the GPU: the layers' inputs, all but two of them.",
    costs="A second forward pass; pinned host memory of layers x tokens x hidden; PCIe traffic.",
    not_when="On a CPU there is no other memory: there it is plain checkpointing of each layer.",
    source="arXiv:1910.02054 (checkpoints on the host); torch.utils.checkpoint",
    exact=True,
    conflicts=(
        Relation(("activation_checkpointing",), "it checkpoints every layer itself"),
        Relation(("torch_compile",), "its copies run between operators, where graphs would break"),
    ),
)


def patch_model(model: Any) -> Any:
    """Checkpoint every decoder layer; on a GPU its input goes to the host until backward."""
    import torch

    from memwb.engine.recipe import decoder_layers

    device = next(model.parameters()).device
    keeper = None
    if device.type == "cuda":
        keeper = HostKeeper(torch.cuda.Stream(device), in_flight=1)
    for layer in decoder_layers(model):
        layer.forward = checkpointed(layer.forward, keeper)
    return model


def checkpointed(forward: Any, keeper: HostKeeper | None) -> Any:
    """The forward function under checkpoint, its first argument kept by the keeper, if any."""
    from functools import wraps

    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.checkpoint import checkpoint

    @wraps(forward)
    def run(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Only the hidden states are given to checkpoint as an input that it saves. What all
        # layers share (positions, mask) stays where it is. Inside, checkpoint's own hooks act.
        def rest(hidden: torch.Tensor) -> Any:
            return forward(hidden, *args, **kwargs)

        if keeper is None:
            return checkpoint(rest, hidden, use_reentrant=False)
        with saved_tensors_hooks(pack, keeper.unpack):
            return checkpoint(rest, hidden, use_reentrant=False)

    def pack(tensor: torch.Tensor) -> Any:
        # Some versions of torch save an empty tensor beside the inputs.
        return keeper.pack(tensor) if keeper is not None and tensor.numel() else tensor

    return run


class Away:
    """A tensor kept for backward: on the device, on the host, or on its way.

    ``tensor`` is the copy on the device (None while only the host has one), ``copied`` the event
    that ends the copy in progress, and ``before`` a weak reference to the one that was kept
    before it: the next that backward will want.
    """

    def __init__(self, tensor: torch.Tensor, host: torch.Tensor, before: Any) -> None:
        self.tensor: torch.Tensor | None = tensor
        self.host = host
        self.device = tensor.device
        self.before = before
        self.copied: Any = None


class HostKeeper:
    """Keeps tensors on the host between forward and backward, copied by a stream of its own.

    The copying stream and the computing one only ever wait for each other on the GPU; the host
    does not. A device tensor is let go after the computing stream has been told to wait for its
    copy, so that its memory, which belongs to that stream, is free neither too early nor, as
    with ``record_stream``, at a time that depends on how far ahead the host runs. A stream of
    None copies at once.
    """

    def __init__(self, stream: torch.cuda.Stream | None, in_flight: int) -> None:
        self.stream = stream
        self.in_flight = in_flight
        self.leaving: deque[Away] = deque()
        self.last: weakref.ref[Away] | None = None
        self.buffers: dict[Any, list[torch.Tensor]] = {}

    def pack(self, tensor: torch.Tensor) -> Away:
        """Begin to copy a tensor out; at most ``in_flight`` of them are still on the device."""
        kind = (tensor.shape, tensor.stride(), tensor.dtype)
        unused = self.buffers.setdefault(kind, [])
        host = unused.pop() if unused else host_buffer(tensor)
        away = Away(tensor, host, self.last)
        away.copied = copy_out(tensor, host, self.stream)
        # Whoever is done with it, after backward or without one, gives its buffer back. Copies
        # follow one another on one stream: the next one into it comes after the last out of it.
        weakref.finalize(away, unused.append, host)
        self.last = weakref.ref(away)
        self.leaving.append(away)
        while len(self.leaving) > self.in_flight:
            gone = self.leaving.popleft()
            wait_for(gone.copied)
            gone.tensor = None
        return away

    def unpack(self, kept: Any) -> torch.Tensor:
        """The tensor on its device; the copy back of the one kept before it begins."""
        if not isinstance(kept, Away):
            return kept
        # Those that have not left yet are the first to be wanted: they stay.
        self.leaving.clear()
        tensor = self.fetch(kept)
        wait_for(kept.copied)
        before = kept.before() if kept.before is not None else None
        if before is not None:
            self.fetch(before)
        return tensor

    def fetch(self, away: Away) -> torch.Tensor:
        """The tensor on its device, perhaps still on its way: the copy back has begun."""
        if away.tensor is None:
            away.tensor, away.copied = copy_back(away.host, away.device, self.stream)
        return away.tensor


def host_buffer(tensor: torch.Tensor) -> torch.Tensor:
    """Memory of the host for a tensor's bytes; pinned, so that copies need not wait for it."""
    import torch

    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)


def copy_out(tensor: torch.Tensor, host: torch.Tensor, stream: Any) -> Any:
    """Copy to the host once what computes the tensor is done; gives the event of its end."""
    import torch

    if stream is None:
        host.copy_(tensor)
        return None
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        host.copy_(tensor, non_blocking=True)
        return stream.record_event()


def copy_back(host: torch.Tensor, device: torch.device, stream: Any) -> tuple[torch.Tensor, Any]:
    """A copy on the device, perhaps still on its way, and the event of its end.

    Its memory is the computing stream's, so the copy waits for what that stream still does
    there, and so that it can be freed there like any other.
    """
    import torch

    tensor = torch.empty_like(host, device=device)
    if stream is None:
        return tensor.copy_(host), None
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        tensor.copy_(host, non_blocking=True)
        return tensor, stream.record_event()


def wait_for(event: Any) -> None:
    """Have the computing stream wait for a copy; the host goes on."""
    import torch

    if event is not None:
        torch.cuda.current_stream().wait_event(event)


def effects(params: Any, facts: Facts) -> list[Effect]:
    """Two inputs of layers on the GPU; on a CPU, as checkpointing has it, one of each layer."""
    from memwb.engine.techniques.activation_checkpointing import kept_inputs

    if facts.device == "cpu":
        return [kept_inputs(facts, 1, "input of the layer, on a CPU: ", "", each=True)]
    count = min(2, facts.shape.layers)
    rest = f"; of {facts.shape.layers} layers the other inputs are on the host"
    return [kept_inputs(facts, count, "at most ", rest, each=False)]
