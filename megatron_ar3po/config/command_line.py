"""key=value words beside the options of a command, and beside config files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from megatron_ar3po.config.declared import fields_of
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.schema import Config


def parse_with_late_words(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """key=value words may also stand behind an option: `CONFIG --dry-run rollout.num_stages=3`."""
    arguments, late = parser.parse_known_args(argv)
    words = next(
        (
            n
            for n in ("overrides", "words", "config")
            if isinstance(getattr(arguments, n, ""), list)
        ),
        "",
    )
    if late and (not words or any(word.startswith("-") for word in late)):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        setattr(arguments, words, [*getattr(arguments, words), *late])
    return arguments


def split_files(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(config files, key=value words)."""
    files = [word for word in words if _is_file(word)]
    return files, [word for word in words if word not in files]


def _is_file(word: str) -> bool:
    """What holds `=` is one where there is such a file, or where it can be nothing else: whoever mistypes its path is
    told so, and not of an unknown option."""
    key, equals, _ = word.partition("=")
    if not equals or os.path.isfile(expand_home(word)):
        return True
    is_option = key.partition(".")[0] in fields_of(Config)
    return not is_option and ("/" in key or word.endswith((".yaml", ".yml")))
