"""Whether the hub can be reached, asked before transformers does, which tries for half a minute."""

from __future__ import annotations

import threading

from memwb.engine.errors import MemwbError

PATIENCE = 4.0
"""Seconds for an answer, of whatever kind; looking up its name is a part of them."""


def reach(name: str) -> None:
    """Wait until the hub answers. Raises MemwbError if it does not, for the model of that name."""
    from huggingface_hub import constants, get_session

    why: list[str] = []

    def ask() -> None:
        try:
            # With the proxies and certificates that will be used for its files.
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except Exception as error:
            why.append(str(error) or type(error).__name__)

    # The time limit of a connection knows nothing of names that are looked up in vain.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if asking.is_alive():
        why = [f"no answer within {PATIENCE:.0f} s"]
    if why:
        raise MemwbError(
            "The hub cannot be reached",
            f"{name} is not on this machine, and {constants.ENDPOINT} does not answer: {why[0]}",
            "Take a model of the catalogue or a local folder, or check the network.",
        )
