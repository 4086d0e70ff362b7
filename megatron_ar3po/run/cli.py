"""`ar3po upgrade RUN`: a run's folder of the version before."""

from __future__ import annotations

import argparse
from typing import Any

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.run.folder_format import FORMAT
from megatron_ar3po.run.upgrade import upgrade_run


def add_upgrade_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "upgrade",
        description="Bring a run's folder of the version before to today's format, so that it can be resumed, "
        "evaluated and graded anew. Its config gets today's names of options; all else stays as it is.",
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would change; write nothing"
    )
    parser.set_defaults(command=upgrade_command)


def upgrade_command(arguments: argparse.Namespace) -> int:
    done = upgrade_run(arguments.run, is_dry_run=arguments.dry_run)
    if done is None:
        print(f"{arguments.run} has format {FORMAT} already; there is nothing to do")
        return 0
    print("\n".join(done.lines()))
    after = "would have" if arguments.dry_run else "has"
    print(f"{arguments.run} {after} format {FORMAT} now")
    return 0
