"""Every screen and every state of it, a line each: what the pictures and the gallery are made of.

To add one is to add a line here, then ``make pictures`` and a look at what it drew.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

SIZES = ((80, 24), (120, 40), (200, 50))
THEMES = {"dark": "textual-dark", "light": "textual-light", "ansi": "ansi-dark"}


class State(NamedTuple):
    """A state: its name, what the gallery says of it, and how to get there."""

    name: str
    says: str
    keys: str = ""
    """Pressed one after another; ``@ID`` puts the cursor on a row of the plan, ``=`` waits for what
    a screen looks up."""
    bursts: str = ""
    """Which recorded bursts the engine plays, in turn."""
    edits: str = ""
    """What is changed of the plan beforehand, as ``-o`` does."""
    forecast: bool = False
    """Whether the engine predicts."""
    engine: Mapping[str, Any] = MappingProxyType({})
    """More of the engine: held before a burst's end, never ready."""
    gpu: bool = False
    themes: tuple[str, ...] = ("dark", "light")
    colours: bool = True
    each: str = ""
    """Keys pressed anew at each size and theme: for what does not live through another one."""


HELD = {"hold": True}

STATES = (
    State("empty", "Nothing has run yet, and the screen says what to press."),
    State("first", "A first session is guided: a line above the keys tells what to do next.",
          forecast=True, engine={"guide": True}),
    State("guided", "Its third step of four.", "r 1 @technique:lora space", "full", forecast=True,
          engine={"guide": True}),
    State("starting", "The engine still starts; all but a burst works.", engine={"ready": False}),
    State("gpu", "The same on a machine with a GPU.", gpu=True),
    State("predicted", "What each technique would change is predicted beside it.", forecast=True),
    State("foretold", "The predicted peak, its parts and the cards it fits.", "4 m", forecast=True),
    State("running", "A burst runs, over what was predicted of it.", "r 2", "full", forecast=True,
          engine=HELD),
    State("quitting", "Leaving while a burst runs asks once.", "r q", "full", engine=HELD),
    State("done", "The burst is done: its chart, loss, peak and line in the history.", "r 2",
          "full", forecast=True),
    State("cursor", "A cursor in the chart tells its moment to the byte.", "r 2 left left left",
          "full", forecast=True),
    State("zoomed", "The chart zoomed in, with a band hidden.", "r 2 left plus plus A", "full",
          forecast=True),
    State("maximised", "One panel on the whole screen.", "r 4 m", "full", forecast=True),
    State("failed", "A burst that failed says why and what to do.", "r", "failed"),
    State("oom", "Out of memory is a result: what was held, and by what.", "r", "oom", gpu=True),
    State("dead", "The engine has died; r starts it again.", "r", "dies"),
    State("compared", "Two runs laid over each other, with what made the difference.",
          "r 1 @technique:lora space r 5 c j c 4", "full lora"),
    State("history", "The history, sorted, with a baseline pinned.",
          "r 1 @technique:lora space r 5 j b m S", "full lora"),
    State("naming", "A name and a note for a run.", "r 5 n", "full"),
    State("deleting", "To delete a run is asked first.", "r 5 d", "full"),
    State("editing", "A value is edited in place and checked as it is typed.",
          "@value:techniques.lora.rank enter 0", edits="lora=on quantize_4bit=on"),
    State("problems", "What does not go together is told at its row, with the key that mends it.",
          edits="quantize_4bit=on"),
    State("text", "The plan as TOML, checked as it is typed.", "v x", edits="lora=on"),
    State("filter", "Filtering the techniques by typing.", "/ l o r a"),
    State("picker", "Choosing a model, with what it needs in four typical plans.", "o = = =",
          forecast=True),
    State("target", "Which GPUs the plan fits, and which one it is predicted for.", "t = = =",
          forecast=True),
    State("presets", "Choosing a preset: what it would change, and why.", "l ="),
    State("saving", "Saving the plan as a preset.", "w"),
    State("export", "The script, before it is written.", "e ="),
    State("help", "What the technique at the cursor does, and every key.", "@technique:lora ?"),
    State("peak", "What is alive at the peak, predicted beside measured.", "r P = =", "full",
          forecast=True),
    State("peak-oom", "What was alive when memory ran out, and what was asked for.", "r P =", "oom",
          gpu=True),
    State("settings", "Themes are shown as the cursor moves.", "C ="),
    State("keys", "A key that is taken can be swapped.", "C tab down down down enter e"),
    State("defaults", "What memwb starts with, and what it may do.", "C tab tab end space"),
    State("jump", "Jump mode: a letter on every panel, row and field in sight.", each="J"),
    State("resized", "Panels keep the sizes that they are given.", "r } } 2 ) )", "full"),
    State("palette", "Every action by name.", each="ctrl+p"),
    State("no-colour", "Under NO_COLOR the bands have hatches and letters.", "r", "full",
          themes=("dark",), colours=False),
    State("ansi", "In the terminal's own sixteen colours.", "r", "full", forecast=True,
          themes=("ansi",)),
)  # fmt: skip


def pictures(state: State) -> list[tuple[str, tuple[int, int], str]]:
    """The pictures of a state: a name, a size and a theme each."""
    return [
        (f"{state.name}-{width}x{height}-{theme}", (width, height), THEMES[theme])
        for theme in state.themes
        for width, height in SIZES
    ]
