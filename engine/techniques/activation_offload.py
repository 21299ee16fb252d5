"""Large saved tensors of the decoder on the host between forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.technique import Relation, Technique

if TYPE_CHECKING:
    import torch

    from memwb.engine.techniques.checkpoint_offload import HostKeeper


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of activation offloading."""

    min_size: Annotated[
        float, Meta(ge=0, description="MiB below which a saved tensor stays on the GPU")
    ] = 1.0


technique = Technique(
    name="activation_offload",
    title="activation offload",
    group="activations",
    shrinks=("activations",),
    to_host=True,
    saves="What the decoder keeps for backward in tensors of min_size and more, but for a few.",
    costs="PCIe: every such byte goes out and back; pinned host memory of the same size.",
    not_when="On a CPU there is no other memory: there the tensors simply stay.",
    source="https://docs.pytorch.org/docs/stable/autograd.html (hooks for saved tensors)",
    params=Params,
    exact=True,
    conflicts=(
        Relation(("checkpoint_offload",), "that one offloads the little that checkpointing keeps"),
        Relation(("torch_compile",), "its copies run between operators, where graphs would break"),
    ),
)

NO_ARITHMETIC = "what leaves depends on what the kernels of each layer keep; a burst measures it"


def patch_model(model: Any, *, min_size: float) -> Any:
    """On a GPU, copy what the decoder saves for backward out, and back when backward nears it."""
    import torch

    from memwb.engine.techniques.checkpoint_offload import HostKeeper

    device = next(model.parameters()).device
    if device.type == "cuda":
        keeper = HostKeeper(torch.cuda.Stream(device), in_flight=4)
        offload_saved(model, keeper, int(min_size * 2**20))
    return model


def offload_saved(model: Any, keeper: HostKeeper, least: int) -> None:
    """Run the decoder under hooks by which the keeper keeps what is saved for backward.

    That is each storage of ``least`` bytes and more, once, however many views of it are saved.
    Weights, and views of them, stay: they are on the device anyway.
    """
    import weakref
    from functools import wraps

    import torch
    from torch.autograd.graph import saved_tensors_hooks

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = base.get_decoder()
    forward = decoder.forward
    kept: dict[int, tuple[Any, int, Any]] = {}
    weights: set[int] = set()

    def pack(tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.nbytes() < max(least, 1) or storage.data_ptr() in weights:
            return tensor
        # An address comes again once its storage is gone, and a storage may be written to.
        alive, version, known = kept.get(storage.data_ptr(), (type(None), 0, type(None)))
        away = known() if alive() is storage and version == tensor._version else None
        if away is None:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            away = keeper.pack(whole.set_(storage))
            kept[storage.data_ptr()] = weakref.ref(storage), tensor._version, weakref.ref(away)
        return away, tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()

    def unpack(packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        away, dtype, offset, shape, stride = packed
        storage = keeper.unpack(away).untyped_storage()
        view = torch.empty(0, dtype=dtype, device=storage.device)
        return view.set_(storage, offset, shape, stride)

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        kept.clear()
        weights.clear()
        for weight in (*model.parameters(), *model.buffers()):
            weights.add(weight.untyped_storage().data_ptr())
        with saved_tensors_hooks(pack, unpack):
            return forward(*args, **kwargs)

    decoder.forward = run
