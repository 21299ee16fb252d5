"""The commands with their keys, and what a key that is pressed for one of them would mean."""

from __future__ import annotations

from typing import NamedTuple

from memwb.workbench.command import Command
from memwb.workbench.commands import COMMANDS, key_name, keys_of
from memwb.workbench.panels.rows import Row
from memwb.workbench.settings import FIXED_KEYS, clashes

KEYS = 14
TITLE = max(len(command.title) for command in COMMANDS)
UNCHANGED = ("palette",)
"""Commands whose key is Textual's own."""


class Proposal(NamedTuple):
    """A keymap that would come of a key, or why there is none."""

    keymap: dict[str, str] | None
    says: str
    swap: bool = False
    """Whether another command would get the key that is given up: that is asked first."""


def rows(keymap: dict[str, str]) -> list[Row]:
    """A line for each command: its keys, its name, what it does; ✎ where the keys are the user's.

    ! stands where a key is given twice.
    """
    twice = {name for _, *both in clashes(keymap) for name in both}
    found = []
    for command in COMMANDS:
        if command.id in UNCHANGED:
            continue
        mark = ("!", "error") if command.id in twice else ("✎", "value")
        own = command.id in keymap or command.id in twice
        found.append(
            Row(
                command.id,
                (
                    (f" {mark[0] if own else ' '} ", mark[1]),
                    (f"{shown(command, keymap):<{KEYS}}", "accent"),
                    (f"{command.title:<{TITLE}} ", "plain"),
                    (command.help, "muted"),
                ),
            )
        )
    return found


def shown(command: Command, keymap: dict[str, str]) -> str:
    """All keys of a command as a person knows them."""
    return " ".join(key_name(key.strip()) for key in keys_of(command, keymap).split(",") if key)


def command_of(name: str) -> Command:
    """The command of an id."""
    return next(each for each in COMMANDS if each.id == name)


def proposed(keymap: dict[str, str], name: str, key: str, more: bool = False) -> Proposal:
    """What pressing a key for a command leads to; with ``more`` it is one beside those it has."""
    command = command_of(name)
    before = keys_of(command, keymap)
    if key in _list(before):
        return Proposal(None, f"{key_name(key)} is a key of it already.")
    if key in FIXED_KEYS:
        return Proposal(None, f"{key_name(key)} is {FIXED_KEYS[key]} everywhere.")
    wanted = with_keys(keymap, name, f"{before},{key}" if more else key)
    others = _others(keymap, wanted, key, name)
    told = f"{key_name(key)}: {command.title}"
    if not others:
        return Proposal(wanted, f"{told}.")
    other = others[0]
    title = command_of(other).title
    rest = [each for each in _list(keys_of(command_of(other), keymap)) if each != key]
    given = rest or _list(before)[:1]
    swapped = with_keys(wanted, other, ",".join(given))
    if len(others) > 1 or len(clashes(swapped)) > len(clashes(keymap)):
        return Proposal(None, f"{key_name(key)} is taken: {title}.")
    gets = "keeps " if rest else "gets "
    how = f"{title} {gets}{' '.join(map(key_name, given))}"
    return Proposal(swapped, f"{key_name(key)} is {title}. ↵ takes it: {how}.", swap=True)


def reset(keymap: dict[str, str], name: str) -> Proposal:
    """The command's own keys again."""
    wanted = {each: keys for each, keys in keymap.items() if each != name}
    command = command_of(name)
    if name not in keymap:
        return Proposal(None, f"{command.title}: those are its default keys.")
    if len(clashes(wanted)) > len(clashes(keymap)):
        key, first, second = next(c for c in clashes(wanted) if c not in clashes(keymap))
        other = first if second == name else second
        return Proposal(None, f"{key_name(key)} has been given to {command_of(other).title}.")
    return Proposal(wanted, f"{command.title}: {shown(command, wanted)} again.")


def with_keys(keymap: dict[str, str], name: str, keys: str) -> dict[str, str]:
    """The keymap with other keys for a command; its default ones are not written down."""
    rest = {each: told for each, told in keymap.items() if each != name}
    return rest if keys == command_of(name).keys else {**rest, name: keys}


def _others(before: dict[str, str], after: dict[str, str], key: str, name: str) -> list[str]:
    """The commands that a key is taken from."""
    fresh = [clash for clash in clashes(after) if clash not in clashes(before) and clash[0] == key]
    return list(dict.fromkeys(b if a == name else a for _, a, b in fresh))


def _list(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]
