"""Word lists that read as one."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """
    >>> words("sin cos tan")
    ['sin', 'cos', 'tan']
    """
    return text.split()
