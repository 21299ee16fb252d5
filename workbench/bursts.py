"""The engine and its bursts: started, heard, watched, stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memwb.engine.client import DIED, GARBLED, TOO_LONG
from memwb.engine.errors import MemwbError
from memwb.engine.plan import problems
from memwb.engine.protocol import (
    AllPredicted,
    Command,
    Device,
    Ended,
    Event,
    Hello,
    Loaded,
    Peak,
    Predicted,
    Problem,
    Ready,
    Started,
    Step,
    Stop,
    Toggled,
    Unpredicted,
)
from memwb.workbench import dialogs, history, state, watch, workers
from memwb.workbench.commands import key_for
from memwb.workbench.panels import texts
from memwb.workbench.pump import Engine, Pump
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from textual.timer import Timer

    from memwb.engine.guard import Baseline
    from memwb.workbench.app import Workbench
    from memwb.workbench.state import Session

WAITS = "predicting, then it runs…"
"""What a run does that waits for what is predicted of it."""


class Bursts:
    """Holds the engine, what it is doing, and the burst that it runs or ran last."""

    def __init__(self, app: Workbench, factory: Callable[[], Engine]) -> None:
        self.app = app
        self.engine_state = "starting"
        """starting, ready, running, stopping, restarting or dead."""
        self.device: Device | None = None
        self.live: Trace | None = None
        self.folder = ""
        """Of the live burst."""
        self.baseline: Baseline | None = None
        """The run that the live burst's losses are held against."""
        self._factory = factory
        self._pump: Pump | None = None
        self._label = self._failure = ""
        self._foretold: Peak | None = None
        self.wanted = False
        """Whether a run waits for the engine, or for what is predicted of it."""
        self._running = False
        self._watch = watch.Watch()
        self._clock: Timer | None = None
        self._turns: Timer | None = None
        """Moves what turns in the header while something is waited for."""
        self._since = watch.now()
        """When the engine came into its state."""
        self._doing = "starting"
        """Its state, or ``loading`` where it has begun to start."""
        self._again = False
        """Whether the engine is being ended only to be started again."""

    @property
    def silent(self) -> bool:
        """Whether the engine does not respond."""
        return self._watch.silent

    @property
    def busy(self) -> bool:
        """Whether a burst runs, or has not ended yet."""
        return self.engine_state in ("running", "stopping")

    @property
    def followed(self) -> bool:
        """Whether the live burst is what the charts show."""
        session = self.app.session
        told = self.app.replay.folder
        return len(session.marks) < 2 and session.shown == self.folder and not told

    # The engine

    def start_engine(self) -> None:
        """Bring up a process; what it says comes as messages of the app."""
        try:
            self._pump = Pump(self._factory, self.app.post_message)
        except MemwbError as error:
            self.gone(error)
            return
        self._watch = watch.Watch()
        self._clock = self._clock or self.app.set_interval(watch.EVERY, self.look)
        if self._turns is None and self.app.animation_level != "none":
            self._turns = self.app.set_interval(watch.FRAME, self.show_doing, pause=True)
        self._become("starting")
        workers.displace(self.app, "engine", self._pump.run)

    def restart(self) -> None:
        """End the engine's process, whatever it is doing, and start another."""
        self.app.main.notice.clear()
        if self._pump is None:
            self.start_engine()
        elif not self._again:
            self._again = True
            self._become("restarting")
            workers.start(self.app, "restart", self.close_engine)

    def look(self) -> None:
        """See whether the engine still speaks."""
        if not self.app.main.children:  # the workbench is being left
            return
        if self._watch.look(self.engine_state):
            told = watch.not_responding(self._watch.seconds, self._key("restart"))
            self.app.main.tell("warning", *told)
        if self.silent or self._doing in watch.MOVING:
            self.show_doing()

    def _key(self, command: str) -> str:
        return key_for(command, self.app.settings.keymap)

    async def close_engine(self) -> None:
        """End the engine and wait for it; a burst of it ends as stopped."""
        if self._pump is not None:
            await self._pump.close()

    def tell(self, command: Command) -> None:
        """Send the engine a command. Raises MemwbError when it is gone."""
        if self._pump is not None:
            self._pump.send(command)

    def hear(self, event: Event) -> None:
        """One event: the state of the engine, the live trace, the screen."""
        app = self.app
        if self._pump is not None:
            self._pump.heard()
        if self._watch.heard():
            app.main.notice.clear()
            self.show()
        match event:
            case Hello():
                self._become("starting", "loading")
            case Ready():
                self.device = event.device
                app.main.plan_panel.meet(event.device)
                self._become("ready")
                app.main.memory.empty(texts.first_steps(app.settings.keymap))
                app.predictor.follow()
                if self.wanted:
                    self.run()
            case Problem(title=title) if title in (GARBLED, TOO_LONG):
                said = self._watch.unreadable(event, self._key("restart"))
                if said is not None:
                    app.main.tell("warning", *said)
            case Problem():
                app.main.tell("error", event.title, "\n".join((event.what, event.fix)).strip())
                if not self._running and self.busy:
                    self._become("ready")
            case Predicted() | Toggled() | Unpredicted() | AllPredicted():
                app.predictor.hear(event)
            case _:
                self._trace(event)

    def _trace(self, event: Event) -> None:
        app = self.app
        if isinstance(event, Started):
            self.live = Trace(self._label)
            self.live.baseline = self.baseline
            self.live.predicted = self._foretold
            self._running = True
            app.main.notice.clear()
        if self.live is not None:
            self.live.apply(event)
        if isinstance(event, Started):
            self._become("running")
        if isinstance(event, Loaded | Step):
            self.show()
        if isinstance(event, Ended):
            self._ended(event)
        elif self.live is not None and self.followed:
            app.main.take(event, self.live)

    def _ended(self, event: Ended) -> None:
        app = self.app
        label = self.live.label if self.live is not None else ""
        if event.outcome == "done" and event.title:
            text = "\n".join((event.what, event.fix))
            app.main.tell("warning", f"{label} {event.title}".strip(), text)
        elif event.outcome == "done":
            app.main.notice.clear()
        else:
            kind, title, text = texts.outcome(event, label, app.settings.keymap)
            # Of the engine's end only what ran at that moment is an explanation.
            self._failure = f"{title}: {event.what}" if event.title == DIED else ""
            app.main.tell(kind, title, text, passing=event.outcome == "refused")
        self._running = False
        self._become("ready")
        if event.outcome == "done" and app.session.guide in ("run", "again"):
            app.keep(self._guided(app.session))
        if self.live is not None:
            history.judge(app, self.live)
        if self.live is not None and self.followed:
            app.main.show_trace(self.live)
        app.predictor.follow()
        workers.start(app, "history", history.load, app)

    def _guided(self, session: Session) -> Session:
        """The session after a burst; what was done while it ran need not be done again."""
        after = state.guided(session, session.guide)
        if len(session.marks) > 1 and self.folder in session.marks:
            after = state.guided(after, "compare")
        ran = self.live.techniques if self.live is not None else ()
        toggled = set(ran) != set(session.plan.techniques)
        return state.guided(after, "toggle") if toggled and session.guide == "run" else after

    def opened(self, folder: str, number: int) -> None:
        """The burst has a folder: it is in the history and in the charts from now on."""
        app = self.app
        self.folder, self._label = folder, f"#{number}"
        app.replay.leave()
        session = state.shown(app.session, folder)
        narrow = app.main.has_class("-narrow")
        if narrow and session.tab == "plan" and not app.main.typing:
            session = state.at(session, "memory")
        app.keep(session)
        workers.start(app, "history", history.load, app)
        workers.displace(app, "baseline", history.find_baseline, app, folder)

    def gone(self, reason: MemwbError | None) -> None:
        """The process is no more: say so, and how to go on."""
        self._pump = None
        self._running = False
        again, self._again = self._again, False
        if again:  # a run that waits for the engine waits for the next one
            self.start_engine()
            return
        self._unwant()
        self._become("dead")
        self.app.predictor.follow()
        self.app.predictor.show()
        title, told = "The engine's process is gone", [self._failure]
        if reason is not None:
            title, told = reason.title, [reason.what, reason.fix]
        key = self._key("run")
        rest = f"Nothing of the plan or the history is lost. Press {key} to start it again."
        self._failure = ""
        self.app.main.tell("error", title, "\n".join(part for part in (*told, rest) if part))

    # What it does

    def _become(self, engine: str, doing: str = "") -> None:
        # What an engine still says while it is being ended changes nothing of that.
        self.engine_state = "restarting" if self._again else engine
        doing = self.engine_state if self._again or not doing else doing
        if self._doing != doing:
            # A start is one wait, of two parts.
            self._since = self._since if doing == "loading" else watch.now()
            self._doing = doing
        if self._turns is not None:
            (self._turns.resume if doing in watch.MOVING else self._turns.pause)()
        self.show()

    def show(self) -> None:
        """What the engine is doing, in the header, and what can be done meanwhile."""
        self.show_doing()
        if self.app.main.children:
            state = "waiting" if self._waits else self.engine_state
            self.app.main.show_footer("silent" if self.silent else state)

    @property
    def _waits(self) -> bool:
        """Whether a run begins by itself, sooner or later."""
        return self.wanted and self.engine_state in ("starting", "restarting", "ready")

    def show_doing(self) -> None:
        """What the engine is doing, in the header."""
        app, engine = self.app, self.engine_state
        doing = app.replay.doing
        if engine == "running":
            doing = doing or texts.progress(self.live, self._key("stop"))
        if self._waits:
            doing = "runs when the engine is ready"
            if engine == "ready":
                doing = f"{WAITS} · {self._key('stop')} takes it back"
        if engine == "dead":
            doing = doing or f"engine gone · {self._key('run')} starts it"
        if self.silent:
            key = self._key("restart")
            engine = "silent"
            doing = f"not responding for {self._watch.seconds:.0f} s · {key} restarts it"
        elif self._doing in watch.MOVING:
            waited = watch.now() - self._since
            turns = watch.frame(waited, app.animation_level == "none")
            doing = turns + (doing or texts.ENGINE[engine][0]) + watch.waits(self._doing, waited)
        app.main.show_header(app.model, self.device, engine, doing)

    # Running

    def run(self) -> None:
        """Run the plan as soon as the engine is ready; a dead one is only started again."""
        app = self.app
        if self.refused(self.device):
            return
        if self.engine_state == "dead":
            app.main.notice.clear()
            self.start_engine()
            return
        if self.busy:
            stopping = self.engine_state == "stopping"
            app.notify(
                "The burst is stopping; the next can run when it has."
                if stopping
                else f"A burst is running; {self._key('stop')} stops it."
            )
            return
        self.wanted = True
        if self.engine_state in ("starting", "restarting") or app.predictor.held():
            self.show()
            return
        title, text = app.predictor.doubt()
        if title:
            self._unwant()
            self.show()
            dialogs.ask_run(app, title, text)
        else:
            self.run_now()

    def refused(self, device: Device | None = None) -> bool:
        """Whether the plan cannot run as it stands, on a device if one is given; that is told."""
        app = self.app
        found = problems(app.session.plan, app.config, device)
        title, text = texts.refusal(found, app.settings.keymap)
        if title:
            app.main.tell("error", title, text, passing=True)
        return bool(title)

    def predicted(self) -> None:
        """An answer is there, or was waited for long enough: a run that waits goes on, or asks."""
        if self.wanted and self.engine_state == "ready":
            self.run()

    def edited(self) -> None:
        """The plan is about to be another: a run of it that waits is taken back."""
        if self.wanted:
            self._unwant()
            key = self._key("run")
            self.app.notify(f"The plan has changed before it ran; {key} runs it as it is now.")

    def _unwant(self) -> None:
        """No run waits any more."""
        self.wanted = False
        self.app.predictor.unheld()

    def run_now(self) -> None:
        """Start the burst, whatever was predicted of it."""
        self._unwant()
        if self._pump is None or self.engine_state != "ready":
            return
        # Until the burst has started there is nothing of it to show.
        self.live, self.folder, self._label, self._failure = None, "", "", ""
        self.baseline = None
        self._watch.heard()
        self._become("running")
        dialogs.ask_quit_again(self.app)
        self._foretold = self.app.predictor.ran()
        try:
            self._pump.start(self.app.session.plan, self.app.settings, self._foretold)
        except MemwbError:  # it has just died, which is told elsewhere
            self._become("ready")

    def foretell(self, peak: Peak) -> None:
        """What was predicted of the running burst has come after its start."""
        self._foretold = peak
        if self.live is not None:
            self.live.predicted = peak
        if self._pump is not None and self._running:
            workers.start(self.app, "foretell", self._pump.foretell, peak)

    def stop(self) -> None:
        """Ask the burst to stop, or take back one that waits."""
        waited = self.wanted
        self._unwant()
        if self.engine_state == "running" and self._pump is not None:
            self._pump.send(Stop())
            self._watch.heard()
            self._become("stopping")
        elif self.engine_state != "stopping":
            self.show()
            self.app.predictor.not_run()
            self.app.notify("The run is taken back." if waited else "Nothing is running.")
