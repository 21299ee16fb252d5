"""Take functions out of our modules as text and put them together as one file.

A function brings along what it names: the imports at the head of its body and at the top of
its module, and the functions and constants of memwb that it calls.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec


class Piece(msgspec.Struct, frozen=True):
    """A top-level definition as text, without the imports that stood inside it."""

    name: str
    text: str
    imports: tuple[str, ...]
    needs: tuple[tuple[str, str], ...]
    """(module, name) of the definitions of memwb that the text refers to."""


@functools.cache
def piece(module: str, name: str) -> Piece:
    """The definition ``name`` of ``module``, read from the module's file.

    Raises LookupError if the module defines no such name.
    """
    source, tree = _source(module)
    node = next((node for node in tree.body if name in _defined(node)), None)
    if node is None:
        raise LookupError(f"{module} does not define {name}")
    inner = _leading_imports(node)
    text = _text(source, node, inner)
    outer = _outer_imports(tree)
    named = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    imports: list[str] = []
    needs: list[tuple[str, str]] = []
    for statement in [*inner, *outer]:
        for alias in statement.names:
            bound = (alias.asname or alias.name).partition(".")[0]
            if statement in outer and bound not in named:
                continue
            if isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
                if (statement.module or "").startswith("memwb."):
                    needs.append((statement.module or "", alias.name))
                else:
                    imports.append(f"from {statement.module} import {_alias(alias)}")
            elif isinstance(statement, ast.Import):
                imports.append(f"import {_alias(alias)}")
    here = {bound for other in tree.body for bound in _defined(other)}
    needs += [(module, other) for other in sorted(here & named) if other != name]
    return Piece(name, text, tuple(dict.fromkeys(imports)), tuple(dict.fromkeys(needs)))


def gather(wanted: Iterable[tuple[str, str]], titles: Mapping[tuple[str, str], str]) -> list[Piece]:
    """The wanted definitions, each preceded by those it refers to and that are not there yet.

    ``titles`` gives a (module, name) another name in the text.
    """
    found: dict[str, tuple[str, Piece]] = {}

    def add(module: str, name: str, above: tuple[str, ...]) -> None:
        title = titles.get((module, name), name)
        if name in above:
            return
        if title in found:
            assert found[title][0] == module, f"{module} and {found[title][0]} define {title}"
            return
        this = piece(module, name)
        for need in this.needs:
            add(*need, (*above, name))
        text = _renamed(this.text, name, title)
        found[title] = (module, msgspec.structs.replace(this, name=title, text=text))

    for module, name in wanted:
        add(module, name, ())
    return [this for _, this in found.values()]


def import_block(imports: Iterable[str]) -> str:
    """Import statements sorted the usual way: the standard library, then everything else."""
    merged: dict[str, set[str]] = {}
    plain = set()
    for statement in imports:
        if statement.startswith("from "):
            module, _, name = statement.removeprefix("from ").partition(" import ")
            merged.setdefault(module, set()).add(name)
        else:
            plain.add(statement)
    blocks = []
    for standard in (True, False):
        direct = sorted(line for line in plain if _standard(line.split()[1]) == standard)
        froms = [
            _from(module, sorted(merged[module], key=_import_order))
            for module in sorted(merged)
            if _standard(module) == standard
        ]
        if direct or froms:
            blocks.append("\n".join([*direct, *froms]))
    return "\n\n".join(blocks)


@functools.cache
def _source(module: str) -> tuple[str, ast.Module]:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    source = Path(spec.origin).read_text(encoding="utf-8")
    return source, ast.parse(source)


def _defined(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Assign):
        return tuple(target.id for target in node.targets if isinstance(target, ast.Name))
    return ()


def _leading_imports(node: ast.stmt) -> list[ast.Import | ast.ImportFrom]:
    if not isinstance(node, ast.FunctionDef):
        return []
    found: list[ast.Import | ast.ImportFrom] = []
    for child in node.body[ast.get_docstring(node) is not None :]:
        if not isinstance(child, ast.Import | ast.ImportFrom):
            break
        found.append(child)
    return found


def _text(source: str, node: ast.stmt, without: list[ast.Import | ast.ImportFrom]) -> str:
    lines = source.splitlines()
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
    gone = {n for child in without for n in range(child.lineno, (child.end_lineno or 0) + 1)}
    kept: list[str] = []
    for number in range(first, (node.end_lineno or 0) + 1):
        line = lines[number - 1]
        # The blank line that followed the imports goes with them.
        if number in gone or (not line and number - 1 in gone):
            continue
        kept.append(line)
    return "\n".join(kept)


def _outer_imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """The imports at the top of a module, then those that only type checkers see."""
    blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
    found = [*tree.body, *(child for block in blocks for child in block)]
    return [child for child in found if isinstance(child, ast.Import | ast.ImportFrom)]


def _renamed(text: str, name: str, title: str) -> str:
    first, newline, rest = text.partition("\n")
    first = re.sub(rf"^def {name}\(", f"def {title}(", first)
    if len(first) > 100 and (parts := re.fullmatch(r"(def \w+\()(.*)(\) -> .*)", first)):
        first = f"{parts[1]}\n    {parts[2]}\n{parts[3]}"
    return first + newline + rest


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _import_order(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions, as isort has it."""
    return (not name.isupper(), not name[0].isupper(), name)


def _alias(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
