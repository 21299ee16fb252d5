"""The list of models: which are meant by what is typed, and how each is written. Pure functions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from textual.content import Content
from textual.fuzzy import FuzzySearch

from memwb.engine.catalog import Model
from memwb.workbench.panels.rows import Row
from memwb.workbench.units import count, name, parameters

SOURCES = {
    "": "all",
    "catalogue": "catalogue",
    "cache": "local cache",
    "folder": "folder",
    "hub": "hub id",
}
"""Where a model comes from, and how that is called; the empty one takes all."""
NAME = 22
WIDE = 100
"""Columns from which weights, source and licence have room."""


def chosen(models: Sequence[Model], text: str, source: str) -> list[Model]:
    """The models of a source that what is typed means, the nearest first."""
    found = [each for each in models if not source or each.source == source]
    if not text:
        return found
    if is_path(text):
        return [each for each in found if each.source == "folder" and each.name.startswith(text)]
    fuzzy = FuzzySearch()
    # What is typed may be a hub id, but what is known and meant by it comes first.
    typed = [each for each in found if each.name == text and each.source == "hub"]
    known = [each for each in found if each not in typed]
    scored = [(fuzzy.match(text, f"{each.name} {each.location}")[0], each) for each in known]
    scored = [pair for pair in scored if pair[0] > 0]
    return [*(each for _, each in sorted(scored, key=lambda pair: -pair[0])), *typed]


def is_path(text: str) -> bool:
    """Whether what is typed is a folder, and no name to search for."""
    return text.startswith(("/", "./", "../", "~")) or os.path.isdir(os.path.expanduser(text))


def counts(models: Sequence[Model]) -> Mapping[str, int]:
    """How many there are of each source."""
    return Counter(each.source for each in models)


def chips(source: str, counts: Mapping[str, int]) -> Content:
    """The sources to choose from, each with how many there are of it."""
    parts = []
    for key, title in SOURCES.items():
        number = f" {counts[key]}" if counts.get(key) else ""
        look = "reverse b" if key == source else "$foreground 60%"
        parts.append(
            Content.from_markup(f"[@click=screen.source('{key}')][{look}] {title}{number} [/][/]")
        )
    return Content(" ").join(parts)


def columns(width: int) -> Content:
    """The names of the columns that there is room for."""
    figures = f"{'size':>9}{'vocabulary':>12}{'context':>9}"
    rest = f"  {'weights':<12}{'source':<13}licence" if width >= WIDE else ""
    return Content(f"  {'model':<{NAME}}{figures}{rest}")


def row(model: Model, width: int) -> Row:
    """A model as far as it is known."""
    random = model.weights == "random"
    if model.source == "folder" and model.config is None:
        # A folder on the way to one.
        return Row(model.name, ((f"  {model.name}", "plain"), ("  …", "muted")))
    known = model.parameters is not None or model.config is not None
    rest: tuple[tuple[str, str], ...] = ()
    if width >= WIDE:
        weights = ("to fetch", "warning") if model.source == "hub" else ("pretrained", "on")
        rest = (
            (f"  {'random':<12}", "warning") if random else (f"  {weights[0]:<12}", weights[1]),
            (f"{SOURCES.get(model.source, model.source):<13}", "muted"),
            (model.licence or "unknown", "muted"),
        )
    shown = name(model.name, NAME) if known else model.name
    return Row(
        model.name,
        (
            (f"  {shown:<{NAME}}", "accent"),
            (f"{parameters(model.parameters) if model.parameters else '–':>9}", "value"),
            (f"{count(model.vocabulary):>12}{count(model.context):>9}", "plain"),
            *rest,
        ),
    )


def about(model: Model | None) -> str:
    """A sentence on a model: whose it is, and what its weights will be."""
    if model is None:
        return ""
    if model.source == "folder" and model.config is None:
        return "↵ opens this folder: there is no config.json in it"
    licence = model.licence or "licence unknown"
    place = f" · {model.location}" if model.location and model.location != model.name else ""
    if model.source == "hub" and model.weights == "pretrained":
        return f"{licence} · not on this machine: its config and weights are fetched from the hub"
    if model.weights == "random":
        none = "none are here" if model.location else "none are published"
        return f"{licence}{place} · random weights, {none}; memory is the same"
    return f"{licence} · pretrained weights from {model.location}"


def hint(source: str, text: str, read: bool) -> str:
    """What stands in the place of an empty list."""
    if not read:
        return "reading…"
    if text:
        return f"↵ takes {text!r} as a folder or hub id"
    return {
        "cache": "the local Hugging Face cache holds no other model",
        "folder": "type a folder, as ./my-model or ~/models",
        "hub": "type a hub id, as owner/name",
    }.get(source, "nothing here")
