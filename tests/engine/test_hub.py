"""The hub is asked whether it is there before anything waits for it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from memwb.engine import catalog
from memwb.engine.errors import MemwbError
from memwb.engine.trainer import hub


@contextlib.contextmanager
def server(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> Iterator[None]:
    """A hub that says this to everybody, or nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

        def serve() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as met:
                met.recv(1000)
                met.sendall(answer)
                if not answer:
                    time.sleep(1.0)

        threading.Thread(target=serve, daemon=True).start()
        yield


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"503 Busy"])
def test_a_hub_that_says_anything_is_reached(
    monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    with server(monkeypatch, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"):
        hub.reach("owner/name")


@pytest.mark.parametrize("looked_up", [True, False])
def test_a_hub_that_says_nothing_is_waited_for_no_longer_than_a_person_waits(
    monkeypatch: pytest.MonkeyPatch, looked_up: bool
) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    if not looked_up:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1.0))
    with server(monkeypatch, b""), pytest.raises(MemwbError) as caught:
        begun = time.monotonic()
        hub.reach("owner/name")
    assert time.monotonic() - begun < 0.9
    assert "owner/name is not on this machine" in caught.value.what
    for way in ("catalogue", "local folder", "network"):
        assert way in caught.value.fix


def test_only_what_is_not_here_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert catalog.to_be_fetched(catalog.resolve("nobody/nothing"))
    assert catalog.to_be_fetched(catalog.resolve("gpt2", "pretrained"))
    assert not catalog.to_be_fetched(catalog.resolve("gpt2"))
    assert not catalog.to_be_fetched(catalog.resolve("tiny"))
