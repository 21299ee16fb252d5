"""What panels ask of whoever holds the session."""

from __future__ import annotations

from typing import Protocol

from memwb.engine.plan import Plan
from memwb.workbench.settings import Settings
from memwb.workbench.state import Session


class Owner(Protocol):
    """Changes of the session, made at once.

    A message would be handled after keys that were typed later: "space, r" must run the plan
    that the space bar made.
    """

    settings: Settings

    def change_plan(self, plan: Plan) -> None:
        """Another plan; the one before can be had back."""

    def take_plan(self, plan: Plan, how: str) -> None:
        """A whole plan from elsewhere; what it changes is said."""

    def fold(self, group: str) -> None:
        """Fold a group of the plan, or unfold it."""

    def fold_all(self) -> None:
        """Fold every group of the plan, or unfold them if all are."""

    def arrange(self, layout: Session) -> None:
        """Take over the layout of a session."""

    def show_run(self, folder: str) -> None:
        """One run in the charts."""

    def action_model(self) -> None:
        """Choose a model."""
