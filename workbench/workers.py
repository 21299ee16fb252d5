"""Work beside the screen, which waits for none of it.

No coroutine is made before it is run: one that is displaced at once, or that the app is left
before, would never be awaited, and Python would say so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from textual.dom import DOMNode
from textual.worker import Worker

Given = ParamSpec("Given")
Work = Callable[Given, Coroutine[Any, Any, None]]


def start(
    node: DOMNode, group: str, work: Work[Given], *given: Given.args, **named: Given.kwargs
) -> Worker[None]:
    """Run work beside all else, for as long as the node is there."""
    made: Any = functools.partial(work, *given, **named)
    return node.run_worker(made, group=group)


def displace(
    node: DOMNode, group: str, work: Work[Given], *given: Given.args, **named: Given.kwargs
) -> Worker[None]:
    """Run work in the place of what else of its group still runs."""
    made: Any = functools.partial(work, *given, **named)
    return node.run_worker(made, group=group, exclusive=True)
