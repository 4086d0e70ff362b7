"""The `ar3po` command. Thin: every subcommand is a function elsewhere, imported when it is asked for."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_ar3po.comparison.cli import add_comparison_parser
from megatron_ar3po.evaluate import add_evaluate_parser
from megatron_ar3po.launch.cli import add_launch_parser
from megatron_ar3po.reporting.plan import add_plan_parser
from megatron_ar3po.reporting.report import add_report_parser
from megatron_ar3po.reporting.status import add_status_parser
from megatron_ar3po.reuse.admin.cli import add_reuse_parser
from megatron_ar3po.rewards.cli import add_grade_parser, run_grade
from megatron_ar3po.train import add_train_arguments, parse_with_late_words, train_command

_ABOUT = """\
Reinforcement learning with verifiable rewards by AR3PO: adaptive rollout and response reuse.

  ar3po train examples/tiny_sum/config.yaml    train; ar3po train --help shows how
  ar3po evaluate runs/NAME                     its policy on a benchmark file
  ar3po plan CONFIG --nodes 4                  what a run will need, before it costs anything
  ar3po launch slurm CONFIG                    start runs here or on a cluster, by NeMo-Run
  ar3po status runs/NAME                       where every rank is, and whom the others wait for
  ar3po report runs/NAME                       what a run did
  ar3po compare-algorithms CONFIG --seeds 5    variants on paired seeds: one table, one figure
  ar3po reuse stats runs/NAME                  what its reuse store holds
  ar3po grade --gold 1/2 --pred 0.5            how the verifier sees an answer
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ar3po", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    train = subparsers.add_parser("train", help="train a policy")
    add_train_arguments(train)
    train.set_defaults(command=train_command)
    add_evaluate_parser(subparsers)
    add_plan_parser(subparsers)
    add_launch_parser(subparsers)
    add_report_parser(subparsers)
    add_status_parser(subparsers)
    add_comparison_parser(subparsers)
    add_reuse_parser(subparsers, make_grader=_make_regrader)
    add_grade_parser(subparsers).set_defaults(command=run_grade)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_with_late_words(make_parser(), argv)
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except ValueError as error:  # the outermost frame: a user can mend it, the message says how
        print(f"ar3po: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 1
        if error.filename is None:
            raise
        # A file that cannot be read or written: its name is in the message, and a traceback says no more.
        print(f"ar3po: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # the user knows why
        print("ar3po: interrupted", file=sys.stderr)
        return 130


def _is_unread() -> bool:
    """Whoever read the output, as `| head` does, has seen enough. The rest goes nowhere, without a complaint."""
    output = select.poll()
    output.register(sys.stdout, 0)
    is_unread = any(event & select.POLLERR for _, event in output.poll(0))
    if is_unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_unread


def _make_regrader(config_file: Path, stack: ExitStack) -> Any:
    from megatron_ar3po.wiring.regrader import Regrader  # a tokenizer is slow to import

    return Regrader(config_file, stack)


if __name__ == "__main__":
    sys.exit(main())
