"""Triton's interpreter as a fixture of every test of a kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def interpreted() -> Callable[..., Any]:
    """``with interpreted(module) as launched``: see interpreted.py."""
    from interpreted import interpreted

    return interpreted
