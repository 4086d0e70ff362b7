"""`ar3po metrics`: what a run measures, and what it means when a number rises."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any

from megatron_ar3po.observability.declared_metrics import SECTIONS
from megatron_ar3po.observability.metric_declarations import MetricDeclaration, as_markdown


def add_metrics_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "metrics",
        description="Every metric: its unit, what it is, and what goes wrong when it rises or falls.",
    )
    parser.add_argument(
        "asked", nargs="?", default="", metavar="NAME", help="all that hold this text, as in clip"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="all of them, as in docs/metrics.md"
    )
    parser.set_defaults(command=metrics_command)


def metrics_command(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(as_markdown(SECTIONS), end="")
        return 0
    for metric in find_metrics(arguments.asked):
        print(f"{metric.name}  ({metric.unit})\n    {_as_text(metric)}")
    return 0


def find_metrics(asked: str) -> list[MetricDeclaration]:
    """Raises ValueError with the nearest name where none is meant."""
    everything = [metric for section in SECTIONS for metric in section.metrics]
    found = [m for m in everything if asked in m.name or m.declares(asked)]
    if not found:
        (near,) = difflib.get_close_matches(asked, [m.name for m in everything], n=1, cutoff=0.0)
        raise ValueError(f"no metric is called {asked}; the nearest one is {near}.")
    return found


def _as_text(metric: MetricDeclaration) -> str:
    said = "; ".join(part for part in (metric.what, metric.watch) if part)
    return re.sub("`", "", said)
