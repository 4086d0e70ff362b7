"""`ar3po compare RUN RUN ...`: runs that are there, side by side at equal cost, as a page and as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_ar3po.comparison.aligned import AlignedComparison, Difference, align_variants
from megatron_ar3po.comparison.compared_runs import (
    AXES,
    RunGroup,
    group_runs,
    read_compared_run,
)
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


def print_comparison(comparison: AlignedComparison, console: Console | None = None) -> None:
    console = console or Console()
    for line in comparison.warnings:
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)
    table = Table(title=f"at equal {comparison.axis}, with 95% intervals", box=SIMPLE)
    table.add_column("")
    for variant in comparison.variants:
        table.add_column(variant.name, justify="right")
    for name, cells in rows_of(comparison):
        table.add_row(name, *cells)
    console.print(table)
    for line in notes_of(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def rows_of(comparison: AlignedComparison) -> list[tuple[str, list[str]]]:
    variants, first = comparison.variants, comparison.variants[0].name
    rows = [("seeds", [", ".join(map(str, v.seeds)) for v in variants])]
    for index, at in enumerate(comparison.points):
        cells = [show_interval(*v.accuracy[index]) for v in variants]
        rows.append((f"pass@1 at {at:,.0f}", cells))
    for index, at in enumerate(comparison.points):
        cells = ["" if v.name == first else show_difference(v.minus_first[index]) for v in variants]
        rows.append((f"less {first}'s at {at:,.0f}", cells))
    cells = ["" if v.name == first else show_difference(v.training_minus_first) for v in variants]
    rows.append((f"training pass rate less {first}'s", cells))
    for name in AXES:
        rows.append((f"{name}, all", [f"{v.totals[name]:,.0f}" for v in variants]))
    return [*rows, *comparison.options]


def notes_of(comparison: AlignedComparison) -> list[str]:
    pairs = {v.name: v.minus_first[-1] for v in comparison.variants[1:]}
    lines = [
        "pass@1: on held-out prompts, on the line between evaluations. Differences are paired by seeds; the interval "
        "is Student's over the pairs, and with one pair it goes by the evaluations' standard errors over prompts."
    ]
    trained = {v.name: v.training_minus_first for v in comparison.variants[1:]}
    for name, found in trained.items():
        if found is not None:
            lines.append(
                f"training pass rate of {name}: on {found.prompts:,} prompts that both runs of a pair of seeds visited "
                f"({found.pairs} pairs), first stages of the last quarter, resampled over seeds and prompts."
            )
    if any(found is not None and found.low is None for found in pairs.values()):
        lines.append(
            "No interval: one pair of seeds, and the runs' evaluations have no standard error."
        )
    return lines


def show_interval(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def show_difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    shown = f"{found.mean:+.3f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} ({found.low:+.3f} to {found.high:+.3f})"
