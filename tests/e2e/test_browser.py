"""The workbench in a real browser: a headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from memwb.workbench.charts.palette import DARK

TESTS = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--remote-debugging-port=0",
    # Nothing outside this machine is found: what the page needs is here.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
WIDTH, HEIGHT = 1000, 640
COUNT = """
(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const count = (top) => {
    const data = canvas.getImageData(0, top, image.width, image.height - top).data, seen = {};
    for (let at = 0; at < data.length; at += 4) {
      const code = "#" + [data[at], data[at + 1], data[at + 2]]
        .map((each) => each.toString(16).padStart(2, "0")).join("");
      seen[code] = (seen[code] || 0) + 1;
    }
    return seen;
  };
  return [image.width, image.height, count(0), count(image.height - 24)];
})()
"""
"""Pixels by colour of a PNG: of all of it, and of its lowest lines."""


class Page:
    """One open page: commands go out with a number, answers come back with it."""

    def __init__(self, line: aiohttp.ClientWebSocketResponse, session: str = "") -> None:
        self._line, self._session = line, session
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        await self._line.send_json(
            command | ({"sessionId": self._session} if self._session else {})
        )
        while True:
            answer = await self._line.receive_json(timeout=30)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    async def evaluate(self, expression: str) -> Any:
        """What an expression is in the page."""
        found = await self.do(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until it is true in the page."""
        end = time.monotonic() + 60
        while not await self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} never came to be"
            await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        """One key that makes a character."""
        for kind in ("keyDown", "keyUp"):
            await self.do("Input.dispatchKeyEvent", type=kind, key=key, text=key)

    async def picture(self, file: Path) -> tuple[int, int, dict[str, int], dict[str, int]]:
        """A screenshot into a file; its size, and its pixels by colour, of all and of the foot."""
        shot = await self.do("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
        width, height, seen, foot = await self.evaluate(COUNT % shot["data"])
        return width, height, seen, foot


@asynccontextmanager
async def browsing(program: str, url: str, profile: Path) -> AsyncIterator[Page]:
    """A browser on that page; both are gone at the end."""
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={profile}", "about:blank",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    drained = None
    try:
        place = None
        while place is None:
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, "the browser ended before it listened"
            place = re.search(rb"DevTools listening on (ws://\S+)", line)
        # What it says later must not fill the pipe.
        drained = asyncio.create_task(process.stderr.read())
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(place[1].decode(), max_msg_size=0) as line_,
        ):
            browser = Page(line_)
            made = await browser.do("Target.createTarget", url="about:blank")
            attached = await browser.do(
                "Target.attachToTarget", targetId=made["targetId"], flatten=True
            )
            page = Page(line_, attached["sessionId"])
            await page.do(
                "Emulation.setDeviceMetricsOverride",
                width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False,
            )  # fmt: skip
            for domain in ("Page", "Runtime", "Network"):
                await page.do(f"{domain}.enable")
            await page.do("Page.navigate", url=url)
            yield page
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if drained is not None:
            await drained


@pytest.fixture
def chromium() -> str:
    """Where the browser is."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and "CI" not in os.environ:
        pytest.skip("chromium is not installed; CI installs it")
    assert found is not None, "CI has to install chromium: see .ci/run"
    return found


async def test_a_burst_in_a_browser(
    chromium: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = [TESTS / "workbench/fake_engine.py", TESTS / "data/full.jsonl"]
    monkeypatch.setenv("MEMWB_ENGINE", shlex.join([sys.executable, "-P", *map(str, engine)]))
    served = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "memwb.workbench.cli", "--serve", "--port", "0"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert served.stdout is not None and served.stderr is not None
    try:
        url = (await asyncio.wait_for(served.stdout.readline(), 60)).decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", url)
        async with aiohttp.ClientSession() as stranger:
            for guess in ("", "ws", "static/js/textual.js", "x" * 22 + "/"):
                answer = await stranger.get(url.rsplit("/", 2)[0] + "/" + guess)
                assert answer.status == 404, "who does not know the secret gets nothing"

        async with browsing(chromium, url, tmp_path / "profile") as page:
            await page.until("document.body?.classList.contains('-first-byte')")
            # The engine need not be ready yet: the burst begins when it is.
            await page.press("r")
            shot = tmp_path / "browser.png"
            end = time.monotonic() + 60
            while True:
                await asyncio.sleep(0.5)
                width, height, seen, foot = await page.picture(shot)
                if all(seen.get(colour, 0) > 100 for colour in DARK[:5]):
                    break
                assert time.monotonic() < end, f"no chart of five bands: see {shot}"
            assert (width, height) == (WIDTH, HEIGHT)
            # The keys at the foot are there, in a line of another colour than the screen's.
            ground = max(seen, key=lambda code: seen[code])
            line = max(foot, key=lambda code: foot[code])
            assert seen[ground] > 0.4 * width * height and line != ground
            assert sum(foot.values()) - foot[line] - foot.get(ground, 0) > 500, "no text in it"
            asked = [
                event["params"]["request"]["url"]
                for event in page.events
                if event["method"] == "Network.requestWillBeSent"
            ]
            assert len(asked) >= 5
            assert all(each.startswith((url, "data:")) for each in asked), "nothing from outside"
            thrown = [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
            assert thrown == []
            below = psutil.Process(served.pid).children(recursive=True)
            assert below
            served.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(served.wait(), 30) == 130
            assert psutil.wait_procs(below, 5)[1] == [], "the workbench and its engine end too"
            await page.until("document.body?.classList.contains('-closed')")
    finally:
        if served.returncode is None:
            served.kill()
        told = (await served.stderr.read()).decode()
    assert "ctrl+c" in told and "Traceback" not in told


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        served = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "memwb.workbench.cli", "--serve", "--port", port),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, told = await served.communicate()
    assert (served.returncode, out) == (2, b"")
    assert f"127.0.0.1, port {port}:" in told.decode() and "--port" in told.decode()
