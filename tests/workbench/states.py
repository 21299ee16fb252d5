"""Every screen and every state of it, a line each: what the pictures and the gallery are made of.

To add one is to add a line here, then ``make pictures`` and a look at what it drew.
"""

from __future__ import annotations

from typing import NamedTuple

SIZES = ((80, 24), (120, 40), (200, 50))
THEMES = {"dark": "textual-dark", "light": "textual-light", "ansi": "ansi-dark"}


class State(NamedTuple):
    """A state: its name, how to get there, and what the gallery says of it."""

    name: str
    keys: str
    """Pressed one after another; ``@ID`` puts the cursor on a row of the plan, ``=`` waits for what
    a screen looks up."""
    bursts: str
    """Which recorded bursts the engine plays, in turn."""
    how: str
    """Any of: ``forecast`` (it predicts), ``gpu`` (there is one), ``held`` (no burst ends),
    ``unready`` (the engine never is), ``guide`` (a first session), ``plain`` (NO_COLOR), ``ansi``
    (that theme), and edits of the plan beforehand, as ``-o`` has them."""
    says: str


STATES = (
    State("empty", "", "", "", "Nothing has run yet; the screen says what to press."),
    State("first", "", "", "forecast guide", "A first session: a line tells what to do next."),
    State("guided", "r 1 @technique:lora space", "full", "forecast guide", "Its third step."),
    State("starting", "", "", "unready", "The engine still starts; all but a burst works."),
    State("gpu", "", "", "gpu", "A first start on a machine with a GPU."),
    State("predicted", "", "", "forecast", "Beside each technique, what it would change."),
    State("foretold", "4 m", "", "forecast", "The predicted peak, its parts, and what it fits."),
    State("running", "r 2", "full", "forecast held", "A burst over what was predicted of it."),
    State("quitting", "r q", "full", "held", "Leaving while a burst runs asks once."),
    State("done", "r 2", "full", "forecast", "A burst: its chart, loss, peak and history."),
    State("cursor", "r 2 left left", "full", "forecast", "A cursor tells its moment to the byte."),
    State("zoomed", "r 2 left plus plus A", "full", "forecast", "Zoomed in, with a band hidden."),
    State("maximised", "r 4 m", "full", "forecast", "One panel on the whole screen."),
    State("failed", "r", "failed", "", "A burst that failed says why and what to do."),
    State("oom", "r", "oom", "gpu", "Out of memory is a result: what was held, and by what."),
    State("dead", "r", "dies", "", "The engine has died; r starts it again."),
    State("compared", "r r 5 c j c 4", "full lora", "", "Two runs, and what made the difference."),
    State("history", "r r 5 j b m S", "full lora", "", "The history, sorted, with a baseline."),
    State("naming", "r 5 n", "full", "", "A name and a note for a run."),
    State("deleting", "r 5 d", "full", "", "To delete a run is asked first."),
    State("editing", "@value:techniques.lora.rank enter 0", "", "lora=on quantize_4bit=on",
          "A value is edited in place and checked as it is typed."),
    State("problems", "", "", "quantize_4bit=on",
          "What does not go together is told at its row, with the key that mends it."),
    State("text", "v x", "", "lora=on", "The plan as TOML, checked as it is typed."),
    State("filter", "/ l o r a", "", "", "The techniques, filtered by typing."),
    State("picker", "o = = =", "", "forecast", "What a model needs in four typical plans."),
    State("target", "t = = =", "", "forecast", "Which GPUs the plan fits; one is predicted for."),
    State("peak", "r P = =", "full", "forecast", "What is alive at the peak, and by what."),
    State("presets", "l =", "", "", "Choosing a preset: what it would change, and why."),
    State("settings", "C =", "", "", "Themes are shown as the cursor moves."),
    State("keys", "C tab down down down enter e", "", "", "A key that is taken can be swapped."),
    State("defaults", "C tab tab end space", "", "", "What memwb starts with and may do."),
    State("jump", "r J", "full", "forecast", "A letter on everything that can be gone to."),
    State("saving", "w", "", "", "Saving the plan as a preset."),
    State("export", "e =", "", "", "The script, before it is written."),
    State("help", "@technique:lora ?", "", "", "What the technique at the cursor does; every key."),
    State("palette", "ctrl+p", "", "", "Every action by name."),
    State("no-colour", "r", "full", "plain", "Under NO_COLOR bands have hatches and letters."),
    State("ansi", "r", "full", "forecast ansi", "In the terminal's own sixteen colours."),
)  # fmt: skip


def pictures(state: State) -> list[tuple[str, tuple[int, int], str]]:
    """The pictures of a state: a name, a size and a theme each."""
    words = state.how.split()
    only = {"plain": ("dark",), "ansi": ("ansi",)}
    themes = next((only[word] for word in words if word in only), ("dark", "light"))
    return [
        (f"{state.name}-{width}x{height}-{theme}", (width, height), THEMES[theme])
        for theme in themes
        for width, height in SIZES
    ]
