"""The models a plan can name: catalogue, local folders, the Hugging Face cache, hub ids."""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.checkpoint import (
    Checkpoint,
    check_causal,
    count_parameters,
    read_checkpoint,
    tokenizer_files,
)
from memwb.engine.errors import MemwbError, nearest
from memwb.engine.licence import licence_of

# What the hub allows: 96 characters; only the oldest models have no organisation.
_HUB_ID = re.compile(r"(?=.{1,96}\Z)(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A causal language model as far as it is known without loading it."""

    name: str
    """As a plan names it."""
    source: str
    """catalogue, folder, cache or hub."""
    location: str
    """What ``from_pretrained`` is given: a hub id or an absolute folder. Empty for ``tiny``."""
    weights: str
    """pretrained when weights are at hand (or will be fetched from the hub), else random."""
    config: dict[str, Any] | None = None
    """config.json as data; None for a hub id that is not on this machine."""
    tokenizer: str = ""
    """Where a tokenizer is at hand: a hub id or folder; empty means bytes."""
    parameters: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    licence: str = ""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One architecture of the catalogue, as ``models.toml`` holds it and explains it."""

    hub: str
    licence: str
    parameters: int
    published: str
    config: dict[str, Any]
    null: tuple[str, ...] = ()


@functools.cache
def catalogue() -> dict[str, Entry]:
    """Every architecture by name, in the order of ``models.toml``."""
    text = Path(__file__).with_name("models.toml").read_bytes()
    return msgspec.toml.decode(text, type=dict[str, Entry])


def models() -> list[Model]:
    """The catalogue, then whatever else the local Hugging Face cache holds; needs no network."""
    entries = catalogue()
    found = [_listed(name, entry) for name, entry in entries.items()]
    known = {entry.hub for entry in entries.values()}
    for hub_id in _cached_ids():
        if hub_id in known or hub_id in entries:
            continue
        try:
            model = resolve(hub_id, allow_pickle=True, trust_remote_code=True)
        except MemwbError:
            continue  # another kind of model
        # Else a download that was never finished, or a folder that has the same name.
        if model.source == "cache":
            found.append(model)
    return found


def resolve(
    name: str,
    weights: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Model:
    """The model that a plan's ``model`` and ``weights`` mean on this machine.

    In this order: a catalogue name, a folder, a hub id in the local cache, a hub id to fetch.
    Touches no network. Raises MemwbError for an unknown name, a folder without a usable model,
    weights that are asked for and not there, and for pickled weights and remote code unless
    they are allowed.
    """
    entry = catalogue().get(name)
    if entry is not None:
        return _from_catalogue(name, entry, weights, allow_pickle)
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        folder = Path(path).absolute()
        checkpoint = read_checkpoint(folder)
        chosen = _weights(checkpoint, weights, allow_pickle, trust_remote_code)
        return _of_checkpoint(name, "folder", str(folder), checkpoint, chosen)
    cached = _cached(name)
    if cached is not None:
        location, checkpoint = cached
        chosen = _weights(checkpoint, weights, allow_pickle, trust_remote_code)
        return _of_checkpoint(name, "cache", location, checkpoint, chosen)
    if is_hub_id(name):
        return _from_hub(name, weights)
    raise _unknown(name)


def _from_catalogue(name: str, entry: Entry, weights: str, allow_pickle: bool) -> Model:
    """Local weights if there are some; remote code is no matter: transformers knows the type."""
    # Before organisations were asked for, gpt2 was its whole id: old caches hold it so.
    cached = (_cached(entry.hub) or _cached(name)) if entry.hub else None
    location, checkpoint = cached or (entry.hub, None)
    tokenizer = location if checkpoint and checkpoint.tokenizer else ""
    if weights != "random" and checkpoint and _has_weights(checkpoint, allow_pickle):
        count_parameters(checkpoint)  # for its error, should the download be damaged
        return _of_entry(name, entry, "catalogue", location, "pretrained", tokenizer)
    if weights == "pretrained":
        _check_fetchable(name, entry.hub)
        return _of_entry(name, entry, "catalogue", entry.hub, "pretrained", entry.hub)
    return _of_entry(name, entry, "catalogue", location, "random", tokenizer)


def _listed(name: str, entry: Entry) -> Model:
    try:
        return _from_catalogue(name, entry, "auto", allow_pickle=False)
    except MemwbError:
        # The local weights are damaged, which resolving says; the architecture still stands.
        return _of_entry(name, entry, "catalogue", entry.hub, "random", "")


def _from_hub(name: str, weights: str) -> Model:
    entry = next((entry for entry in catalogue().values() if entry.hub == name), None)
    if entry is not None and weights == "random":
        return _of_entry(name, entry, "hub", name, "random", "")
    if weights == "random":
        raise MemwbError(
            f"The architecture of {name!r} is not on this machine",
            "random weights need its config.json, and the local cache does not hold it",
            'Take weights = "pretrained", which fetches it, or a folder with its config.json.',
        )
    _check_fetchable(name, name)
    if entry is not None:
        return _of_entry(name, entry, "hub", name, "pretrained", name)
    return Model(name=name, source="hub", location=name, weights="pretrained", tokenizer=name)


def _check_fetchable(name: str, hub_id: str) -> None:
    if not hub_id:
        raise MemwbError(
            f"{name} has no published weights",
            "$.weights is pretrained",
            'Take weights = "random" or "auto".',
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise MemwbError(
            f"The weights of {name} are not on this machine",
            f"{hub_id} is no folder here and not complete in {cache_folder()}, "
            "and HF_HUB_OFFLINE forbids to fetch it",
            'Unset HF_HUB_OFFLINE, or take weights = "random" of a catalogue model or a folder.',
        )


def _weights(checkpoint: Checkpoint, weights: str, allow_pickle: bool, trusted: bool) -> str:
    """pretrained or random, or MemwbError when what is there is refused or not enough."""
    folder = checkpoint.folder
    if checkpoint.remote_code and not trusted:
        raise MemwbError(
            "This model brings Python code of its own",
            f"{folder / 'config.json'} has an auto_map",
            "If you trust its author, allow it with --trust-remote-code.",
        )
    chosen = "pretrained" if _has_weights(checkpoint, allow_pickle) else "random"
    chosen = "random" if weights == "random" else chosen
    check_causal(checkpoint, chosen)
    if chosen == "pretrained" or weights == "random":
        return chosen
    if checkpoint.pickled:
        raise MemwbError(
            "These weights are pickled, and loading a pickle can run any code",
            f"{checkpoint.pickled[0]}, and no safetensors beside it",
            "Convert it to safetensors, or allow it with --allow-pickle if you trust it, "
            'or take weights = "random".',
        )
    if weights == "pretrained":
        raise MemwbError(
            "There are no weights",
            f"{folder} holds neither model.safetensors nor model.safetensors.index.json",
            'Add the weights, or take weights = "random".',
        )
    return "random"


def _has_weights(checkpoint: Checkpoint, allow_pickle: bool) -> bool:
    return bool(checkpoint.safetensors or (allow_pickle and checkpoint.pickled))


def _of_checkpoint(
    name: str, source: str, location: str, checkpoint: Checkpoint, weights: str
) -> Model:
    config = checkpoint.config
    parameters = count_parameters(checkpoint) if weights == "pretrained" else None
    if weights == "random":
        # How stored weights are packed says nothing of random ones.
        config = {key: value for key, value in config.items() if key != "quantization_config"}
    return Model(
        name=name,
        source=source,
        location=location,
        weights=weights,
        config=config,
        tokenizer=location if checkpoint.tokenizer else "",
        parameters=parameters,
        vocabulary=_number(config, "vocab_size"),
        context=_number(config, "max_position_embeddings", "n_positions"),
        licence=licence_of(checkpoint.folder),
    )


def _of_entry(
    name: str, entry: Entry, source: str, location: str, weights: str, tokenizer: str
) -> Model:
    return Model(
        name=name,
        source=source,
        location=location,
        weights=weights,
        # A copy, all the way down: transformers writes into the rope settings it is given.
        config=copy.deepcopy(entry.config) | dict.fromkeys(entry.null),
        tokenizer=tokenizer,
        parameters=entry.parameters,
        vocabulary=_number(entry.config, "vocab_size"),
        context=_number(entry.config, "max_position_embeddings", "n_positions"),
        licence=entry.licence,
    )


def _number(config: dict[str, Any], *names: str) -> int | None:
    """The first of these values; the config of an image-and-text model keeps them one deeper."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for name in names:
            if isinstance(place.get(name), int):
                return int(place[name])
    return None


def cache_folder() -> Path:
    """The hub's local cache, by the variables that huggingface_hub itself obeys."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expanduser(os.environ[variable]))
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(home)) / "hub"


def _cached_ids() -> Iterator[str]:
    try:
        folders = sorted(cache_folder().glob("models--*"))
    except OSError:
        return
    for folder in folders:
        yield folder.name.removeprefix("models--").replace("--", "/")


def _cached(hub_id: str) -> tuple[str, Checkpoint] | None:
    """Where from_pretrained finds it (the hub id, if ``main`` is cached), and what is there.

    None for a download that is not complete: from_pretrained completes it.
    """
    if not _HUB_ID.fullmatch(hub_id):
        return None
    revision, snapshots = _snapshots(hub_id)
    for snapshot in snapshots:
        try:
            checkpoint = read_checkpoint(snapshot)
        except MemwbError:
            continue
        if not checkpoint.missing:
            return hub_id if revision else str(snapshot), checkpoint
    return None


def _snapshots(hub_id: str) -> tuple[str, list[Path]]:
    """The revision of ``main``, if it is cached, and the folders that may hold the model."""
    folder = cache_folder() / ("models--" + hub_id.replace("/", "--"))
    try:
        revision = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        revision = ""
    snapshots = [folder / "snapshots" / revision] if revision else []
    # Without main, a revision that was asked for by its hash: the hub id would not find it.
    return revision, snapshots or sorted(folder.glob("snapshots/*"))


def local_tokenizer(model: Model) -> tuple[Path, ...]:
    """The files on this machine of the tokenizer that a script loads; empty where there are none.

    Also those of a download that is not complete yet.
    """
    name = model.tokenizer
    if not name:
        return ()
    if os.path.isdir(name):
        return tokenizer_files(Path(name))
    folders = _snapshots(name)[1] if _HUB_ID.fullmatch(name) else []
    return next((files for folder in folders if (files := tokenizer_files(folder))), ())


def local_weights(model: Model) -> tuple[Path, ...]:
    """The safetensors files on this machine that a burst reads; empty where there are none.

    Also empty for weights that are stored quantized, whose headers do not tell what becomes of
    them, and for random ones.
    """
    if model.weights != "pretrained" or (model.config or {}).get("quantization_config"):
        return ()
    place = model.location
    try:
        checkpoint = read_checkpoint(Path(place)) if os.path.isdir(place) else None
    except MemwbError:
        return ()
    if checkpoint is None and (cached := _cached(place)):
        _, checkpoint = cached
    if checkpoint is None or checkpoint.missing:
        return ()
    return checkpoint.safetensors


def to_be_fetched(model: Model) -> bool:
    """Whether a burst of it begins with files from the hub."""
    place = model.location
    pretrained = model.weights == "pretrained" and bool(place)
    return pretrained and not os.path.isdir(place) and _cached(place) is None


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a hub id with its owner: ``owner/name``."""
    return "/" in text and _HUB_ID.fullmatch(text) is not None


def _unknown(name: str) -> MemwbError:
    if os.sep in name or name.startswith(("~", ".")):
        return MemwbError(
            "There is no such folder",
            f"$.model: {name!r} is not a folder of this machine",
            "Give the folder that holds config.json, or a name of `memwb models`.",
        )
    return MemwbError(
        f"There is no model {name!r}",
        f"$.model: {nearest(name, catalogue())}".removesuffix(": "),
        "See `memwb models`; a folder or a hub id (ORGANISATION/NAME) will do as well.",
    )
