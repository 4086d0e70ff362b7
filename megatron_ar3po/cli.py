"""The `ar3po` command. Thin: every subcommand is a function elsewhere, imported when it is asked for, and by itself:
`ar3po --help` shows the line that stands here for each."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from megatron_ar3po.config.command_line import parse_with_late_words
from megatron_ar3po.disk_faults import describe_disk_fault
from megatron_ar3po.platform.process_environment import prepare_process

_ABOUT = """\
Reinforcement learning with verifiable rewards by AR3PO: adaptive rollout and response reuse.

  ar3po init DIR --data my.jsonl --model PATH  a config that trains here, each line explained
  ar3po train examples/tiny_sum/config.yaml    train; ar3po train --help shows how
  ar3po evaluate runs/NAME                     its policy on benchmarks
  ar3po options rollout                        what there is to set, and what each option changes
  ar3po plan CONFIG --nodes 4                  what a run will need, before it costs anything
  ar3po launch slurm CONFIG                    start runs here or on a cluster, by NeMo-Run
  ar3po watch runs/NAME                        a run while it works, from any machine that sees its folder
  ar3po status runs/NAME                       where every rank is, and whom the others wait for
  ar3po report runs/NAME                       what a run did, as a page to open and send
  ar3po cost runs/NAME                         what it spent, and what GRPO, DAPO, AR3PO would have
  ar3po history runs/NAME                      what each prompt has shown: pass rates, visits, the hardest
  ar3po trace runs/NAME 12                     one step as a trace: who waited for whom
  ar3po compare runs/ONE runs/OTHER            runs side by side at equal responses, tokens or seconds
  ar3po export runs/NAME --out DIR             its policy as a Hugging Face folder with a model card
  ar3po compare-algorithms CONFIG --seeds 5    variants on paired seeds: one table, one figure
  ar3po reuse stats runs/NAME                  what its reuse store holds
  ar3po upgrade runs/NAME                      bring a run of the version before to today's format
  ar3po data prepare math500 --out data        prompts and benchmarks in one form
  ar3po grade --gold 1/2 --pred 0.5            how the verifier sees an answer
"""


def make_parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Of every subcommand. Of one alone where it is `asked` for: the others need not be imported then; and none, with
    a line for each in the help, where `asked` is no subcommand."""
    parser = argparse.ArgumentParser(
        prog="ar3po", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        if asked is None or asked == name:
            command.add_to(subparsers)
        elif asked not in _COMMANDS:
            subparsers.add_parser(name, help=command.about)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    try:
        prepare_process()
        arguments = parse_with_late_words(
            make_parser(next((w for w in words if w != "--"), "")), words
        )
        code = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except ValueError as error:  # the outermost frame: a user can mend it, the message says how
        print(f"ar3po: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 1
        said = describe_disk_fault(error)
        if error.filename is None and not said:
            raise
        # A file that cannot be read or written: its name is in the message, and a traceback says no more.
        print(f"ar3po: error: {said or error}", file=sys.stderr)
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


class _Command(NamedTuple):
    about: str
    module: str
    add_parser: str
    more: Mapping[str, Any] = MappingProxyType({})

    def add_to(self, subparsers: Any) -> None:
        module = importlib.import_module(f"megatron_ar3po.{self.module}")
        getattr(module, self.add_parser)(subparsers, **self.more)


_COMMANDS = {
    "init": _Command("write a config that trains here", "launch.first_config", "add_init_parser"),
    "train": _Command("train a policy", "train", "add_train_parser"),
    "evaluate": _Command("a policy on benchmarks", "evaluation.cli", "add_evaluate_parser"),
    "options": _Command(
        "what there is to set: every option, its default, what it changes",
        "reporting.options",
        "add_options_parser",
    ),
    "metrics": _Command(
        "what a run measures, and what it means when a number rises",
        "reporting.metrics",
        "add_metrics_parser",
    ),
    "plan": _Command("what a run will need", "reporting.plan", "add_plan_parser"),
    "launch": _Command(
        "start runs here or on Slurm, by NeMo-Run", "launch.cli", "add_launch_parser"
    ),
    "export": _Command(
        "a run's policy as a Hugging Face folder with a model card",
        "reporting.export",
        "add_export_parser",
    ),
    "serve": _Command(
        "the server of a config, for runs that attach to it", "launch.serve", "add_serve_parser"
    ),
    "report": _Command("what a run did", "reporting.report", "add_report_parser"),
    "cost": _Command(
        "what a run spent, and what other plans of sampling would have",
        "reporting.cost",
        "add_cost_parser",
    ),
    "history": _Command(
        "what each prompt of a run has shown", "reporting.prompt_history", "add_history_parser"
    ),
    "trace": _Command(
        "one step of a run as a trace for Perfetto: who waited for whom",
        "reporting.trace",
        "add_trace_parser",
    ),
    "status": _Command(
        "where every rank of a run is, and whom the others wait for",
        "reporting.status",
        "add_status_parser",
    ),
    "watch": _Command(
        "a run while it works, on any machine that sees its folder",
        "reporting.watch",
        "add_watch_parser",
    ),
    "compare": _Command(
        "runs side by side at equal cost", "comparison.compare", "add_compare_parser"
    ),
    "compare-algorithms": _Command(
        "train variants on paired seeds and compare them", "comparison.cli", "add_comparison_parser"
    ),
    "reuse": _Command(
        "look inside a reuse store and take care of it",
        "reuse.admin.cli",
        "add_reuse_parser",
        {"make_grader": _make_regrader},
    ),
    "upgrade": _Command(
        "bring a run of the version before to today's format", "run.cli", "add_upgrade_parser"
    ),
    "data": _Command(
        "prompts before a run: prepare, check and look at them",
        "preparation.cli",
        "add_data_parser",
    ),
    "grade": _Command(
        "grade responses or answers against ground truths", "rewards.cli", "add_grade_parser"
    ),
}

if __name__ == "__main__":
    sys.exit(main())
