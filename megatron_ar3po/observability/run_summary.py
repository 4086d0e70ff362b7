"""What a run did, from its files alone: the table at the end of a run, and what `ar3po report RUN` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.time_split import TimeSplit, split_of, table_of
from megatron_ar3po.sampling_cost import NOTHING, SamplingCost, Spent

PHASES = ("rollout", "batch", "train", "publish", "evaluation", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The figures of one run; None where the run has none."""

    folder: str
    algorithm: str
    steps: int
    pass_at_1_before: float | None
    pass_at_1_after: float | None
    evaluation_prompts: int
    responses_total: int  # all that servers have generated for training
    tokens_total: int
    cost: dict[str, Spent]  # the same, class by class (`sampling_cost`)
    in_flight_max: Spent  # more that they may have, when the run was killed
    responses_per_prompt: float | None
    responses_per_signal_group: float | None
    responses_by_stage: dict[str, int]
    prompts_by_stage: dict[str, int]
    borrowed_groups: int
    unsolved_groups_with_a_loan_frac: float | None
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    seconds_per_step: float | None = None
    time: TimeSplit | None = (
        None  # None: the rows are of a version that did not know their wall clock
    )


def summarize(folder: Path, cost: SamplingCost) -> RunSummary:
    """`cost`: what the run's ledger comes to; a folder without one has the totals of its metrics, and no classes.
    Raises ValueError when `folder` is no run."""
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(
            f"{folder} holds no metrics.jsonl; name a run's folder, such as runs/NAME."
        )
    return summarize_rows(folder, read_rows(folder / "metrics.jsonl"), _algorithm(folder), cost)


def summarize_rows(
    folder: Path, rows: Sequence[dict[str, Any]], algorithm: str, cost: SamplingCost
) -> RunSummary:
    """The same, of rows that were read already."""
    steps = [row for row in rows if row["step"] > 0]
    total = cost.total if cost.total != NOTHING else _last_total(rows)
    evaluated = [row for row in rows if row.get("eval/pass_at_1") is not None]
    responses = _total(steps, "rollout/responses_generated")
    unsolved = [row for row in steps if "reuse/hit_frac" in row]
    return RunSummary(
        folder=str(folder),
        algorithm=algorithm,
        steps=max((row["step"] for row in rows), default=0),
        pass_at_1_before=evaluated[0]["eval/pass_at_1"] if evaluated else None,
        pass_at_1_after=evaluated[-1]["eval/pass_at_1"] if len(evaluated) > 1 else None,
        evaluation_prompts=int(evaluated[-1].get("eval/prompts", 0)) if evaluated else 0,
        responses_total=total.responses,
        tokens_total=total.tokens,
        cost={name: spent for name, spent in cost.classes.items() if spent != NOTHING},
        in_flight_max=cost.in_flight_max,
        responses_per_prompt=_ratio(responses, _total(steps, "rollout/prompts")),
        responses_per_signal_group=_ratio(responses, _total(steps, "group/signal_groups")),
        responses_by_stage=_by_stage(steps, "responses"),
        prompts_by_stage=_by_stage(steps, "active_prompts"),
        borrowed_groups=int(_total(steps, "reuse/borrowed_groups")),
        unsolved_groups_with_a_loan_frac=_ratio(
            sum(row["reuse/hit_frac"] for row in unsolved), len(unsolved)
        ),
        seconds_by_phase={
            phase: round(_total(rows, f"time/{phase}_s"), 3)
            for phase in PHASES
            if any(f"time/{phase}_s" in row for row in rows)
        },
        seconds_per_step=_ratio(_total(steps, "time/step_s"), len(steps)),
        time=split_of(rows),
    )


def _algorithm(folder: Path) -> str:
    import yaml

    resolved = folder / "resolved_config.yaml"
    return (
        yaml.safe_load(resolved.read_text("utf-8"))["algorithm"]["name"]
        if resolved.is_file()
        else ""
    )


def _last_total(rows: Sequence[dict[str, Any]]) -> Spent:
    last = next((row for row in reversed(rows) if "rollout/responses_total" in row), {})
    return Spent(
        responses=int(last.get("rollout/responses_total") or 0),
        tokens=int(last.get("rollout/tokens_total") or 0),
    )


def _total(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(row.get(name) or 0 for row in rows)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _by_stage(rows: Sequence[dict[str, Any]], what: str) -> dict[str, int]:
    names = {
        n for row in rows for n in row if n.startswith("rollout/stage_") and n.endswith(f"/{what}")
    }
    stages = sorted(names, key=lambda n: int(n.split("_")[1].split("/")[0]))
    return {n.split("/")[1].removeprefix("stage_"): int(_total(rows, n)) for n in stages}


def print_summary(summary: RunSummary, console: Console | None = None) -> None:
    table = Table(title=f"{summary.algorithm} run, {summary.steps} steps", show_header=False)
    table.add_column()
    table.add_column(justify="right", overflow="fold")  # a path stays whole
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    console = console or Console()
    console.print(table)
    if summary.time is not None:
        console.print(table_of(summary.time))


def summary_rows(s: RunSummary) -> list[tuple[str, str]]:
    """Names and values, to be shown."""
    rows = [
        ("pass@1 before training", _format(s.pass_at_1_before, ".3f")),
        ("pass@1 after training", _format(s.pass_at_1_after, ".3f")),
        ("held-out prompts", str(s.evaluation_prompts)),
        ("responses generated", f"{s.responses_total:,}"),
        ("tokens generated", f"{s.tokens_total:,}"),
        *_cost_rows(s),
        ("responses per prompt", _format(s.responses_per_prompt, ".2f")),
        ("responses per group with signal", _format(s.responses_per_signal_group, ".2f")),
    ]
    for stage, prompts in s.prompts_by_stage.items():
        responses = s.responses_by_stage.get(stage, 0)
        rows.append((f"stage {stage}", f"{prompts:,} prompts, {responses:,} responses"))
    rows.append(("groups that borrowed", f"{s.borrowed_groups:,}"))
    if s.unsolved_groups_with_a_loan_frac is not None:
        rows.append(
            ("unsolved groups with an answer in store", f"{s.unsolved_groups_with_a_loan_frac:.0%}")
        )
    rows += [(f"time in {phase}", f"{t:.1f} s") for phase, t in s.seconds_by_phase.items()]
    rows.append(("time per step", f"{_format(s.seconds_per_step, '.2f')} s"))
    rows.append(("files", s.folder))
    return rows


def _cost_rows(s: RunSummary) -> Iterator[tuple[str, str]]:
    """Where there is more than one class to tell apart."""
    if len(s.cost) > 1:
        for name, spent in s.cost.items():
            yield f"of them {name}", f"{spent.responses:,} ({spent.tokens:,} tokens)"
    if s.in_flight_max != NOTHING:
        yield "in flight at a kill, at most", f"{s.in_flight_max.responses:,} more"


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
