"""The settings: colours, keys, and what memwb starts with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine.errors import MemwbError
from memwb.workbench import library, preferences
from memwb.workbench.panels.field import Field
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.screens import settings_defaults, settings_keys
from memwb.workbench.screens.dialog import DIALOG, HEIGHTS, HELP, explain, keys_line, say
from memwb.workbench.screens.settings_defaults import default_of

if TYPE_CHECKING:
    from memwb.workbench.app import Workbench

TABS = {"theme": "Theme", "keys": "Keys", "defaults": "Defaults"}
KEYS = {
    "theme": {"take": ("↵", "keep")},
    "keys": {
        "take": ("↵", "press another key"),
        "add": ("a", "one more"),
        "reset": ("x", "default"),
    },
    "defaults": {"take": ("↵", "change"), "step": ("space", "next"), "reset": ("x", "default")},
}
ALWAYS = {"explain": ("?", "help"), "leave": ("esc", "leave")}


class PressScreen(ModalScreen[str | None]):
    """Returns the key that is pressed; escape is none."""

    DEFAULT_CSS = f"""
    PressScreen {{
        {DIALOG}
        .dialog {{ width: 56; max-width: 100%; height: auto; padding: 1 2; }}
    }}
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def compose(self) -> ComposeResult:
        """What is waited for."""
        text = "Press the key. esc leaves it as it is."
        box = Static(text, classes="dialog", markup=False)
        box.border_title = self._title
        yield box

    def on_key(self, event: events.Key) -> None:
        """Any key is the answer."""
        event.stop()
        event.prevent_default()
        self.dismiss(None if event.key == "escape" else event.key)

    def on_click(self) -> None:
        """A click leaves it."""
        self.dismiss(None)


class SettingsScreen(ModalScreen[None]):
    """Three lists behind tabs; every change is kept at once."""

    DEFAULT_CSS = f"""
    SettingsScreen {{
        {DIALOG}
        #settings-tabs {{ margin-bottom: 1; }}
        Rows {{ height: 1fr; }}
        .said {{ height: 3; margin-top: 1; }}
        &.-short .said {{ margin-top: 0; }}
        Field, Field:focus {{ display: none; margin: 0; }}
        Field.-open, Field.-open:focus {{ display: block; }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", priority=True),
        Binding("q", "leave", "leave", show=False),
        HELP,
        Binding("tab", "next_tab(1)", "next", priority=True, show=False),
        Binding("shift+tab", "next_tab(-1)", "previous", priority=True, show=False),
        Binding("enter", "take", "keep or change", priority=True),
        Binding("space", "step", "next choice"),
        Binding("a", "add", "one more key"),
        Binding("x,delete,backspace", "reset", "default"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._tab = "theme"
        self._offer: settings_keys.Proposal | None = None
        """What Enter would do next: to give a key that another command has."""
        self._asked = ""
        """The permission that was warned of."""
        self._known: dict[str, tuple[str, ...]] = {}

    @property
    def _bench(self) -> Workbench:
        return cast("Workbench", self.app)

    def compose(self) -> ComposeResult:
        """Tabs, a list, what is to be said of its row, the keys."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Settings"
            yield Line(id="settings-tabs")
            yield Rows()
            yield Field()
            yield Static(classes="said", markup=False)
            yield Line(id="settings-keys")

    def on_mount(self) -> None:
        """The themes come first."""
        if not self.children:  # the workbench was left meanwhile
            return
        self._before = self.app.theme
        self._bench.trying = True
        self.query_one(Rows).focus()
        self.action_tab("theme")

    def on_unmount(self) -> None:
        """What is only looked at goes."""
        self._bench.trying = False

    # Moving

    def action_next_tab(self, by: int) -> None:
        """The next of the three lists."""
        if not self._typing:
            names = list(TABS)
            self.action_tab(names[(names.index(self._tab) + by) % len(names)])

    def action_tab(self, name: str) -> None:
        """One of the three lists."""
        self._look_away()
        self._tab = name
        self._fill()
        listing = self.query_one(Rows)
        if name != "theme" or not listing.select(self.app.theme):
            listing.action_edge(0)
        self._describe()

    def _fill(self) -> None:
        settings = self._bench.settings
        if self._tab == "theme":
            rows = self._themes()
        elif self._tab == "keys":
            rows = settings_keys.rows(settings.keymap)
        else:
            rows = settings_defaults.rows(settings)
        self.query_one(Rows).fill(rows)
        tabs = (
            f"[@click=screen.tab('{name}')]"
            f"[{'reverse b' if name == self._tab else '$foreground 60%'}] {title} [/][/]"
            for name, title in TABS.items()
        )
        self.query_one("#settings-tabs", Line).show(Content.from_markup(" ".join(tabs)))
        keys = keys_line(KEYS[self._tab] | ALWAYS)
        self.query_one("#settings-keys", Line).show(keys, "[$foreground 60%]tab next list[/]", "")

    def _themes(self) -> list[Row]:
        found = []
        for name, theme in sorted(self.app.available_themes.items()):
            kind = "dark" if theme.dark else "light"
            kind = f"{kind}, the terminal's own colours" if name.startswith("ansi") else kind
            mark = " ● " if name == self._before else "   "
            found.append(Row(name, ((mark, "on"), (f"{name:<24}", "accent"), (kind, "muted"))))
        return found

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """A theme is shown at once; of the rest it is said what it means."""
        self._offer, self._asked = None, ""
        # It may be a row of the list before, when lists are changed faster than they are drawn.
        if self._tab == "theme" and event.row.id in self.app.available_themes:
            self.app.theme = event.row.id
        self._describe()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click is Enter."""
        if event.again:
            self.call_later(self.action_take)

    def _describe(self) -> None:
        row = self.query_one(Rows).current
        if row is None:
            return
        if self._tab == "theme":
            say(self, f"{row.id}: ↵ keeps it, esc goes back to {self._before}.")
        elif self._tab == "keys":
            say(self, settings_keys.command_of(row.id).help)
        else:
            default = default_of(row.id)
            on = getattr(self._bench.settings, row.id) is True
            say(self, f"{default.about} {default.warning}", "-bad" if on else "")

    def _look_away(self) -> None:
        if self.app.theme != self._before:
            self.app.theme = self._before

    # Changing

    async def action_take(self) -> None:
        """Keep the theme, ask for a key, or change a value."""
        if self._typing:
            await self._typed()
            return
        row = self.query_one(Rows).current
        if row is None:
            return
        if self._tab == "theme":
            self._try(lambda: preferences.keep_theme(self._bench, row.id), f"{row.id} is kept.")
            self._before = self.app.theme
            self._fill()
        elif self._tab == "keys":
            if self._offer is not None and self._offer.keymap is not None:
                self._rebind(self._offer.keymap, "Both have other keys now.")
            else:
                self._ask_key(row.id, more=False)
        elif default_of(row.id).choices:
            self.action_step()
        else:
            self._open(row.id)

    def action_add(self) -> None:
        """One more key for the command at the cursor."""
        row = self.query_one(Rows).current
        if self._tab == "keys" and row is not None:
            self._ask_key(row.id, more=True)

    def action_step(self) -> None:
        """The next choice; what is dangerous is warned of first."""
        row = self.query_one(Rows).current
        if self._tab != "defaults" or row is None:
            return
        default = default_of(row.id)
        if not default.choices:
            self._open(row.id)
            return
        value = settings_defaults.following(default, getattr(self._bench.settings, row.id))
        if default.warning and value is True and self._asked != row.id:
            self._asked = row.id
            say(self, f"{default.warning} Once more allows it.", "-bad")
            return
        self._change(row.id, value)

    def action_reset(self) -> None:
        """The default again."""
        row = self.query_one(Rows).current
        if row is None or self._tab == "theme":
            return
        if self._tab == "keys":
            found = settings_keys.reset(self._bench.settings.keymap, row.id)
            if found.keymap is None:
                say(self, found.says)
            else:
                self._rebind(found.keymap, found.says)
        else:
            self._change(row.id, getattr(type(self._bench.settings)(), row.id))

    def _change(self, name: str, value: str | bool) -> None:
        self._asked = ""
        told = f"{name.replace('_', ' ')}: {settings_defaults.shown(value)}"
        self._try(lambda: preferences.change(self._bench, name, value), told)
        self._fill()

    def _ask_key(self, name: str, more: bool) -> None:
        title = settings_keys.command_of(name).title

        def pressed(key: str | None) -> None:
            if key is None:
                return
            found = settings_keys.proposed(self._bench.settings.keymap, name, key, more)
            if found.swap:
                self._offer = found
                say(self, found.says, "-bad")
            elif found.keymap is None:
                say(self, found.says, "-bad")
            else:
                self._rebind(found.keymap, found.says)

        self.app.push_screen(PressScreen(f"A key for: {title}"), pressed)

    def _rebind(self, keymap: dict[str, str], told: str) -> None:
        self._offer = None
        self._try(lambda: preferences.rebind(self._bench, keymap), told)
        self._fill()

    def _try(self, change: Callable[[], None], told: str) -> None:
        try:
            change()
        except MemwbError as error:
            say(self, f"✗ {error}", "-bad")
        else:
            say(self, told, "-good")

    # Typing a value

    @property
    def _typing(self) -> bool:
        return self.query_one(Field).has_class("-open")

    def _open(self, name: str) -> None:
        self._known = library.known_names()
        field = self.query_one(Field)
        field.value = getattr(self._bench.settings, name)
        field.placeholder = name
        field.add_class("-open")
        self.set_focus(field)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say at once what is wrong with it."""
        if self._typing:
            name = self.query_one(Field).placeholder
            wrong = settings_defaults.wrong(name, event.value.strip(), self._known)
            say(self, f"✗ {wrong}" if wrong else "↵ takes it", "-bad" if wrong else "")

    async def _typed(self) -> None:
        field = self.query_one(Field)
        await field.settled()
        name, value = field.placeholder, field.value.strip()
        if not settings_defaults.wrong(name, value, self._known):
            self._close()
            self._change(name, value)

    def _close(self) -> None:
        self.query_one(Field).remove_class("-open")
        self.query_one(Rows).focus()

    def action_leave(self) -> None:
        """Out of the field first, then away; a theme that was only looked at goes."""
        if self._typing:
            self._close()
            self._describe()
            return
        self._look_away()
        self.dismiss(None)

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "settings")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a value is typed, letters are text."""
        typing = isinstance(self.focused, Field)
        return not (typing and action in ("explain", "add", "reset", "step"))
