"""`ar3po options`: what there is to set."""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any

from megatron_ar3po.config.options import as_json, as_markdown, as_text, find_options

MAX_COLUMNS = 100


def add_options_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "options",
        description="Every option with its default and what it changes; of one section, or one option alone.",
    )
    parser.add_argument(
        "asked",
        nargs="?",
        default="",
        metavar="SECTION|SECTION.OPTION",
        help="such as rollout, or rollout.num_stages; without one: all",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for scripts: a list of objects")
    form.add_argument("--markdown", action="store_true", help="all of them, as in docs/options.md")
    parser.set_defaults(command=options_command)


def options_command(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        if arguments.asked:
            raise ValueError(
                f"--markdown writes the whole of docs/options.md; leave {arguments.asked} out."
            )
        print(as_markdown(), end="")
        return 0
    sections = find_options(arguments.asked)
    if arguments.json:
        print(json.dumps(as_json(sections), indent=1))
    else:
        print(as_text(sections, width=min(MAX_COLUMNS, shutil.get_terminal_size().columns)))
    return 0
