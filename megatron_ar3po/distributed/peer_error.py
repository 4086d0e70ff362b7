"""A failure of another rank, and what is told with an error of this one; apart from `collectives`, for those who do not
want torch yet."""

from __future__ import annotations


class PeerError(RuntimeError):
    """Another rank failed; this one stops with it."""


def add_note(error: BaseException, note: str) -> None:
    """As `error.add_note` of Python 3.11, whose tracebacks show it; of other ranks, and one sentence."""
    error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
    error.of_other_ranks = [*notes_of(error), note]  # type: ignore[attr-defined]


def notes_of(error: BaseException) -> list[str]:
    """Those that `add_note` made: a note of somebody else may be a traceback."""
    return list(getattr(error, "of_other_ranks", ()))
