"""The workbench: composes the screens, keeps the session, and routes what is said."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace
from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen
from textual.widgets import Input

from memwb.engine import paths
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.protocol import Device
from memwb.engine.technique import GROUPS
from memwb.workbench import dialogs, guide, history, library, searching, state, workers
from memwb.workbench.bursts import Bursts
from memwb.workbench.commands import COMMANDS, keyed, keys_of
from memwb.workbench.legible import Legible, colourless
from memwb.workbench.ordering import ORDERS
from memwb.workbench.panels import texts
from memwb.workbench.predictor import Predictor
from memwb.workbench.pump import Engine, EngineEvent, EngineGone, NotRecorded, RunOpened
from memwb.workbench.replaying import Replay
from memwb.workbench.screens.main import MainScreen
from memwb.workbench.settings import Settings, doubts, save_session, save_setting
from memwb.workbench.state import Session
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.catalog import Model
    from memwb.engine.runs import Summary

OWN_ACTIONS = {c.action.removeprefix("app.") for c in COMMANDS if c.action.startswith("app.")}
OWN_ACTIONS.discard("command_palette")


class Workbench(App[None]):
    """Owns the session and the engine; every panel is given what it shows."""

    TITLE = "memwb"
    CSS_PATH: ClassVar[str] = "workbench.tcss"
    # In the screens over the main one letters may be text.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+g", "jump_mode", "jump", show=False, priority=True)
    ]

    def __init__(
        self,
        session: Session,
        settings: Settings | None = None,
        engine: Callable[[], Engine] | None = None,
        warning: MemwbError | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.settings = settings or Settings()
        self.model: Model | None = None
        self.recorded: list[Summary] = []
        self.trying = False
        """Whether themes are only looked at."""
        self._warning = warning
        self._model_error = ""
        self._legible = Legible()
        self.bursts = Bursts(self, engine or library.engine)
        self.predictor = Predictor(self)
        self.replay = Replay(self)
        self.main = MainScreen(self, session)

    # Starting

    def get_default_screen(self) -> Screen[None]:
        """The main screen."""
        return self.main

    def on_mount(self) -> None:
        """Theme and keys now; everything slow after the first paint."""
        self.set_keymap(
            {
                c.id: keys_of(c, self.settings.keymap)
                for c in COMMANDS
                if c.id in self.settings.keymap
            }
        )
        if self.settings.theme in self.available_themes:
            self.theme = self.settings.theme
        elif self.console.color_system == "standard" and not self.is_headless:
            # Any other theme's colours would be rounded to sixteen, some of them to the same one.
            self.theme = "ansi-dark"
        self.call_after_refresh(self._after_first_paint)

    def _after_first_paint(self) -> None:
        gc.enable()
        if not self.is_running:  # left already
            return
        self.bursts.start_engine()
        workers.start(self, "fields", self.main.plan_panel.prepare)
        workers.start(self, "history", history.load, self)
        self.set_interval(history.OFTEN, lambda: history.follow(self))
        workers.start(self, "device", self._assume_device)
        self.resolve_model()
        if self._warning is not None:
            self.tell_error(self._warning)
        elif found := doubts(self.settings, self.available_themes):
            title = "Not everything in the settings can act"
            how = keyed("$settings changes it, or an editor: ", self.settings.keymap)
            text = "\n".join([*found, f"{how}{paths.settings_file()}"])
            self.main.tell("warning", title, text)
        # Changing the theme is kept from here on, not while it is being set at the start.
        self.theme_changed_signal.subscribe(self, lambda theme: self._keep_theme(theme.name))

    async def _assume_device(self) -> None:
        """What cannot run here is told before the engine has answered, which takes seconds."""
        found = await asyncio.to_thread(library.assumed_device)
        if self.device is None:
            self.main.plan_panel.meet(found)
        guide.greet(self, gpu=found.kind == "cuda")

    def _keep_theme(self, name: str) -> None:
        if self.trying:
            return
        try:
            save_setting("theme", name)
        except MemwbError as error:
            self.main.tell("warning", error.title, f"{error.what}\n{error.fix}")

    # The engine speaks

    def on_engine_event(self, message: EngineEvent) -> None:
        """One event, in its order."""
        # While the screen is being taken down there is nothing left to show it on.
        if self.main.children:
            self.bursts.hear(message.event)

    def on_run_opened(self, message: RunOpened) -> None:
        """The burst is recorded."""
        self.bursts.opened(message.folder, message.number)

    def on_not_recorded(self, message: NotRecorded) -> None:
        """The burst goes on without a folder."""
        self.tell_error(message.error)

    def on_engine_gone(self, message: EngineGone) -> None:
        """The process is no more."""
        self.bursts.gone(message.reason)

    @property
    def engine_state(self) -> str:
        """What the engine is doing: see ``Bursts``."""
        return self.bursts.engine_state

    @property
    def device(self) -> Device | None:
        """Where bursts run, once the engine has said it."""
        return self.bursts.device

    @property
    def live(self) -> Trace | None:
        """The burst that runs or ran last."""
        return self.bursts.live

    @property
    def busy(self) -> bool:
        """Whether a burst runs, or has not ended yet."""
        return self.bursts.busy

    # The session changes

    def keep(self, session: Session) -> None:
        """Another session: on the screen, and in its file."""
        row = self.main.plan_panel.row
        self.session = session = state.standing(session, row.id if row is not None else "")
        facts = texts.model_facts(self.model, self._model_error)
        self.main.show_session(session, facts, self.device, self.config)
        self.main.show_runs(self.recorded, session)
        self.bursts.show()
        self.predictor.follow()
        try:
            save_session(session)
        except OSError as error:
            where = "Make it writable, or set MEMWB_HOME to another folder."
            self.main.tell("warning", "The session cannot be kept", f"{error}\n{where}")

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The model's config; not of the model before while another is still being looked for."""
        fits = self.model is not None and self.model.name == self.session.plan.model
        return self.model.config if self.model is not None and fits else None

    def change_plan(self, plan: Plan) -> None:
        """Another plan; the one before can be had back with undo."""
        self._take(state.edited(self.session, plan))

    def take_plan(self, plan: Plan, how: str) -> None:
        """A whole plan from elsewhere; what it changes is said."""
        before = self.session.plan
        self.change_plan(plan)
        self.main.plan_panel.went(before, how)

    def begin_with(self, plan: Plan) -> None:
        """A plan that the next edits begin from."""
        self._take(state.begun(self.session, plan))

    def _take(self, session: Session) -> None:
        before = self.session.plan
        if before != session.plan:
            self.bursts.edited()
            if self.main.notice.passing:
                self.main.notice.clear()
        self.keep(session)
        if (before.model, before.weights) != (session.plan.model, session.plan.weights):
            self.model = None
            self.resolve_model()

    @property
    def target(self) -> str:
        """What plans are predicted for; empty means this machine."""
        return self.settings.target

    def aim(self, target: str) -> None:
        """Predict for another target, from now on and at the next start."""
        self.settings = replace(self.settings, target=target)
        try:
            save_setting("target", target)
        except MemwbError as error:
            self.main.tell("warning", error.title, f"{error.what}\n{error.fix}")
        self.predictor.follow()

    def fold(self, group: str) -> None:
        """Fold a group of the plan, or unfold it."""
        self.keep(state.folded(self.session, group))

    def fold_all(self) -> None:
        """Fold every group of the plan, or unfold them if all are."""
        groups = ("model", "workload", *(group.name for group in GROUPS))
        self.keep(state.folded_all(self.session, groups))

    def arrange(self, layout: Session) -> None:
        """Another panel has the focus, or the screen for itself."""
        arrives = layout.tab == "runs" != self.session.tab
        self.keep(state.arranged(self.session, layout))
        if arrives:
            # Another workbench or the command line may have made runs meanwhile.
            workers.start(self, "history", history.look_again, self)

    def on_app_focus(self) -> None:
        """Whoever comes back to this terminal may have made or named runs in another."""
        if self.bursts.engine_state != "starting":
            workers.start(self, "history", history.look_again, self)

    def show_runs(self) -> None:
        """The chosen run, or the marked ones, in the charts."""
        workers.displace(self, "show", history.show, self)

    def show_run(self, folder: str, charts: bool = True) -> None:
        """One run in the charts; without them it is only the chosen one."""
        self.keep(state.shown(self.session, folder))
        if charts:
            self.show_runs()

    def resolve_model(self) -> None:
        """Look for the plan's model again."""
        plan = self.session.plan
        workers.displace(self, "model", self._resolve, plan)

    async def _resolve(self, plan: Plan) -> None:
        self._model_error = ""
        try:
            self.model = await asyncio.to_thread(library.resolve, plan, self.settings)
        except MemwbError as error:
            self.model, self._model_error = None, error.title
        self.keep(self.session)
        self.predictor.show()  # one that the hub alone knows is waited for longer

    # Actions

    # What needs no more than the app.
    action_compare = history.mark
    action_delete_run = dialogs.ask_delete
    action_replay = history.replay
    action_restart_engine = dialogs.restart
    action_copy = dialogs.copy
    action_jump_mode = dialogs.jump
    action_model = dialogs.choose_model
    action_target = dialogs.choose_target
    action_inspect_peak = dialogs.inspect_peak
    action_settings = dialogs.change_settings
    action_export = dialogs.export
    action_load_preset = dialogs.load_preset
    action_save_preset = dialogs.save_preset
    action_plan_text = dialogs.edit_text
    action_command_palette = dialogs.search

    def action_run(self) -> None:
        """Run the plan."""
        self.bursts.run()

    def action_stop(self) -> None:
        """Leave off a replay, or ask the burst to stop."""
        if not self.replay.end():
            self.bursts.stop()

    def action_sort_runs(self, name: str = "") -> None:
        """Sort the history by something, the other way round if it is; without it by the next."""
        self.keep(state.ordered(self.session, name, list(ORDERS)))
        self.main.action_jump("runs")

    def action_turn_runs(self) -> None:
        """Sort the history the other way round."""
        self.action_sort_runs(self.session.sort)

    def action_name_run(self) -> None:
        """Give the run at the cursor of the history a name."""
        dialogs.describe_run(self, "$name_run names", "name")

    def action_note_run(self) -> None:
        """Note something of the run at the cursor of the history."""
        dialogs.describe_run(self, "$note_run notes something of", "note")

    def action_pin_run(self) -> None:
        """Make the run at the cursor of the history the baseline, or no longer."""
        run = history.chosen(self, "$pin pins")
        if run is not None:
            workers.displace(self, "pin", history.pin, self, run)

    def action_undo(self) -> None:
        """Take back the last edit."""
        self._go(state.undone(self.session), "undone")

    def action_redo(self) -> None:
        """Make it again."""
        self._go(state.redone(self.session), "done again")

    def _go(self, session: Session, how: str) -> None:
        before = self.session.plan
        if session is self.session:
            self.notify(f"There is nothing to be {how}.")
            return
        self._take(session)
        self.main.plan_panel.went(before, how)

    def action_guide(self) -> None:
        """End the guided first session, or begin it."""
        self.keep(state.guide_turned(self.session))

    def action_ask_quit(self) -> None:
        """Quit, with the cursor kept; a burst that runs or waits to is asked about once."""
        self.keep(self.session)
        if self.busy or self.bursts.wanted:
            dialogs.ask_quit(self)
        else:
            self.exit()

    async def action_quit(self) -> None:
        """Textual's own key for it, ctrl+q, from whichever screen: the same question."""
        self.action_ask_quit()

    def action_help_quit(self) -> None:
        """Ctrl+c, by which many mean to quit."""
        self.notify("ctrl+q quits; a running burst is asked about first.")

    async def on_event(self, event: events.Event) -> None:
        """What is typed while a screen opens is for that screen, as soon as it is there."""
        typed = isinstance(event, events.InputEvent) and self.screen_stack
        if typed and (not await dialogs.opened(self.screen) or dialogs.gone(self.screen, event)):
            return
        await super().on_event(event)

    def push_screen(self, screen: Any, *rest: Any, **more: Any) -> Any:
        """Open a screen; one that is left twice, by keys typed fast, is left once."""
        return super().push_screen(dialogs.once(screen), *rest, **more)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own, then ours: see ``memwb.workbench.legible``."""
        found = super().get_line_filters()
        return [*(colourless(found) if self.native_ansi_color else found), self._legible]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While one types into a field of the main screen, letters are text."""
        typing = self.screen is self.main and isinstance(self.focused, Input)
        return not (typing and action in OWN_ACTIONS)

    async def on_unmount(self) -> None:
        """The engine ends with the workbench."""
        await self.bursts.close_engine()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of the screen in front by name, with its key."""
        return searching.commands(self, screen)

    def tell_error(self, error: MemwbError) -> None:
        """What was wrong and what to do, above the footer."""
        self.main.tell("error", error.title, "\n".join(p for p in (error.what, error.fix) if p))
