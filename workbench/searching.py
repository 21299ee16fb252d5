"""What the command palette finds: every action of the screen in front, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from memwb.workbench.commands import COMMANDS, key_name, shown_key

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench


def commands(app: Workbench, screen: Screen[object]) -> Iterator[SystemCommand]:
    """On the main screen the table of commands; on another one the keys that it binds."""
    if screen is app.main:
        for command in COMMANDS:
            if command.palette:
                key = shown_key(command, app.settings.keymap)
                run = _runner(app, screen, command.action)
                yield SystemCommand(f"{command.title}  ({key})", command.help, run)
    else:
        for binding, keys in _bound(screen).items():
            title = f"{binding.description}  ({key_name(keys[0])})"
            yield SystemCommand(title, "In this window.", _runner(app, screen, binding.action))
        jump = next(command for command in COMMANDS if command.id == "jump_mode")
        yield SystemCommand(f"{jump.title}  (ctrl+g)", jump.help, app.action_jump_mode)
    yield SystemCommand("theme", "Change the colours.", app.action_change_theme)


def _bound(screen: Screen[object]) -> dict[Binding, list[str]]:
    """What the keys of a screen itself do, each once."""
    found: dict[str, tuple[Binding, list[str]]] = {}
    own = {each.action for each in _declared(screen)}
    for key, bindings in screen._bindings.key_to_bindings.items():
        for binding in bindings:
            if binding.action in own and binding.description:
                found.setdefault(binding.action, (binding, []))[1].append(key)
    return dict(found.values())


def _declared(screen: Screen[object]) -> Iterator[Binding]:
    for each in type(screen).BINDINGS:
        yield from Binding.make_bindings([each])


def _runner(app: Workbench, screen: Screen[Any], action: str) -> Callable[[], None]:
    name = action if "." in action else f"screen.{action}"

    async def act() -> None:
        # A key may have come first and left the screen: what was chosen for it is of no other.
        if app.screen is screen:
            await app.run_action(name)

    def run() -> None:
        app.call_later(act)

    return run
