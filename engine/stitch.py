"""Take functions out of our modules as text and put them together as one file.

A function brings along what it names: the imports at the head of its body and at the top of
its module, and the functions and constants of memwb that it calls. A definition of a kernel's
file brings along what registers itself on it as well: an operator's function for a GPU, its fake,
its formula for backward.
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

KERNELS = "memwb.kernels."


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
    return _piece(module, source, tree, node, name)


def _piece(module: str, source: str, tree: ast.Module, node: ast.stmt, name: str) -> Piece:
    inner = _leading_imports(node)
    text = _text(source, node, inner)
    outer = _outer_imports(module)
    named = _named(node)
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


@functools.cache
def kernel(module: str, name: str) -> tuple[Piece, ...]:
    """What a kernel's file must run so that ``name`` is whole, in the order in which it stands.

    Decorators and registrations act where they stand, and the file runs from top to bottom: its
    order is one that works. A registration's piece has no name. The file imports nothing of ours.

    Raises LookupError if the module defines no such name.
    """
    source, tree = _source(module)
    # Functions that only register themselves may all be called _.
    here = {bound for node in tree.body for bound in _defined(node)} - {"_"}
    if name not in here:
        raise LookupError(f"{module} does not define {name}")
    wanted, chosen, before = {name}, set[int](), -1
    while len(chosen) > before:
        before = len(chosen)
        for index, node in enumerate(tree.body):
            if index not in chosen and wanted & {*_defined(node), *_registered_on(node)}:
                chosen.add(index)
                wanted |= here & {*_named(node), *_defined(node)}
    pieces = []
    for index in sorted(chosen):
        node = tree.body[index]
        title = next((bound for bound in _defined(node) if bound in here), "")
        this = _piece(module, source, tree, node, title)
        pieces.append(msgspec.structs.replace(this, needs=()))
    return tuple(pieces)


def gather(wanted: Iterable[tuple[str, str]], titles: Mapping[tuple[str, str], str]) -> list[Piece]:
    """The wanted definitions, each preceded by those it refers to and that are not there yet.

    ``titles`` gives a (module, name) another name in the text.
    """
    found: dict[str, tuple[str, Piece]] = {}

    def add(module: str, name: str, above: tuple[str, ...]) -> None:
        title = titles.get((module, name), name)
        if name in above:
            return
        if module.startswith(KERNELS):
            for this in kernel(module, name):
                title = this.name or this.text
                assert found.setdefault(title, (module, this))[0] == module, title
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
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return (node.target.id,)
    return ()


def _named(node: ast.stmt) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _registered_on(node: ast.stmt) -> set[str]:
    """What a definition's decorators, or a call that stands alone, are methods of."""
    marks: list[ast.expr] = getattr(node, "decorator_list", [])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        marks = [node.value]
    found = set()
    for mark in marks:
        method = mark.func if isinstance(mark, ast.Call) else mark
        if isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name):
            found.add(method.value.id)
    return found


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


@functools.cache
def _outer_imports(module: str) -> list[ast.Import | ast.ImportFrom]:
    """The imports at the top of a module, those for type checkers among them."""
    _, tree = _source(module)
    blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
    top = [*tree.body, *(child for block in blocks for child in block)]
    return [child for child in top if isinstance(child, ast.Import | ast.ImportFrom)]


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
