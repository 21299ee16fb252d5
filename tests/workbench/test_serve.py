"""``memwb --serve`` before it listens; tests/e2e/test_browser.py has the rest."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import aiohttp
import psutil
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


HANGS = "import os, time; os.write(1, b'__GANGLION__\\nD\\0\\0\\0\\2hi'); time.sleep(600)"
LISTENS = """
import asyncio, sys
from memwb.workbench.headless import serve
serve.PATIENCE = 0.5
asyncio.run(serve._listen("127.0.0.1", 0, [sys.executable, "-c", sys.argv[1]]))
"""


async def test_a_workbench_that_hangs_is_ended_with_the_server() -> None:
    served = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", LISTENS, HANGS),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert served.stdout is not None
    try:
        url = (await asyncio.wait_for(served.stdout.readline(), 60)).decode().strip()
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{url}ws?width=80&height=24") as line,
        ):
            assert await line.receive_bytes(timeout=60) == b"hi"
            below = psutil.Process(served.pid).children(recursive=True)
            served.send_signal(signal.SIGINT)
            await asyncio.wait_for(asyncio.gather(served.wait(), line.receive()), 20)
            assert below and psutil.wait_procs(below, 5)[1] == []
    finally:
        if served.returncode is None:
            served.kill()
