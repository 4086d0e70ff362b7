"""A comparison of runs in words: the rows of its table, and what stands beneath it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_ar3po.comparison.aligned import AlignedComparison, Difference
from megatron_ar3po.comparison.compared_runs import AXES


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
