"""The licence of a model's folder: what its card says, or a licence's own first lines."""

from __future__ import annotations

import re
from pathlib import Path

MOST = 65_536
"""Bytes that are read of a card or a licence: what tells is at the beginning."""
NAMES = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "gpl-3.0": "GPL-3.0",
    "bigcode-openrail-m": "BigCode OpenRAIL-M v1",
    "gemma": "Gemma Terms of Use",
    "llama2": "Llama 2 Community License",
    "llama3": "Llama 3 Community License",
    "llama3.1": "Llama 3.1 Community License",
    "llama3.2": "Llama 3.2 Community License",
    "llama3.3": "Llama 3.3 Community License",
    "qwen-research": "Qwen Research Licence",
}
"""How the catalogue writes what cards call by an id; any other id stands as the card has it."""
FIRST = {
    r"apache license,? version 2\.0": "Apache-2.0",
    r"mit license": "MIT",
    r"(the )?bsd 2-clause": "BSD-2-Clause",
    r"(the )?bsd 3-clause": "BSD-3-Clause",
    r"gnu general public license version 3": "GPL-3.0",
    r"gemma terms of use": "Gemma Terms of Use",
    r"(meta )?llama 2 community license": "Llama 2 Community License",
    r"(meta )?llama 3 community license": "Llama 3 Community License",
    r"llama 3\.1 community license": "Llama 3.1 Community License",
    r"llama 3\.2 community license": "Llama 3.2 Community License",
    r"llama 3\.3 community license": "Llama 3.3 Community License",
    r"qwen research license": "Qwen Research Licence",
}
"""Titles of licences, as their texts begin, in small letters."""
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")


def licence_of(folder: Path) -> str:
    """The licence by its usual name; empty where neither card nor text tells it."""
    return _of_card(_beginning(folder / "README.md")) or next(
        (found for name in FILES if (found := _of_text(_beginning(folder / name)))), ""
    )


def _of_card(text: str) -> str:
    """What the front matter of a model card says: ``license``, or its name where that is other."""
    front = re.match(r"---[ \t]*\n(.*?)\n---", text, re.DOTALL)
    if front is None:
        return ""
    for key in ("license", "license_name"):
        found = re.search(rf"^{key}:[ \t]*(?:\n[ \t]*-[ \t]*)?(\S.*)$", front[1], re.MULTILINE)
        told = found[1].split(" #")[0].strip().strip("[]'\"") if found else ""
        if re.fullmatch(r"[\w .+,()-]{1,60}", told) and told.lower() not in ("other", "unknown"):
            return NAMES.get(told.lower(), told)
    return ""


def _of_text(text: str) -> str:
    words = " ".join(text.lower().split()).lstrip("#*= ")
    return next((name for title, name in FIRST.items() if re.match(title, words)), "")


def _beginning(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST).decode("utf-8-sig", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
