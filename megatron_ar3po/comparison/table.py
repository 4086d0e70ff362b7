"""The comparison as one table: rows are figures, columns are variants. Markdown for documents, rich for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from megatron_ar3po.comparison.curves import AXES, OUTCOMES, Axis
from megatron_ar3po.comparison.results import Comparison, Reached, TimesFirst, VariantResult
from megatron_ar3po.comparison.statistics import Interval

_COSTS = {
    "responses_per_prompt": "responses per prompt drawn",
    "responses_per_filled_slot": "responses per filled slot",
    "responses_per_signal_group": "responses per signal group",
}
# What the paper (arXiv:2509.25808) reports at the end of its training, on its models and data.
_PAPER = {
    ("ar3po", "responses_per_prompt"): "5.7",
    ("dapo", "responses_per_filled_slot"): "about 24",
}
_DIGITS: dict[Axis, int] = {"responses": 0, "tokens": 0, "seconds": 1}
Row = tuple[str, list[str]]


def rows_of(comparison: Comparison) -> list[Row]:
    """(what, one cell a variant); cells are mean +- half the width of the 95% interval."""
    variants = comparison.variants
    first = variants[0].name

    def row(name: str, cells: Sequence[str]) -> Row:
        return name, list(cells)

    rows = [
        row("pass@1 before", [_format(v.before, 3) for v in variants]),
        row("pass@1 at the end", [_format(v.after, 3) for v in variants]),
    ]
    rows += [
        row(f"{axis} at the end", [_format(v.spent[axis], _DIGITS[axis]) for v in variants])
        for axis in AXES
    ]
    for at in comparison.budgets:
        cells = [_format(v.accuracy_at_responses[at], 3) for v in variants]
        rows.append(row(f"pass@1 at {at:,} responses", cells))
    for at in comparison.budgets:
        cells = ["" if v.name == first else _format_signed(v.minus_first[at]) for v in variants]
        rows.append(row(f"{first} - this, at {at:,} (paired)", cells))
    if comparison.target:
        for axis in AXES:
            cells = [_target_cell(v.to_target[axis], _DIGITS[axis]) for v in variants]
            rows.append(row(f"{axis} to pass@1 {comparison.target:g}", cells))
            cells = [_ratio_cell(v.to_target_times_first[axis]) for v in variants]
            rows.append(row(f"{axis} to the target / {first}'s (paired)", cells))
    return [*rows, *_cost_rows(variants)]


def _cost_rows(variants: Sequence[VariantResult]) -> list[Row]:
    rows: list[Row] = []
    for key, name in _COSTS.items():
        rows.append((name, [_format(v.costs[key], 2) for v in variants]))
        rows.append((f"{name}, last quarter", [_late_cell(v, key) for v in variants]))
    rows.append(
        ("prompts without signal, of all drawn", [_format(v.no_signal, 3) for v in variants])
    )
    first = variants[0].name
    cells = ["" if v.name == first else _format_signed(v.first_minus_no_signal) for v in variants]
    rows.append((f"{first} - this, prompts without signal (paired)", cells))
    for outcome in OUTCOMES:
        cells = [_format(v.outcomes[outcome], 3) for v in variants]
        rows.append((f"{outcome.replace('_', ' ')}, of groups kept", cells))
    return rows


def _late_cell(variant: VariantResult, key: str) -> str:
    shown = _format(variant.late_costs[key], 2)
    paper = _PAPER.get((variant.name, key))
    return f"{shown} (paper: {paper})" if paper else shown


def to_markdown(comparison: Comparison) -> str:
    names = [variant.name for variant in comparison.variants]
    lines = [
        f"Seeds {', '.join(map(str, comparison.seeds))}; mean ± half the width of the 95% interval (Student t).",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows_of(comparison)]
    return "\n".join(lines) + "\n"


def to_rich(comparison: Comparison) -> Table:
    table = Table(title=f"{len(comparison.seeds)} seed(s), mean ± half the 95% interval")
    table.add_column("")
    for variant in comparison.variants:
        table.add_column(variant.name, justify="right")
    for name, cells in rows_of(comparison):
        table.add_row(name, *cells)
    return table


def _format(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    mean = f"{interval.mean:,.{digits}f}"
    if interval.half_width is None:
        return mean
    return f"{mean} ± {interval.half_width:,.{digits}f}"


def _format_signed(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    shown = _format(interval, 3)
    return shown if interval.mean < 0 else f"+{shown}"


def _target_cell(reached: Reached, digits: int) -> str:
    """As '200 ± 30 (5/5)'; '≥ 600 (1/2)' where a run never crossed; '≤ 80 (2/2)' where one had by its first
    evaluation."""
    shown = _format(reached.spent, digits)
    if reached.at_least is not None:
        shown = f"≥ {reached.at_least:,.{digits}f}"
    elif reached.at_most is not None:
        shown = f"≤ {reached.at_most:,.{digits}f}"
    return f"{shown} ({reached.num_reached}/{reached.num_runs})"


def _ratio_cell(times: TimesFirst | None) -> str:
    """As '≥ 2.00 (1.50 to 2.67), never: 1 of this'; the bracket is the interval of the bound."""
    if times is None:
        return ""
    shown = "-"
    if (bound := times.bound) is not None:
        sign = {"equal": "", "at_least": "≥ ", "at_most": "≤ "}[bound.side]
        shown = f"{sign}{bound.ratio.mean:.2f}"
        if bound.ratio.low is not None and bound.ratio.high is not None:
            shown += f" ({bound.ratio.low:.2f} to {bound.ratio.high:.2f})"
    counts = {"this": times.num_never, "the first": times.num_first_never}
    never = " and ".join(f"{count} of {who}" for who, count in counts.items() if count)
    return f"{shown}, never: {never}" if never else shown
