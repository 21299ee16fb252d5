"""What the focused thing is and which keys it takes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from memwb.engine.explain import Explanation
from memwb.workbench.commands import COMMANDS, shown_key
from memwb.workbench.explained import sections
from memwb.workbench.screens.dialog import DIALOG

ABOUT = {
    "plan": (
        "The plan",
        "What the next burst does: the model, the workload, and the techniques in their groups. "
        "● is on, ◐ acts because nothing else of its group is chosen, ○ is off, · is not "
        "available here. Everything is edited in place and can be undone. At the right of a "
        "technique: by how much the predicted peak would change if it were switched, on or off "
        "where it is on. ✓ the plan would fit then, ! it would not any more, … is being "
        "predicted, ? cannot be.",
    ),
    "memory": (
        "Memory",
        "Bytes alive at every moment of the burst, stacked by category. Weights: parameters and "
        "buffers. Gradients: .grad. Optimizer: its state. Activations: kept from the forward "
        "pass for the backward pass. Temporary: everything else. Only the traced steps are "
        "drawn; the others run without any tracing and give the speed. Hatched or dotted: what is "
        "predicted of the plan as it stands, phase by phase. The mouse tells any moment, its "
        "wheel zooms, dragging pans, and a click on a name below hides that band. However many "
        "samples share a column, it shows the highest: no spike is lost.",
    ),
    "loss": (
        "Loss",
        "The training loss of each optimizer step. Dotted: that of the plainest earlier run of "
        "the same model, workload, seed and versions, and how far this one is from it at most. "
        "Allowed: what the techniques by which the two differ may change, as each declares it; "
        "exact ones nothing, over all steps, others so much in the first ten. Outside: further "
        "away than that, so do not trust one of them here; the list of runs says ✗ loss. No "
        "curve owed: other steps are taken or another model is trained, and losses may differ.",
    ),
    "peak": (
        "The peak",
        "The moment of the most allocated bytes. Allocated: live tensors. Reserved: held by the "
        "allocator. Device: what the driver reports, on a CPU the memory of the burst's process. "
        "Predicted: the plan's own script run without data, for the GPU that t chooses. Under "
        "it which GPUs it fits: ✓ fits, ! tight, ✗ exceeds.",
    ),
    "runs": (
        "The runs",
        "Every burst that has started, newest first, each a folder with its plan, script, "
        "events and summary. Enter shows one again. c marks the run at the cursor or takes its "
        "mark away; as soon as two are marked they lie over each other, up to four, and what "
        "differs is told beside them, the plan's values first. ◆ is the pinned baseline: the "
        "peaks of all runs are held against it, and losses where they can be. ✎ has a note. Name, "
        "note and pin are kept in the run's folder; `memwb runs` reads and sets them too.",
    ),
}
OWN_KEYS = {
    "plan": (
        ("↑ ↓", "move"),
        ("space", "switch on or off, next choice, fold"),
        ("↵", "edit the value; tab goes on to the next"),
        ("/", "filter"),
        ("f", "mend what is wrong"),
        ("u U", "undo and redo every edit"),
    ),
    "memory": (
        ("← →", "a cursor: its moment, to the byte, beside it or below the chart"),
        (", .", "cursor to the phase before or after (also shift+← →)"),
        ("[ ]", "cursor to the step before or after"),
        ("home end", "cursor to the first or the last moment"),
        ("k", "cursor to the peak"),
        ("esc", "cursor away"),
        ("p", "freeze"),
        ("m", "maximise"),
    ),
    "loss": (
        ("← →", "a cursor: the step's values are below the chart"),
        ("home end", "cursor to the first or the last step"),
        ("esc", "cursor away"),
        ("p", "freeze"),
        ("m", "maximise"),
    ),
    "peak": (
        ("m", "maximise: the fit list, the largest tensors, what was assumed"),
        ("t", "predict for another GPU"),
    ),
    "runs": (
        ("↑ ↓", "move"),
        ("↵", "show"),
        ("c", "mark for comparison, two to four"),
        ("/", "filter: every word must be in it"),
        ("S I", "sort by the next, invert; or press the name of a column"),
        ("n N", "name it, note something of it"),
        ("b", "pin it as the baseline, or no longer"),
        ("R", "replay it: 1×, 4×, at once; s leaves off"),
        ("d", "delete it; that is asked first"),
    ),
}


KEYS = 13
"""Columns of the keys and names at the left, as long as the longest does not need more."""


class Page(Static):
    """A text that is written anew for each width, so that what is wrapped stays in its column."""

    def __init__(self, write: Callable[[int], Content]) -> None:
        super().__init__()
        self._write = write

    def on_resize(self, event: events.Resize) -> None:
        """Wrap it for the width there is."""
        self.update(self._write(event.size.width))


class HelpScreen(ModalScreen[None]):
    """One page of text; any of the usual keys closes it."""

    DEFAULT_CSS = f"""
    HelpScreen {{
        {DIALOG}
        .dialog {{ max-width: 92; padding: 1 2; scrollbar-gutter: stable; }}
        &.-short .dialog {{ height: 100%; padding: 0 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close"),
        Binding("down,j", "scroll_text(1)", "Down", show=False),
        Binding("up,k", "scroll_text(-1)", "Up", show=False),
    ]

    def __init__(
        self,
        panel: str,
        keymap: dict[str, str],
        explanation: Explanation | None = None,
        predicted: str = "",
    ) -> None:
        super().__init__()
        # Every line counts in a small terminal.
        self.VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-high")]
        self._panel = panel
        self._keymap = keymap
        self._explanation = explanation
        self._predicted = predicted

    def compose(self) -> ComposeResult:
        """The page."""
        told = self._explanation
        with VerticalScroll(classes="dialog") as box:
            box.border_subtitle = "esc closes"
            box.border_title = told.title if told else ABOUT[self._panel][0]
            yield Page(self._page)

    def _page(self, width: int) -> Content:
        if self._explanation is not None:
            return technique_help(self._explanation, width, self._predicted)
        return panel_help(self._panel, self._keymap, width)

    def action_scroll_text(self, by: int) -> None:
        """A line up or down."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


def panel_help(panel: str, keymap: dict[str, str], width: int) -> Content:
    """What a panel shows, its own keys, then those that work everywhere."""
    lines = [Content(ABOUT[panel][1]), Content(), _head("Here")]
    lines += [_pair(key, text, width) for key, text in OWN_KEYS[panel]]
    here = [command for command in COMMANDS if panel in command.where]
    lines += [_pair(shown_key(command, keymap), command.title, width) for command in here]
    lines += [Content(), _head("Everywhere")]
    rest = [command for command in COMMANDS if not command.where]
    lines += [_pair(shown_key(command, keymap), command.title, width) for command in rest]
    return Content("\n").join(lines)


def technique_help(explanation: Explanation, width: int, predicted: str = "") -> Content:
    """The explanation of a technique as a page, with what is predicted of toggling it."""
    lines: list[Content] = []
    told = sections(explanation)
    column = max(KEYS, *(len(label) + 1 for section in told for label, _ in section.rows))
    for section in told:
        if section.title:
            title = textwrap.fill(section.title, max(16, width), subsequent_indent="  ")
            lines += [Content(), _head(title)]
        lines += [_pair(label, text, width, column) for label, text in section.rows]
        if predicted and section is told[0]:
            lines.append(_pair("predicted", predicted, width, column))
    return Content("\n").join(lines)


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")


def _pair(key: str, text: str, width: int, column: int = KEYS) -> Content:
    """A key and its text, whose further lines stand under the first."""
    label = f"{key:<{column - 1}} "
    # A key that is longer than its column takes from its own line alone.
    told = textwrap.fill(
        text,
        max(16 + column, width),
        initial_indent=" " * len(label),
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return Content.assemble((label, "$text-accent"), told[len(label) :])
