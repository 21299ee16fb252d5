"""A licence is told as the model's folder tells it, and unknown where it does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from memwb.engine import catalog
from memwb.engine.licence import licence_of

APACHE = "\n             Apache License\n       Version 2.0, January 2004\n"
LLAMA = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024"


@pytest.mark.parametrize(
    ("card", "licence", "told"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "", "Apache-2.0"),
        ("---\r\nlanguage: en\r\nlicense: mit\r\n---\r\n", APACHE, "MIT"),
        ("---\nlicense:\n- llama3.2\ntags: [a]\n---", "", "Llama 3.2 Community License"),
        ("---\nlicense: other\nlicense_name: 'qwen-research'\n---", "", "Qwen Research Licence"),
        ("---\nlicense: cc-by-nc-4.0 # not for sale\n---", "", "cc-by-nc-4.0"),
        ("---\nlicense: other\n---", LLAMA, "Llama 3.1 Community License"),
        ("", APACHE, "Apache-2.0"),
        ("", "# MIT License\n\nCopyright (c) somebody", "MIT"),
        ("# A model\nlicense: mit\n", "", ""),
        ("---\ntags: [license]\n---\nlicense: mit", "All rights are ours: no MIT License", ""),
        ("---\nlicense: \x1b[31mmit\n---", "", ""),
        ("---\nlicense: unknown\n---", "", ""),
        ("", "", ""),
    ],
)
def test_a_licence_is_read_of_the_card_or_of_its_text(
    tmp_path: Path, card: str, licence: str, told: str
) -> None:
    if card:
        (tmp_path / "README.md").write_bytes(card.encode())
    if licence:
        (tmp_path / "LICENSE").write_text(licence)
    assert licence_of(tmp_path) == told


def test_folders_and_cached_models_tell_their_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = msgspec.json.encode(catalog.resolve("tiny").config)
    snapshot = tmp_path / "hub/models--owner--name/snapshots/abc"
    for folder in (tmp_path / "mine", snapshot):
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(config)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert catalog.resolve(str(tmp_path / "mine")).licence == "MIT"
    assert catalog.resolve("owner/name").licence == "MIT"
