"""`ar3po compare RUN RUN ...`: runs that are there, side by side at equal cost, as a page and as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ar3po.comparison.aligned import AlignedComparison, align_variants
from megatron_ar3po.comparison.compared_runs import (
    AXES,
    RunGroup,
    group_runs,
    read_compared_run,
)
from megatron_ar3po.comparison.comparison_text import print_comparison
from megatron_ar3po.comparison.run_differences import describe_differences, describe_options
from megatron_ar3po.config.paths import parse_path

_ABOUT = """\
Runs side by side at equal responses, tokens, seconds or steps. Runs that differ in their seed alone are one variant.
The first one is what the others are compared with, paired by seeds and by prompts.

  ar3po compare runs/ar3po runs/grpo
  ar3po compare runs/ar3po-s0 runs/ar3po-s1 runs/grpo-s0 runs/grpo-s1 --by tokens --out page.html
"""


def add_compare_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", type=parse_path, nargs="+", metavar="RUN", help="folders of runs, two or more"
    )
    parser.add_argument(
        "--by", choices=AXES, default="responses", help="at equal what; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=parse_path, default=Path("comparison.html"), metavar="FILE",
        help="the page; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--text", action="store_true", help="write no page")
    parser.add_argument("--json", action="store_true", help="for scripts; writes no page")
    parser.set_defaults(command=compare_command)


def compare_command(arguments: argparse.Namespace) -> int:
    if len(arguments.runs) < 2:
        raise ValueError(
            f"ar3po compare needs two runs or more, not {arguments.runs[0]} alone; ar3po report shows one."
        )
    groups = group_runs([read_compared_run(folder) for folder in arguments.runs])
    comparison = compare_groups(groups, arguments.by)
    if arguments.json:
        print(json.dumps(asdict(comparison)))
        return 0
    if not arguments.text:
        write_comparison_page(groups, comparison, arguments.out)
    print_comparison(comparison)
    if not arguments.text:
        print(f"written: {arguments.out}")
    return 0


def compare_groups(groups: Sequence[RunGroup], axis: str) -> AlignedComparison:
    """Raises ValueError where there is nothing to compare: one variant, or a run without a step."""
    if len(groups) < 2:
        raise ValueError(
            f"all runs have one config and differ in their seed alone ({', '.join(r.name for r in groups[0].runs)}): "
            "there is nothing to compare them with."
        )
    for run in (run for group in groups for run in group.runs):
        if not run.positions[axis].max(initial=0.0):
            raise ValueError(
                f"{run.name} has ended no step, so that it cannot be compared at equal {axis}; leave it out."
            )
    return align_variants(
        groups,
        axis,
        warnings=describe_differences(groups),
        options=describe_options(groups),
    )


def write_comparison_page(
    groups: Sequence[RunGroup], comparison: AlignedComparison, out: Path
) -> None:
    from megatron_ar3po.comparison.comparison_page import page_of_comparison  # plotly is slow
    from megatron_ar3po.reporting.page import write_page

    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: name a file in a folder that is there.")
    write_page(page_of_comparison(groups, comparison), out)
