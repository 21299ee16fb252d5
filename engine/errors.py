"""The one exception a user can meet, and the hint for a mistyped name."""

from __future__ import annotations

from collections.abc import Collection


class MemwbError(Exception):
    """Something the user can put right: what was wrong, where, and what to do.

    ``title`` names the problem in a few words, ``what`` says what happened and where
    (a TOML path, a file), ``fix`` says what to do. ``str()`` joins the three.
    """

    def __init__(self, title: str, what: str = "", fix: str = "") -> None:
        super().__init__(title, what, fix)
        self.title = title
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.what, self.fix) if part)


def nearest(name: str, known: Collection[str]) -> str:
    """``did you mean 'x'?`` for the closest known name, or an empty string.

    Names that begin with what was typed come before all others: up to three of them, or the one
    that lacks a letter or two.
    """
    typed = name.lower()
    longer = sorted(one for one in known if len(typed) > 1 and one.startswith(typed))[:3]
    if longer and len(longer[0]) - len(typed) <= 2:
        return f"did you mean {longer[0]!r}?"
    if longer:
        *some, last = map(repr, longer)
        return f"did you mean {', '.join(some)}{' or ' if some else ''}{last}?"
    import difflib  # 16 ms, and most sessions mistype nothing

    found = difflib.get_close_matches(typed, sorted(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else ""


class CannotPredict(MemwbError):
    """A plan that cannot be predicted, and the technique that it is due to."""

    def __init__(self, title: str, what: str, fix: str, technique: str = "") -> None:
        super().__init__(title, what, fix)
        self.technique = technique
