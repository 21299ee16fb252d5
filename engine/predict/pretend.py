"""Makes a script believe that it runs on the target, while its tensors are on torch's meta device.

A torch-function mode answers what tensors are asked about their device, sends whatever names a
device to meta, and calls for some functions what the target's kernels are (attention, autocast).
What the script would ask of the CUDA runtime is answered by what does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodWrapperType
from typing import Any
from unittest import mock

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from memwb.engine.errors import CannotPredict
from memwb.engine.gpus import capability
from memwb.engine.predict import flash
from memwb.engine.predict.autocast import Autocast
from memwb.engine.predict.libraries import grouped_products, nothing_launched
from memwb.engine.predict.meter import MetaMeter
from memwb.engine.predict.places import MOST_VALUES, Place
from memwb.engine.predict.targets import Target

Table = Mapping[Any, Callable[..., Any]]
"""What to call in place of a torch function."""


_autocasts: Callable[[], bool] = torch._C._is_any_autocast_enabled


class Pretend(TorchFunctionMode):
    """See the module. ``kind`` is cuda or cpu; ``instead`` is what the target's kernels do."""

    def __init__(self, kind: str, meter: MetaMeter, instead: Table) -> None:
        super().__init__()
        self.kind = kind
        self.device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        self.autocast = Autocast(kind)
        self._meter = meter
        tensor: Any = torch.Tensor
        self._answers: dict[Any, Callable[..., Any]] = {
            tensor.device.__get__: self._device_of,
            tensor.is_meta.__get__: self._true_meta,
            tensor.is_cuda.__get__: lambda one: self._device_of(one).type == "cuda",
            tensor.is_cpu.__get__: lambda one: self._device_of(one).type == "cpu",
            tensor.get_device: lambda one: -1 if self._device_of(one).type == "cpu" else 0,
            tensor.to: self._to,
            tensor.cpu: lambda one, **_: self._move(one, Place.HOST, None, False),
            tensor.cuda: lambda one, *_, **__: self._move(one, Place.TARGET, None, False),
            tensor.backward: self._backward,
            tensor.pin_memory: lambda one, *_: one,
            tensor.is_pinned: lambda one, *_: False,
            torch.equal: self._equal,
            **_INITIAL,
            **instead,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = self._answers.get(func)
        if type(func) is MethodWrapperType:
            # What a tensor is asked: of all that comes here the most.
            return func(*args) if answer is None else answer(*args)
        kwargs = kwargs or {}
        if _autocasts() and self.autocast.on:
            args, kwargs = self.autocast.cast(func, args, kwargs)
        if answer is not None:
            return answer(*args, **kwargs)
        # Looked up each time: whoever watches phases has put a function of its own there.
        if func is torch.autograd.backward:
            return self._run_backward(*args, **kwargs)
        if kwargs:
            if "pin_memory" in kwargs:
                kwargs = {**kwargs, "pin_memory": False}
            if kwargs.get("device") is not None:
                return self._made(func, args, kwargs)
        if func in _FACTORIES:
            return self._made(func, args, {**kwargs, "device": "cpu"})
        return func(*args, **kwargs)

    def _place_of(self, device: Any) -> Place:
        """Which place a device's name means to the script."""
        kind = torch.device(device).type if not isinstance(device, int) else "cuda"
        if kind == "meta":
            return Place.NOWHERE
        return Place.TARGET if kind == self.kind else Place.HOST

    def _device_of(self, tensor: torch.Tensor) -> torch.device:
        place = self._meter.places.place(tensor)
        if place is Place.TARGET:
            return self.device
        return torch.device("cpu" if place is Place.HOST else "meta")

    def _equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Of values that are not known it is taken that they differ."""
        if one.is_meta or other.is_meta:
            return False
        return torch.equal(one, other)

    def _true_meta(self, tensor: torch.Tensor) -> bool:
        return self._meter.places.place(tensor) is Place.NOWHERE

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """A factory that names a device."""
        place = self._place_of(kwargs["device"])
        with self._meter.placing(place):
            if place is Place.NOWHERE:
                return func(*args, **kwargs)
            if func in _FILLED:
                # A result is only known to be worth its values once it has a shape and a type.
                self._meter.paused, before = True, self._meter.paused
                made = func(*args, **{**kwargs, "device": "meta"})
                self._meter.paused = before
                if _is_data(made) or made.numel() == 1:
                    return func(*args, **{**kwargs, "device": "cpu"})
            if func in _LISTED:
                return func(*args, **{**kwargs, "device": "cpu"})
            return func(*args, **{**kwargs, "device": "meta"})

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        device, dtype, copy = kwargs.get("device"), kwargs.get("dtype"), kwargs.get("copy", False)
        rest = list(args)
        if rest and isinstance(rest[0], torch.Tensor):
            device, dtype = self._device_of(rest[0]), rest[0].dtype
        elif rest:
            if isinstance(rest[0], str | int | torch.device):
                device = rest.pop(0)
            if rest and isinstance(rest[0], torch.dtype):
                dtype = rest.pop(0)
            # What follows are non_blocking and copy.
            copy = copy or (len(rest) > 1 and bool(rest[1]))
        layout = {"memory_format": kwargs["memory_format"]} if kwargs.get("memory_format") else {}
        if device is None:
            return torch.Tensor.to(tensor, dtype or tensor.dtype, copy=copy, **layout)
        return self._move(tensor, self._place_of(device), dtype, copy, **layout)

    def _move(
        self,
        tensor: torch.Tensor,
        place: Place,
        dtype: torch.dtype | None,
        copy: bool,
        **layout: Any,
    ) -> torch.Tensor:
        dtype = dtype or tensor.dtype
        here = self._meter.places.place(tensor)
        # On a CPU target the data are where they are needed.
        if here == place or (self.kind == "cpu" and not tensor.is_meta and place is Place.TARGET):
            return torch.Tensor.to(tensor, dtype, copy=copy, **layout)
        with self._meter.placing(place):
            if tensor.is_meta or _is_data(tensor) or tensor.numel() == 1:
                if place is Place.NOWHERE and not tensor.is_meta:
                    return torch.Tensor.to(tensor, "meta", dtype)
                return torch.Tensor.to(tensor, dtype, copy=True, **layout)
            return torch.Tensor.to(tensor, "meta", dtype)

    def valueless(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or what stands for it on meta if it has values: backward needs none."""
        if tensor.is_meta:
            return tensor
        with torch.utils._python_dispatch._disable_current_modes():
            return self._meter.twin(tensor)

    def _backward(
        self,
        tensor: torch.Tensor,
        gradient: Any = None,
        retain_graph: Any = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        # Within a mode's own answer the mode is off, and here it is needed all the way down.
        with self:
            torch.autograd.backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)

    def _run_backward(
        self,
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        autograd: Any = torch.autograd
        roots = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
        given = autograd._tensor_or_tensors_to_tuple(grad_tensors, len(roots))
        gradients = autograd._make_grads(roots, given, is_grads_batched=False)
        keep = create_graph if retain_graph is None else retain_graph
        with self:
            autograd.graph._engine_run_backward(
                roots,
                gradients,
                keep,
                create_graph,
                inputs or (),
                allow_unreachable=True,
                accumulate_grad=True,
            )


_FACTORIES = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))
"""What makes tensors on the host when it is told no device: weights, among others."""


def _unfilled(fill: Callable[..., Any]) -> Callable[..., Any]:
    """A function that fills a tensor with values, where there are none: it looks at layouts and
    computes bounds for longer than all the rest of making a layer takes."""
    return lambda tensor, *args, **kwargs: (
        tensor if tensor.is_meta else fill(tensor, *args, **kwargs)
    )


_INITIAL = {
    fill: _unfilled(fill)
    for fill in (init.constant_, init.kaiming_uniform_, init.normal_, init.uniform_)
}

_LISTED = frozenset((torch.tensor, torch.as_tensor, torch.linspace, torch.logspace))
"""Factories of few values, all of them known."""

_FILLED = frozenset(
    (
        torch.arange,
        torch.zeros,
        torch.ones,
        torch.full,
        torch.zeros_like,
        torch.ones_like,
        torch.full_like,
        torch.eye,
    )
)
"""Factories whose values are known."""


def _is_data(tensor: torch.Tensor) -> bool:
    """Whether it is of the kind that comes from data: few whole numbers or truth values."""
    counts = not tensor.is_floating_point() and not tensor.is_complex()
    return counts and tensor.numel() <= MOST_VALUES


@contextlib.contextmanager
def pretending(target: Target, meter: MetaMeter) -> Iterator[torch.device]:
    """Pretend to be on the target; gives the device as the script is to see it."""
    mode = Pretend(target.kind, meter, target.instead)
    meter.pretence = mode
    with contextlib.ExitStack() as stack:
        if target.kind == "cuda":
            for name, value in _cuda_runtime(target).items():
                stack.enter_context(mock.patch(f"torch.{name}", value))
            # Its arguments are looked at before any mode is asked: it takes real streams alone.
            stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", _no_stream))
            stack.enter_context(flash.installed(target.arch))
            stack.enter_context(nothing_launched())
        stack.enter_context(grouped_products())
        clear = torch.clear_autocast_cache
        forget = mode.autocast.clear
        stack.enter_context(
            mock.patch.object(torch, "clear_autocast_cache", lambda: (clear(), forget()))
        )
        for target, name, value in _seen_from_within(mode):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mode)
        yield mode.device


def _seen_from_within(mode: Pretend) -> list[tuple[Any, str, Any]]:
    """What runs inside of an operator, where the mode is off, and is to see the pretended device.

    Hooks of saved tensors (offloading) are given the mode back; checkpointing compares what it
    recomputes by shape and type alone, since it asks for the device once inside and once outside,
    and is told whose autocast it restores where it is given no tensor to ask for its device;
    torch's fused loss is told the device that it chooses its chunks and its precision by.
    """
    hooks: Any = torch.autograd.graph.saved_tensors_hooks
    original = hooks.__init__

    def within(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(value: Any) -> Any:
            if torch._C._len_torch_function_stack():
                return function(value)
            with mode:
                return function(value)

        return call

    def init(self: Any, pack_hook: Callable[..., Any], unpack_hook: Callable[..., Any]) -> None:
        pack = within(pack_hook)
        original(self, lambda saved: pack(mode.valueless(saved)), within(unpack_hook))

    def metadata(tensor: torch.Tensor) -> dict[str, Any]:
        return {"shape": tensor.shape, "dtype": tensor.dtype}

    def address(storage: torch.UntypedStorage) -> int:
        """Scripts tell storages apart by their addresses, of which meta has none."""
        return at(storage) or int(storage._cdata)

    storages: Any = torch.UntypedStorage
    at = storages.data_ptr
    checks = {**checkpoint._allowed_determinism_checks_to_fns, "default": metadata}
    seen: list[tuple[Any, str, Any]] = [
        (hooks, "__init__", init),
        (storages, "data_ptr", address),
        (checkpoint, "_allowed_determinism_checks_to_fns", checks),
        (checkpoint.DefaultDeviceType, "_default_device_type", mode.kind),
    ]
    # Torch built for CUDA asks a driver whether a graph is captured: it need not be there, and a
    # GPU that is there is not to be started.
    asks = "_accelerator_graph_capture_health_check"
    if hasattr(torch.optim.Optimizer, asks):
        seen.append((torch.optim.Optimizer, asks, lambda *_: None))
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is not None:
        choose = options._adjust

        def adjust(self: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
            return choose(self, *args, device=mode.device, **kwargs)

        seen.append((options, "_adjust", adjust))
    return seen


def _cuda_runtime(target: Target) -> dict[str, Any]:
    """What a script may ask of torch's CUDA runtime, with answers that need none."""
    version = capability(target.arch)
    properties = _Properties(target)
    return {
        "cuda.get_device_properties": lambda *_: properties,
        "cuda.get_device_name": lambda *_: properties.name,
        "cuda.is_available": lambda: True,
        "cuda.get_device_capability": lambda *_: version,
        "cuda.is_bf16_supported": lambda including_emulation=True: (
            including_emulation or version >= (8, 0)
        ),
        # Of a device on which nothing is yet: asked before a model is loaded.
        "cuda.mem_get_info": lambda *_: (target.capacity, target.capacity),
        "cuda.memory_reserved": lambda *_: 0,
        "cuda.memory_allocated": lambda *_: 0,
        "cuda.current_device": lambda: 0,
        "cuda.is_current_stream_capturing": lambda: False,
        "cuda.device_count": lambda: 1,
        "cuda.synchronize": lambda *_: None,
        "cuda.get_rng_state": lambda *_: torch.get_rng_state(),
        "cuda.set_rng_state": lambda *_: None,
        "cuda.Stream": _Nothing,
        "cuda.Event": _Nothing,
        "cuda.current_stream": _Nothing,
        "cuda.stream": _Nothing,
        "cuda.device": _Nothing,
        "cuda.amp.common.amp_definitely_not_available": lambda: False,
    }


class _Properties:
    """What ``torch.cuda.get_device_properties`` tells of a target."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.major, self.minor = capability(target.arch)
        self.total_memory = target.capacity
        self._multiprocessors = target.multiprocessors

    @property
    def multi_processor_count(self) -> int:
        """By which kernels choose how many rows of partial sums they need."""
        if self._multiprocessors is None:
            raise CannotPredict(
                "A kernel asks how many multiprocessors the target has",
                f"nobody tells it of {self.name}",
                "Predict for a GPU of the list: `memwb gpus`.",
            )
        return self._multiprocessors


def _no_stream(tensor: torch.Tensor, stream: Any) -> None:
    """Nothing is under way, and no memory waits for it."""


class _Nothing:
    """A stream or an event of a device that does nothing: everything is over at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Whatever it is made of."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: True if name == "query" else _Nothing()
