"""``memwb --serve`` before it listens; tests/e2e/test_browser.py has the rest."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from memwb.workbench.cli import main
from memwb.workbench.headless import serve


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, list[str]]]:
    """What it would have listened on."""
    found: list[tuple[str, int, list[str]]] = []

    async def listen(host: str, port: int, words: list[str]) -> None:
        found.append((host, port, words))

    monkeypatch.setattr(serve, "_listen", listen)
    return found


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
     ("gpu-box", True)],
)  # fmt: skip
def test_only_this_machine_reaches_it_unless_asked(
    listened: list[Any], capsys: pytest.CaptureFixture[str], host: str, warned: bool
) -> None:
    assert main(["serve", "--host", host]) == 130
    assert listened[0][:2] == (host, 8000)
    assert ("run code" in capsys.readouterr().err) == warned


def test_the_plan_is_handed_on_and_looked_at_first(
    listened: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--serve", "tiny-demo", "-o", "steps=3"]) == 130
    assert listened[0][0] == "127.0.0.1"
    assert listened[0][2][-4:] == ["open", "tiny-demo", "-o", "steps=3"]
    for words in (["-o", "steps=3"], ["no-such-plan"], ["--port", "70000"]):
        assert main(["--serve", *words]) == 2
    assert len(listened) == 1
    assert "70000 is not a port" in capsys.readouterr().err


def test_without_textual_serve_it_says_what_to_install(
    listened: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    assert main(["--serve"]) == 2
    told = capsys.readouterr().err
    assert "memwb[serve]" in told and "textual_serve" in told and not listened
