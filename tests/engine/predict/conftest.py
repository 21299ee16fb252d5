"""Predictions in the tests' own process: with what they import already there, as in a server."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """The libraries that scripts use; a run collects garbage often, and need not look at them."""
    from memwb.engine.predict.run import import_libraries

    import_libraries()
    gc.collect()
    gc.freeze()
