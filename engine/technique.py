"""What a technique declares, the groups they come in, and how their files are found.

A technique is one module in ``engine/techniques``: a ``Technique`` named ``technique`` and,
beside it, plain functions named after the stages they act on. More functions may stand
there, all of them free of torch:

- ``refuse(params, plan, config)``: why it does not fit the rest of the plan, or a model of that
  config (empty while the model is unknown), with the override that mends it; or None;
- ``unavailable(params, device)``: why these parameters cannot run on that device (None while it
  is unknown), or an empty string;
- ``layer_period(params)``: after how many decoder layers it does the same again, if not after one;
- ``assumed(params, kind)``: what a prediction for a device of that kind takes for granted;
- ``effects(params, facts)``: what it does to the bytes of a category (see arithmetic.py), or a
  sentence ``NO_ARITHMETIC`` on why that cannot be reckoned.

A hook that does not run on the meta device, or not as on a GPU, has a twin of the same signature
that makes the same tensors there: ``meta_`` and the stage's name. It is no part of a script.

The declaration feeds the toggle in the workbench, the command line, the check of a plan, the
script and the tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import pkgutil
import re
from importlib import metadata
from typing import Any, get_args

import msgspec

from memwb.engine.protocol import Device

OLDEST_TORCH = "2.11"
"""What memwb itself needs."""

STAGES = (
    "arguments",
    "configure",
    "load_model",
    "adapt_model",
    "patch_model",
    "shard_model",
    "loss",
    "build_optimizer",
    "patch_optimizer",
    "batches",
    "train",
    "save",
)
"""The fixed order in which a script is built.

Hooks of the stages in ``REPLACING`` take the place of the recipe's own function; hooks of the
other stages are applied one after another, in the order of the groups.
"""

REPLACING = ("loss", "build_optimizer", "batches", "train", "save")


OTHER_NUMBERS = "rounds otherwise"
OTHER_MODEL = "trains another model"
OTHER_ROWS = "sees other rows"
OTHER_STEPS = "takes other steps"
"""Acts only after the first loss is known, which therefore is the plain run's."""


class Group(msgspec.Struct, frozen=True):
    """A family of techniques, shown together. At most one of an exclusive group is on."""

    name: str
    title: str
    exclusive: bool = False
    default: str = ""
    """The technique that acts when none of the group is named."""
    instead: str = OTHER_MODEL
    """Why one of the group owes no curve that is neither exact nor has a tolerance."""


GROUPS = (
    Group("precision", "Precision", True, "fp32", OTHER_NUMBERS),
    Group("attention", "Attention"),
    Group("quantization", "Quantized base", exclusive=True),
    Group("adapters", "Adapters", exclusive=True),
    # Before what wraps whole layers or parts of them: it wraps what stands here.
    Group("kernels", "Kernels", instead=OTHER_NUMBERS),
    Group("activations", "Activations"),
    Group("compile", "Compile"),
    Group("sequence", "Sequences", True, "concatenation", OTHER_ROWS),
    Group("loss", "Loss", exclusive=True),
    Group("optimizer", "Optimizer", True, "adamw", OTHER_STEPS),
    Group("step", "Optimizer step", instead=OTHER_STEPS),
    Group("zeroing", "Gradients between steps", True, "set_to_none", OTHER_STEPS),
)


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a technique that has none; others declare a struct of the same kind."""


class Relation(msgspec.Struct, frozen=True):
    """Names of other techniques and the reason: a conflict with each, or a need of any one."""

    names: tuple[str, ...]
    reason: str


class Technique(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of one technique. ``exact`` promises losses identical to the plain run."""

    name: str
    title: str
    group: str
    saves: str
    shrinks: tuple[str, ...] = ()
    """Categories of memory that it makes smaller: it is proposed when one of them ran out."""
    to_host: bool = False
    """Whether it moves memory to the host: nothing is gained by that on a CPU."""
    costs: str
    not_when: str
    """When it does not help."""
    source: str
    params: type[msgspec.Struct] = Params
    exact: bool = False
    tolerance: float | None = None
    """Largest relative deviation of the loss from the plain run; None when it trains another
    model (an adapter) or takes other steps (another optimizer), so that no curve is owed."""
    conflicts: tuple[Relation, ...] = ()
    needs: tuple[Relation, ...] = ()
    packages: tuple[str, ...] = ()
    """Import names of packages beyond torch and transformers that it runs on."""
    torch: str = OLDEST_TORCH
    """The oldest torch that has what it needs."""


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a technique as a form or a help text needs it."""

    name: str
    type: str
    default: Any
    description: str
    choices: tuple[Any, ...] = ()


@functools.cache
def techniques() -> dict[str, Technique]:
    """Every technique by name, in the order of the groups: found by walking the folder."""
    package = importlib.import_module("memwb.engine.techniques")
    found = [module_of(info.name).technique for info in pkgutil.iter_modules(package.__path__)]
    order = [group.name for group in GROUPS]
    found.sort(key=lambda technique: order.index(technique.group))
    return {technique.name: technique for technique in found}


def module_of(name: str) -> Any:
    """The module that declares a technique: the file has the technique's name."""
    return importlib.import_module(f"memwb.engine.techniques.{name}")


def hooks_of(name: str) -> dict[str, Any]:
    """The hooks of a technique by stage, in the order of the stages."""
    module = module_of(name)
    return {stage: getattr(module, stage) for stage in STAGES if hasattr(module, stage)}


def group_of(name: str) -> Group:
    """The group of that name."""
    return next(group for group in GROUPS if group.name == name)


def parameters_of(technique: Technique) -> tuple[Parameter, ...]:
    """The technique's parameters with type, default, description and choices."""
    info = msgspec.inspect.type_info(technique.params)
    assert isinstance(info, msgspec.inspect.StructType)
    hints = msgspec.structs.fields(technique.params)
    return tuple(
        Parameter(
            name=field.name,
            type=_type_name(field.type),
            default=None if hint.default is msgspec.NODEFAULT else hint.default,
            description=_description(hint.type),
            choices=tuple(getattr(_inner(field.type), "values", ())),
        )
        for field, hint in zip(info.fields, hints, strict=True)
    )


def unavailable(technique: Technique, params: Any = None, device: Device | None = None) -> str:
    """Why this machine cannot run the technique, or an empty string. Imports nothing heavy.

    With its parameters (else the defaults) and the device, where these decide.
    """
    if lack := lacking(technique):
        return lack
    reason = getattr(module_of(technique.name), "unavailable", None)
    return str(reason(params or technique.params(), device)) if reason else ""


def lacking(technique: Technique) -> str:
    """What the technique needs that is not installed here, or an empty string."""
    missing = _missing(technique.packages)
    if missing:
        return f"needs {' and '.join(missing)}: pip install {' '.join(missing)}"
    if release_of(torch_version()) < release_of(technique.torch):
        least = technique.torch
        return f"needs torch {least}, not {torch_version()}: pip install 'torch>={least}'"
    return ""


def closed(
    technique: Technique, parameter: Parameter, params: Any = None, device: Device | None = None
) -> dict[Any, str]:
    """The choices of a parameter that cannot run here, with the reason of each.

    Empty when no choice can: then something else stands in the way.
    """
    values = params or technique.params()
    found = {
        choice: unavailable(
            technique, msgspec.structs.replace(values, **{parameter.name: choice}), device
        )
        for choice in parameter.choices
    }
    reasons = {choice: reason for choice, reason in found.items() if reason}
    return {} if len(reasons) == len(found) else reasons


def mend_of(technique: Technique, params: Any, device: Device) -> str:
    """The override by which a technique that cannot run there does, or is off if none does.

    A value that was chosen goes back to its default, if that can run, before another changes.
    """
    chosen = [item for item in parameters_of(technique) if item.choices]
    chosen.sort(key=lambda item: getattr(params, item.name) == item.default)
    for item in chosen:
        shut = closed(technique, item, params, device)
        open_ = [choice for choice in (item.default, *item.choices) if choice not in shut]
        if getattr(params, item.name) in shut and open_:
            return f"{technique.name}.{item.name}={open_[0]}"
    return f"{technique.name}=off"


def _inner(info: Any) -> Any:
    return info.type if isinstance(info, msgspec.inspect.Metadata) else info


def _type_name(info: Any) -> str:
    inner = _inner(info)
    if isinstance(inner, msgspec.inspect.LiteralType):
        return "choice"
    if isinstance(inner, msgspec.inspect.UnionType):
        return " | ".join(_type_name(part) for part in inner.types)
    names = {"IntType": "int", "FloatType": "float", "BoolType": "bool", "StrType": "str"}
    names |= {"ListType": "list", "VarTupleType": "list"}
    return names.get(type(inner).__name__, type(inner).__name__)


def _description(hint: Any) -> str:
    metas = [part for part in get_args(hint) if isinstance(part, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), "")


@functools.cache
def torch_version() -> str:
    """The torch that is installed, told without importing it; empty without one."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("torch")
    return ""


def release_of(version: str) -> list[int]:
    """The major and minor number of a version, by which versions are compared."""
    return [int(part) for part in re.findall(r"\d+", version)[:2]]


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]
