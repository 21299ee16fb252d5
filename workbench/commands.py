"""Every action a key or the palette can reach, declared once.

The key bindings, the palette, the footer and the help texts are all made from this table.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from memwb.workbench.chart_commands import CHART_COMMANDS
from memwb.workbench.command import Command

if TYPE_CHECKING:
    from textual.binding import BindingType
    from textual.dom import DOMNode


COMMANDS = (
    Command(
        "toggle",
        "space",
        "toggle_row",
        "Toggle",
        "Switch the technique at the cursor on or off, "
        "step a choice to its next value, fold a group.",
    ),
    Command("edit", "enter", "edit_row", "Edit", "Edit the value at the cursor in place."),
    Command(
        "run",
        "r",
        "app.run",
        "Run a burst",
        "Run the plan for its steps and watch memory and loss. With a dead engine: start it again.",
    ),
    Command(
        "stop",
        "s",
        "app.stop",
        "Stop the burst",
        "Ask the running burst to stop; it is terminated if it does not.",
    ),
    Command(
        "export",
        "e",
        "app.export",
        "Export the script",
        "See the train.py of this plan, write it to a folder, copy it.",
    ),
    Command(
        "compare",
        "c",
        "app.compare",
        "Compare runs",
        "Mark the run at the cursor of the history, or take its mark away; "
        "two to four marked runs are laid over each other.",
    ),
    Command(
        "pin",
        "b",
        "app.pin_run",
        "Pin the baseline",
        "Hold all runs against the one at the cursor of the history, or no longer.",
    ),
    Command(
        "replay",
        "R",
        "app.replay",
        "Replay a run",
        "Tell a run again as it happened; once more: four times as fast, then at once.",
    ),
    Command("name_run", "n", "app.name_run", "Name a run", "Give the run at the cursor a name."),
    Command(
        "note_run",
        "N",
        "app.note_run",
        "Note something of a run",
        "Write a note that is kept with the run at the cursor of the history.",
    ),
    Command(
        "take_plan",
        "L",
        "take_plan",
        "Take over a run's plan",
        "The plan of the run at the cursor of the history, to be edited and run again.",
        where=("runs",),
    ),
    Command(
        "delete_run",
        "d",
        "app.delete_run",
        "Delete a run",
        "Delete the run at the cursor of the history with its folder; it is asked first.",
    ),
    Command(
        "sort_runs",
        "S",
        "app.sort_runs",
        "Sort the runs",
        "By the next of time, peak, speed, final loss, name, model and outcome.",
    ),
    Command(
        "turn_runs",
        "I",
        "app.turn_runs",
        "Invert the order of runs",
        "Sort the history the other way round.",
    ),
    Command(
        "fix",
        "f",
        "fix",
        "Mend the problem",
        "Make the edit that a problem proposes, at the cursor or else the first.",
    ),
    Command(
        "fold_all",
        "z",
        "fold_all",
        "Fold or unfold all groups",
        "Show the groups of the plan alone, each with what is on in it, or all of their rows.",
    ),
    Command(
        "model",
        "o",
        "app.model",
        "Choose a model",
        "Search the catalogue and the local cache, or give a folder or hub id.",
    ),
    Command(
        "target",
        "t",
        "app.target",
        "GPUs: what fits where",
        "Every GPU with whether the plan fits it; choose the one that plans are predicted for.",
    ),
    Command(
        "peak",
        "P",
        "app.inspect_peak",
        "Inspect the peak",
        "What is alive at the peak: categories, the largest tensors, the gaps between the totals.",
    ),
    Command("save", "w", "app.save_preset", "Save as preset", "Save the plan under a name."),
    Command(
        "load",
        "l",
        "app.load_preset",
        "Presets",
        "Browse them, see what one would change of the plan, load, save or delete one.",
    ),
    Command(
        "plan_text",
        "v",
        "app.plan_text",
        "Edit the plan as TOML",
        "The whole plan as text: read it, change it, copy it; its comments are kept.",
    ),
    Command("undo", "u", "app.undo", "Undo", "Take back the last edit of the plan."),
    Command("redo", "U", "app.redo", "Redo", "Make the edit again that was taken back."),
    Command(
        "reset",
        "x",
        "reset_row",
        "Reset what the cursor is on",
        "A value to its default, a technique's parameters to theirs, a group to nothing chosen.",
        where=("plan",),
    ),
    Command(
        "reset_plan",
        "X",
        "reset_plan",
        "Reset the plan",
        "The plan as it began: the preset that was loaded, or what the workbench was opened with.",
        where=("plan",),
    ),
    Command(
        "filter",
        "slash",
        "filter",
        "Filter the list",
        "Show only the techniques, or in the history the runs, that contain what is typed.",
    ),
    Command(
        "freeze", "p", "freeze", "Freeze the chart", "Hold the chart still while the burst goes on."
    ),
    Command(
        "maximise",
        "m",
        "maximise",
        "Maximise the panel",
        "Give the focused panel the whole screen, or give it back.",
    ),
    Command(
        "more",
        "right_parenthesis",
        "resize(1)",
        "More room for the panel",
        "Make the focused panel larger; a panel at the right takes lines of its neighbours. "
        "The mouse drags any border between two panels.",
    ),
    Command(
        "less",
        "left_parenthesis",
        "resize(-1)",
        "Less room for the panel",
        "Make the focused panel smaller.",
    ),
    Command(
        "wider",
        "right_curly_bracket",
        "widen(1)",
        "Widen the plan",
        "Move the border between the plan and the panels at its right; it is kept.",
    ),
    Command(
        "narrower",
        "left_curly_bracket",
        "widen(-1)",
        "Narrow the plan",
        "Move the border between the plan and the panels at its right; it is kept.",
    ),
    Command(
        "usual_sizes",
        "backslash",
        "usual_sizes",
        "The usual sizes",
        "Give every panel the size that it has without anybody's doing.",
    ),
    Command(
        "copy",
        "y",
        "app.copy",
        "Copy",
        "Copy what the focused panel shows to the clipboard: the plan as TOML, the moment at the "
        "chart's cursor, the peak, the run. It reaches your own terminal over ssh and tmux too.",
    ),
    Command(
        "restart",
        "E",
        "app.restart_engine",
        "Restart the engine",
        "End the engine's process and start another; a running burst is asked about first.",
    ),
    *CHART_COMMANDS,
    Command(
        "jump_mode",
        "J,ctrl+g",
        "app.jump_mode",
        "Jump",
        "Show a letter on every panel, row and field in sight; typing it goes there.",
    ),
    Command("jump_plan", "1", "jump('plan')", "Go to the plan", "Focus the plan."),
    Command("jump_memory", "2", "jump('memory')", "Go to memory", "Focus the memory chart."),
    Command("jump_loss", "3", "jump('loss')", "Go to loss", "Focus the loss chart."),
    Command("jump_peak", "4", "jump('peak')", "Go to the peak", "Focus the peak and its parts."),
    Command("jump_runs", "5", "jump('runs')", "Go to the runs", "Focus the history of runs."),
    Command(
        "help",
        "question_mark,f1",
        "help",
        "Help",
        "Explain the focused widget, or the technique at the cursor.",
    ),
    Command(
        "guide",
        "h",
        "app.guide",
        "Guided first session",
        "Begin it: four steps, each done by doing it. While it is shown: end it.",
    ),
    Command(
        "palette",
        "ctrl+p",
        "app.command_palette",
        "Commands",
        "Search every action by name.",
        palette=False,
    ),
    Command(
        "settings",
        "C",
        "app.settings",
        "Settings",
        "Change the theme, the keys and what memwb starts with.",
    ),
    Command(
        "quit", "q", "app.ask_quit", "Quit", "Leave; plan, runs and layout come back next time."
    ),
)

NAMES = {
    "slash": "/",
    "at": "@",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "ctrl+p": "^p",
    "plus": "+",
    "minus": "\N{MINUS SIGN}",
    "backslash": "\\",
    "underscore": "_",
    "escape": "esc",
    "enter": "↵",
}


def bindings(panel: str) -> list[BindingType]:
    """The keys that act in a panel alone; without one (empty), those that act everywhere.

    The latter are taken in the order in which they were typed, before the next key finds its
    widget: what is typed on after Enter belongs to the field that Enter opens.
    """
    # The command line reads this table too, and has no use for a screen.
    from textual.binding import Binding

    return [
        Binding(
            command.keys,
            f"screen.{command.action}" if panel else command.action,
            command.title,
            id=command.id,
            show=False,
            priority=not panel,
        )
        for command in COMMANDS
        if (panel in command.where if panel else not command.where) and command.id != "palette"
    ]


def key_name(key: str) -> str:
    """A key as a person knows it: ``question_mark`` is ``?``."""
    try:
        character = unicodedata.lookup(key.replace("_", " "))
    except KeyError:
        character = ""
    # A space, a tab and the like are known by their names.
    return NAMES.get(key) or (character if character.isprintable() else "").strip() or key


def keys_of(command: Command, keymap: dict[str, str]) -> str:
    """The command's keys, or those the user's keymap gives it."""
    return keymap.get(command.id, command.keys)


def shown_key(command: Command, keymap: dict[str, str]) -> str:
    """The first key of a command as shown beside it."""
    return key_name(keys_of(command, keymap).split(",")[0].strip())


def key_for(name: str, keymap: dict[str, str]) -> str:
    """The first key of the command of that id."""
    return shown_key(next(command for command in COMMANDS if command.id == name), keymap)


def keyed(text: str, keymap: dict[str, str]) -> str:
    """A text that tells of keys: a command's id after a dollar stands for its key."""
    return re.sub(r"\$(\w+)", lambda found: key_for(found[1], keymap), text)


def keyed_in(node: DOMNode, text: str) -> str:
    """The same with the keys of the workbench that a widget is in."""
    return keyed(text, node.app.settings.keymap)  # type: ignore[attr-defined]
