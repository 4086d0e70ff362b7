"""`ar3po data preview CONFIG`: what a run would train on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from megatron_ar3po.config.load import load_config

if TYPE_CHECKING:
    from megatron_ar3po.wiring.data_preview import DataPreview

_BINS = 12
_BAR = 40  # characters

_ABOUT = """\
The prompts of a config as the policy will read them, special tokens visible; how long they are, in tokens; how many
there are of each source and file; and what would be left out, or be a reason to refuse the run.
"""


def add_preview_parser(inner: Any) -> None:
    parser = inner.add_parser(
        "preview", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="+", metavar="CONFIG | key=value")
    parser.add_argument("--prompts", type=int, default=3, help="so many are shown [%(default)s]")
    parser.add_argument(
        "--no-answers", action="store_true", help="do not ask the verifier about ground truths"
    )
    parser.set_defaults(command=preview_command)


def preview_command(arguments: argparse.Namespace) -> int:
    from megatron_ar3po.config.command_line import split_files
    from megatron_ar3po.wiring.data_preview import preview_data  # slow to import

    files, words = split_files(arguments.config)
    config = load_config(files, words)
    found = preview_data(
        config,
        datetime.now(),
        num_shown=arguments.prompts,
        checks_answers=not arguments.no_answers,
    )
    print("\n".join(lines_of(found, config.data.max_prompt_tokens)))
    return 0


def lines_of(found: DataPreview, max_prompt_tokens: int) -> Iterator[str]:
    yield from found.shown
    lengths = sorted(map(int, found.lengths))
    middle = lengths[len(lengths) // 2]
    yield ""
    yield (
        f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, half of them below {middle} "
        f"(data.max_prompt_tokens={max_prompt_tokens})"
    )
    yield from draw_histogram(lengths)
    for what, counts in (("source", found.sources), ("file", found.files)):
        yield ""
        yield from (
            f"{count:>9} of the {what} {name or '(none)'}" for name, count in counts.items()
        )
    for said in found.left_out:
        yield ""
        yield said


def draw_histogram(lengths: Sequence[int]) -> Iterator[str]:
    """One line for each range of lengths.

    >>> print(*draw_histogram([1, 1, 1, 1, 2, 3]), sep="\\n")
       1-1            4 ########################################
       2-2            1 ##########
       3-3            1 ##########
    """
    shortest, longest = min(lengths), max(lengths)
    width = -(-(longest - shortest + 1) // _BINS)
    counts = [0] * (-(-(longest - shortest + 1) // width))
    for length in lengths:
        counts[(length - shortest) // width] += 1
    for number, count in enumerate(counts):
        start = shortest + number * width
        bar = "#" * (-(-count * _BAR // max(counts)))
        yield f"{f'{start}-{start + width - 1}':>6} {count:>12} {bar}".rstrip()
