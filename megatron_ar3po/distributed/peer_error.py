"""A failure of another rank, and what is told with an error of this one; apart from `collectives`, for those who do not
want torch yet."""

from __future__ import annotations


class PeerError(RuntimeError):
    """Another rank failed; this one stops with it."""


def add_note(error: BaseException, note: str) -> None:
    """As `error.add_note` of Python 3.11, whose tracebacks show it."""
    error.__notes__ = [*notes_of(error), note]  # type: ignore[attr-defined]


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))
