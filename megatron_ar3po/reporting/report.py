"""`ar3po report RUN`: what a run did, as one HTML file to be opened and sent, as a table, or as JSON.

The page needs no network and no other file. It works on a run that is still going on and on a folder that was cut off;
what could not be read is said, and the rest is shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.observability.run_summary import RunSummary, print_summary, summarize_rows
from megatron_ar3po.reporting.findings import find_all
from megatron_ar3po.reporting.run_data import RunData, read_run

PAGE = "report.html"


def add_report_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument("--out", type=parse_path, metavar="FILE", help=f"the page [RUN/{PAGE}]")
    parser.add_argument("--text", action="store_true", help="a table instead of the page")
    parser.add_argument("--json", action="store_true", help="for scripts, instead of the page")
    parser.set_defaults(command=report_command)


def report_command(arguments: argparse.Namespace) -> int:
    run = read_run(arguments.run)
    summary = summarize_run(run)
    if arguments.json:
        print(json.dumps(asdict(summary) | {"findings": [asdict(f) for f in find_all(run)]}))
        _print_notes(run)
    elif arguments.text:
        _print_sentences(run)
        print_summary(summary)
    else:
        path = arguments.out or arguments.run / PAGE
        _write(run, summary, path)
        _print_sentences(run)
        print(f"the report: {path}")
    return 0


def summarize_run(run: RunData) -> RunSummary:
    algorithm = str(run.setting("algorithm.name") or "")
    return summarize_rows(run.folder, run.rows, algorithm, run.cost)


def _write(run: RunData, summary: RunSummary, path: Path) -> None:
    from megatron_ar3po.reporting.page import write_page  # the page's parts are its alone
    from megatron_ar3po.reporting.run_page import page_of_run

    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; name a file in it, such as {path / PAGE}.")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}; make it first.")
    write_page(page_of_run(run, summary), path)


def _print_sentences(run: RunData) -> None:
    """The notes and the five sentences, in full."""
    _print_notes(run)
    console = Console(highlight=False, markup=False)
    for found in find_all(run):
        console.print(f"- {found.text}")


def _print_notes(run: RunData) -> None:
    for note in run.notes:
        print(f"ar3po report: {note}", file=sys.stderr)
