"""``memwb --serve``: the workbench in a browser, by textual-serve.

Whoever can open the page can run code here, as in a terminal. Hence the address listens on this
machine alone unless another is asked for, and holds a secret: other users of the machine, and
pages of other origins in the same browser, do not know it. Nothing is loaded from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import secrets
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from memwb.engine.errors import MemwbError
from memwb.workbench.headless.output import narrate

if TYPE_CHECKING:
    from aiohttp import web

PATIENCE = 10.0
"""Seconds that a workbench has to end when it is asked to; a burst is stopped in far less."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>memwb</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/css/xterm.css">
<style>
@font-face { font-family: "Roboto Mono"; font-weight: 100 700;
  src: url("static/fonts/RobotoMono-VariableFont_wght.ttf"); }
@font-face { font-family: "Roboto Mono"; font-weight: 100 700; font-style: italic;
  src: url("static/fonts/RobotoMono-Italic-VariableFont_wght.ttf"); }
html, body, #terminal { margin: 0; width: 100%; height: 100%; overflow: hidden; }
body { background: #121212; color: #e0e0e0; font: 16px "Roboto Mono", monospace; }
#left { display: none; padding: 2em; }
body.-closed #left { display: block; }
body.-closed #terminal { display: none; }
a { color: inherit; }
</style>
<div id="terminal" class="textual-terminal"></div>
<p id="left">memwb was left. <a href="">Open it again</a>: plan, runs and layout come back.</p>
<script>
// The terminal measures its font when it is made: the font comes first.
addEventListener("load", async () => {
  const here = new URL("ws", location.href), terminal = document.getElementById("terminal");
  here.protocol = here.protocol.replace("http", "ws");
  terminal.dataset.sessionWebsocketUrl = here.href;
  terminal.dataset.fontSize = new URLSearchParams(location.search).get("fontsize") || 16;
  await Promise.all(["", "bold ", "italic "].map(
    (style) => document.fonts.load(style + "16px 'Roboto Mono'")));
  const script = document.createElement("script");
  script.src = "static/js/textual.js";
  script.onload = () => {
    onload();
    // A class of the body says that it is connected; from then on keys have somewhere to go.
    new MutationObserver(() => terminal.querySelector("textarea").focus())
      .observe(document.body, { attributes: true });
  };
  document.head.append(script);
});
</script>
</html>
"""


def serve(arguments: argparse.Namespace) -> int:
    """Serve until ctrl+c, which is 130; each page that is opened is a workbench of its own."""
    words = _workbench(arguments)
    try:
        import aiohttp  # noqa: F401
        import textual_serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise MemwbError(
            "The workbench in a browser needs textual-serve",
            f"the package {error.name} is not installed",
            "Install memwb with the extra serve: pip install 'memwb[serve]'.",
        ) from None
    if not _loopback(arguments.host):
        narrate(
            f"memwb: warning: {arguments.host} can be reached from other machines. Whoever gets\n"
            "  hold of the address below can run code here as you, and it is sent unencrypted.\n"
            "  Safer: leave --host away and forward the port, ssh -L 8000:127.0.0.1:8000."
        )
    asyncio.run(_listen(arguments.host, arguments.port, words))
    return 130


def _workbench(arguments: argparse.Namespace) -> list[str]:
    """The command line of a page's workbench; a plan that is wrong is told before any is opened."""
    words = [sys.executable, "-P", "-m", "memwb.workbench.cli", "open"]
    if arguments.overrides and not arguments.plan:
        raise MemwbError(
            "There is no plan to change", "-o came without a plan", "memwb --serve PLAN -o …"
        )
    if arguments.plan:
        from memwb.engine.presets import load_plan

        load_plan(arguments.plan, arguments.overrides)
        words += [arguments.plan, *(word for edit in arguments.overrides for word in ("-o", edit))]
    return words


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _listen(host: str, port: int, words: list[str]) -> None:
    """Print the address, then serve until cancelled or told to end."""
    from aiohttp import web

    secret = secrets.token_urlsafe(16)
    outer = web.Application()
    outer.add_subapp(f"/{secret}", _site(words))
    runner = web.AppRunner(outer, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise MemwbError(
                "The workbench cannot be served",
                f"{host}, port {port}: {error.strerror or error}",
                "Choose another --port (0: any that is free), or another --host.",
            ) from None
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{runner.addresses[0][1]}/{secret}/", flush=True)
        narrate("memwb: open this address in a browser; ctrl+c ends it, and all that runs in it")
        ended = asyncio.Event()
        for one in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            # Windows has no such handlers.
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(one, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()


def _site(words: list[str]) -> web.Application:
    """The page, what it loads, and the socket that a workbench talks over."""
    from aiohttp import web
    from textual_serve.server import Server

    # Without exec a shell would stand between: see _follow in memwb.workbench.headless.start.
    command = f"exec {shlex.join(words)}" if os.name == "posix" else subprocess.list2cmdline(words)
    server = Server(command, title="memwb")
    open_pages: set[asyncio.Task[object]] = set()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html", headers=HEADERS)

    async def socket(request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        open_pages.add(task)
        try:
            return await server.handle_websocket(request)
        finally:
            open_pages.discard(task)

    async def close(app: web.Application) -> None:
        """Each workbench is asked to end: one that runs a burst records that it was stopped."""
        import psutil

        for task in open_pages:
            task.cancel()
        late = set(open_pages)
        if late:
            _, late = await asyncio.wait(late, timeout=PATIENCE)
        if late:
            # One that hangs would hold the server for a minute more, and then outlive it.
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.wait(late, timeout=PATIENCE)

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/ws", socket)])
    app.add_routes([web.static("/static", server.statics_path)])
    app.on_shutdown.append(close)
    return app
