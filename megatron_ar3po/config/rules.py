"""How the rule of an option is said: what was found, what it clashes with, what to do."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """A rule a user can mend: the message says what was found, what it clashes with, what to do."""
    if not condition:
        raise ValueError(message)


def require_name_or_path(option: str, value: str, names: tuple[str, ...]) -> None:
    """A built-in name, or the import path of a user's own function (checked by import when the run starts)."""
    module, colon, function = value.partition(":")
    is_path = (
        bool(colon)
        and function.isidentifier()
        and all(part.isidentifier() for part in module.split("."))
    )
    require(
        value in names or is_path,
        f"{option}={value} is neither one of {', '.join(names)} nor an import path; write one of these names, or "
        "'package.module:function' for a function of your own.",
    )
