"""`ar3po compare-algorithms`: the paper's comparison as a command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_ar3po.comparison.compare import compare_groups, write_comparison_page
from megatron_ar3po.comparison.compared_runs import RunGroup, read_compared_run
from megatron_ar3po.comparison.experiment import (
    Experiment,
    from_command_line,
    from_file,
    is_experiment_file,
)
from megatron_ar3po.comparison.figure import draw
from megatron_ar3po.comparison.process import preload
from megatron_ar3po.comparison.results import Comparison, compare, read_curves
from megatron_ar3po.comparison.runner import check_runs, metrics_path, run_all
from megatron_ar3po.comparison.table import to_markdown, to_rich
from megatron_ar3po.config.paths import parse_path

_ABOUT = """\
Train several variants on equal prompts and paired seeds, and compare them in one table, one figure and one page.

  ar3po compare-algorithms examples/tiny_sum/config.yaml --algorithms ar3po,grpo,grpo_k,dapo --seeds 5
  ar3po compare-algorithms examples/tiny_sum/config.yaml --algorithms ar3po,adaptive_only,reuse_only,detach
  ar3po compare-algorithms examples/tiny_sum/comparison.yaml --out runs/comparison

Algorithms: ar3po, grpo, dapo, history; grpo_k (GRPO with AR3PO's stage size as its group); history_N (N responses a
prompt), history_stages (on AR3PO's stages); adaptive_only, reuse_only; detach, recompute, stored (reuse.option);
stages_N and k_N (AR3PO with N stages, with N responses a stage). An experiment file may add its own. The first is what
the others are compared with. Runs follow one another; a finished one is not repeated, so the same command goes on after
an interruption. With a budget of responses all are evaluated at the same counts of them, at a constant learning rate.
"""


def add_comparison_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare-algorithms",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", type=parse_path, metavar="CONFIG", help="a run's config, or an experiment file"
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="options of every run")
    parser.add_argument(
        "--algorithms", default="ar3po,grpo,grpo_k,dapo", help="default: %(default)s"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1; default: %(default)s")
    parser.add_argument(
        "--responses",
        type=int,
        default=0,
        help="a run ends at its first evaluation at or beyond them; 0: run.num_steps",
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        default=5,
        help="with --responses: evaluate at so many equal parts of them; default: %(default)s",
    )
    parser.add_argument(
        "--target", type=float, default=0.0, help="pass@1 whose first crossing is reported"
    )
    parser.add_argument(
        "--timeout", type=float, default=3600.0, help="seconds, of one run; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=parse_path, default=Path("runs/comparison"), help="default: %(default)s"
    )
    parser.add_argument(
        "--only-report", action="store_true", help="train nothing; report what is finished"
    )
    parser.add_argument("--json", action="store_true", help="print the figures for scripts")
    parser.set_defaults(command=comparison_command)


def comparison_command(arguments: argparse.Namespace) -> int:
    """0; 1 when a run failed (the table then holds the seeds that are whole)."""
    experiment = _experiment_of(arguments)
    failures = []
    if not arguments.only_report:
        check_runs(experiment, arguments.out)
        preload()
        failures = run_all(experiment, arguments.out, is_quiet=arguments.json)
    for failure in failures:
        print(f"ar3po: {failure.run} failed: {failure.reason}", file=sys.stderr)
    comparison = report(experiment, arguments.out)
    if arguments.json:
        print(json.dumps(comparison.to_dict()))
    else:
        Console().print(to_rich(comparison))
        print(
            f"written: {arguments.out}/comparison.html, comparison.md, comparison.json, comparison.png"
        )
    return 1 if failures else 0


def report(experiment: Experiment, out: Path) -> Comparison:
    """Reads the finished runs, writes table, figures for scripts, and figure."""
    seeds, curves = read_curves(experiment, out)
    comparison = compare(
        curves,
        seeds=seeds,
        target=experiment.target,
        num_budgets=experiment.evaluations,
        responses=experiment.responses,
    )
    (out / "comparison.md").write_text(to_markdown(comparison), "utf-8")
    (out / "comparison.json").write_text(json.dumps(comparison.to_dict(), indent=1) + "\n", "utf-8")
    draw(comparison, curves, out / "comparison.png")
    if len(experiment.variants) > 1:
        _write_page(experiment, seeds, out)
    return comparison


def _write_page(experiment: Experiment, seeds: Sequence[int], out: Path) -> None:
    """That of `ar3po compare`, of the same runs."""
    groups = [
        RunGroup(
            name=variant.name,
            runs=tuple(
                read_compared_run(metrics_path(out, variant, seed).parent) for seed in seeds
            ),
        )
        for variant in experiment.variants
    ]
    write_comparison_page(groups, compare_groups(groups, "responses"), out / "comparison.html")


def _experiment_of(arguments: argparse.Namespace) -> Experiment:
    if is_experiment_file(arguments.config):
        return from_file(arguments.config, arguments.words)
    return from_command_line(
        arguments.config,
        arguments.algorithms,
        arguments.seeds,
        arguments.words,
        responses=arguments.responses,
        evaluations=arguments.evaluations,
        target=arguments.target,
        timeout_s=arguments.timeout,
    )
