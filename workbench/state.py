"""The session as plain frozen data: the plan and its history, the runs looked at, the layout."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from memwb.engine.plan import Plan

UNDO_DEPTH = 50
MARKS = 4
"""Runs that can be compared at once: more lines in one chart are not told apart."""
GUIDE = ("run", "toggle", "again", "compare", "export", "done")
"""The deeds of the guided first session in their order; at the last it says goodbye."""


class Session(msgspec.Struct, frozen=True):
    """What a person would miss after quitting. An edit makes a new one."""

    plan: Plan
    undo: tuple[Plan, ...] = ()
    """Earlier plans, the latest last."""
    redo: tuple[Plan, ...] = ()
    shown: str = ""
    """The folder of the run in the charts; empty follows the latest."""
    marks: tuple[str, ...] = ()
    """Folders of at most four runs laid over each other, the filled one first."""
    sort: str = "time"
    """What the history is sorted by."""
    turned: bool = False
    """Whether it is sorted the other way round."""
    folded: tuple[str, ...] = ()
    """Groups of the plan that are folded."""
    row: str = ""
    """The row of the plan that the cursor stands on."""
    tab: str = "plan"
    """The panel with the focus, and the one visible in a narrow terminal."""
    maximised: bool = False
    """Only that panel is shown."""
    sizes: dict[str, float] = {}
    """What the panels that were given another size have of the screen: see ``sizes``."""
    target: str = ""
    """The folder last exported to."""
    guide: str = ""
    """Which deed of the guided first session is next; empty where nobody is guided."""
    base: Plan | None = None
    """The plan that all edits began from: that of a preset, or what was opened."""
    text: str = ""
    """The plan as it was last written as TOML: its comments are kept."""
    greeted: bool = True
    """Whether what a first start says once has been said."""


def edited(session: Session, plan: Plan) -> Session:
    """The session with another plan; the old one can be had back."""
    if plan == session.plan:
        return session
    undo = (*session.undo, session.plan)[-UNDO_DEPTH:]
    made = replace(session, plan=plan, undo=undo, redo=())
    toggled = plan.techniques.keys() != session.plan.techniques.keys()
    return guided(made, "toggle") if toggled else made


def begun(session: Session, plan: Plan) -> Session:
    """The session with a plan that its edits begin from."""
    return replace(edited(session, plan), base=plan, text="")


def written(session: Session, text: str) -> Session:
    """The session with the text that its plan was read from."""
    return replace(session, text=text)


def beginning(session: Session) -> Plan:
    """The plan that the edits began from, as far as that is known."""
    return session.base or (*session.undo, session.plan)[0]


def undone(session: Session) -> Session:
    """The session before its last edit; itself when there was none."""
    if not session.undo:
        return session
    *rest, plan = session.undo
    return replace(session, plan=plan, undo=tuple(rest), redo=(*session.redo, session.plan))


def redone(session: Session) -> Session:
    """The session with the edit made again that was undone last."""
    if not session.redo:
        return session
    *rest, plan = session.redo
    return replace(session, plan=plan, redo=tuple(rest), undo=(*session.undo, session.plan))


def folded(session: Session, group: str) -> Session:
    """The session with a group of the plan folded, or unfolded if it was."""
    if group in session.folded:
        kept = tuple(name for name in session.folded if name != group)
        return replace(session, folded=kept)
    return replace(session, folded=(*session.folded, group))


def folded_all(session: Session, groups: tuple[str, ...]) -> Session:
    """The session with all of these groups folded, or none if they were all folded."""
    shut = set(groups) <= set(session.folded)
    return replace(session, folded=() if shut else groups)


def shown(session: Session, folder: str) -> Session:
    """The session with one run in the charts and nothing laid over it."""
    return replace(session, shown=folder, marks=())


def known(session: Session, folders: Iterable[str]) -> Session:
    """The session without marks of runs that are no more: others may have deleted them."""
    there = set(folders)
    return replace(session, marks=tuple(mark for mark in session.marks if mark in there))


def marked(session: Session, folder: str) -> Session:
    """The session with a run marked for comparison, or no longer if it was.

    One mark alone changes nothing in the charts; beyond MARKS none is taken.
    """
    if folder in session.marks:
        return replace(session, marks=tuple(mark for mark in session.marks if mark != folder))
    made = replace(session, marks=(*session.marks, folder)[:MARKS])
    return guided(made, "compare") if len(made.marks) > 1 else made


def without_run(session: Session, gone: str) -> Session:
    """The session without a run that is no more."""
    marks = tuple(mark for mark in session.marks if mark != gone)
    return replace(session, marks=marks, shown="" if session.shown == gone else session.shown)


def sorted_by(session: Session, name: str, turned: bool = False) -> Session:
    """The session with the history in another order."""
    return replace(session, sort=name, turned=turned)


def ordered(session: Session, name: str, names: list[str]) -> Session:
    """The session with the history by a name, the other way round if it is; without by the next."""
    at = names.index(session.sort) if session.sort in names else -1
    turned = name == session.sort and not session.turned
    return sorted_by(session, name or names[(at + 1) % len(names)], turned)


def arranged(session: Session, other: Session) -> Session:
    """The session with the layout of another."""
    return replace(session, tab=other.tab, maximised=other.maximised, sizes=other.sizes)


def standing(session: Session, row: str) -> Session:
    """The session with the cursor on a row of the plan."""
    return replace(session, row=row)


def exported(session: Session, target: str) -> Session:
    """The session that remembers where it exported to."""
    return guided(replace(session, target=target), "export")


def newcomer(session: Session) -> Session:
    """The session of a first start: guided, and with the techniques before the workload."""
    return replace(session, guide=GUIDE[0], greeted=False, folded=("workload",))


def guided(session: Session, done: str) -> Session:
    """The session after a deed: the guide goes on if it is the one that it waits for."""
    if done != session.guide or done not in GUIDE:
        return session
    return replace(session, guide=(*GUIDE, "")[GUIDE.index(done) + 1])


def guide_turned(session: Session) -> Session:
    """The session without its guide, or guided from the first step on."""
    return replace(session, guide="" if session.guide else GUIDE[0])


def at(session: Session, tab: str) -> Session:
    """The session with another panel in front."""
    return replace(session, tab=tab)
