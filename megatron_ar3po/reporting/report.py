"""`ar3po report RUN`: the figures of one run, for people and for scripts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.observability.run_summary import print_summary, summarize
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.run.folder_format import check_not_newer
from megatron_ar3po.sampling_cost import cost_of


def add_report_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("report", description="Figures of one run.")
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(command=report_command)


def report_command(arguments: argparse.Namespace) -> int:
    check_not_newer(arguments.run)
    summary = summarize(arguments.run, cost_of(rows_of_run(arguments.run / "ledger")))
    if arguments.json:
        print(json.dumps(asdict(summary)))
    else:
        print_summary(summary)
    return 0
