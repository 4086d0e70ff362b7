"""key=value words beside the options of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parse_with_late_words(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """key=value words may also stand behind an option: `CONFIG --dry-run rollout.num_stages=3`."""
    arguments, late = parser.parse_known_args(argv)
    words = next(
        (n for n in ("overrides", "config") if isinstance(getattr(arguments, n, ""), list)), ""
    )
    if late and (not words or any(word.startswith("-") for word in late)):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        setattr(arguments, words, [*getattr(arguments, words), *late])
    return arguments
