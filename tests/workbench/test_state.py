from __future__ import annotations

from memwb.engine.plan import Plan, override
from memwb.workbench import state
from memwb.workbench.state import UNDO_DEPTH, Session


def session() -> Session:
    return Session(Plan(model="tiny"))


def test_an_edit_can_be_undone_and_made_again() -> None:
    first = session()
    second = state.edited(first, override(first.plan, "lora=on"))
    third = state.edited(second, override(second.plan, "lora.rank=4"))
    back = state.undone(state.undone(third))
    assert back.plan == first.plan
    assert state.redone(state.redone(back)).plan == third.plan


def test_an_edit_after_an_undo_forgets_what_was_undone() -> None:
    start = session()
    undone = state.undone(state.edited(start, override(start.plan, "lora=on")))
    assert state.edited(undone, override(start.plan, "sgd=on")).redo == ()


def test_an_edit_that_changes_nothing_is_no_step_of_undo() -> None:
    start = session()
    assert state.edited(start, start.plan) is start


def test_undo_has_an_end() -> None:
    now = session()
    assert state.undone(now) is now
    assert state.redone(now) is now
    for steps in range(1, UNDO_DEPTH + 20):
        now = state.edited(now, override(now.plan, f"steps={steps}"))
    assert len(now.undo) == UNDO_DEPTH


def test_a_mark_marks_the_run_it_is_put_on_and_no_other() -> None:
    start = state.shown(session(), "runs/0002")
    once = state.marked(start, "runs/0001")
    assert once.marks == ("runs/0001",) and once.shown == "runs/0002"
    assert state.marked(once, "runs/0001").marks == ()


def test_up_to_four_runs_can_be_marked_and_no_fifth() -> None:
    four = session()
    for name in "abcd":
        four = state.marked(four, name)
    assert four.marks == ("a", "b", "c", "d")
    assert state.marked(four, "e") == four
    assert state.marked(four, "b").marks == ("a", "c", "d")


def test_a_run_that_is_gone_is_neither_shown_nor_marked() -> None:
    two = state.marked(state.marked(state.shown(session(), "a"), "a"), "b")
    left = state.without_run(two, "a")
    assert left.marks == ("b",) and left.shown == ""
    assert state.without_run(two, "c") == two


def test_showing_a_run_ends_a_comparison() -> None:
    two = state.marked(state.marked(session(), "a"), "b")
    assert state.shown(two, "a").marks == ()


def test_a_group_folds_and_unfolds() -> None:
    once = state.folded(session(), "optimizer")
    assert once.folded == ("optimizer",)
    assert state.folded(once, "optimizer").folded == ()
