"""Sections of a report: where responses and seconds went, and what the store gave."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megatron_ar3po.observability.time_split import split_of
from megatron_ar3po.reporting.findings import responses_by_use
from megatron_ar3po.reporting.ledger_columns import OUTCOMES
from megatron_ar3po.reporting.page import Section, table
from megatron_ar3po.reporting.plots import (
    OUTCOME_COLOURS,
    PALETTE,
    Row,
    area,
    bars,
    figure,
    line,
    list_between,
    series,
    step_edges,
)
from megatron_ar3po.reporting.run_data import RunData

_BINS = 10
_MAX_LAYERS = 400  # points of a stack: it is filled to the ground for each


def stage_section(run: RunData) -> Section | None:
    """Responses of each stage, over all prompts of the step: they add up to responses per prompt."""
    names = {name for row in run.steps for name in row}
    stages = sorted(list_between(names, "rollout/stage_", "/responses"), key=int)
    rows = [row for row in run.steps if row.get("rollout/prompts")]
    if not stages or not rows:
        return None
    layers = [
        area(
            f"stage {stage}",
            series(
                rows,
                lambda row, s=stage: (
                    row.get(f"rollout/stage_{s}/responses", 0) / row["rollout/prompts"]
                ),
                _MAX_LAYERS,
            ),
            PALETTE[i % len(PALETTE)],
        )
        for i, stage in enumerate(stages)
    ]
    return Section(
        key="stages",
        title="Responses per prompt, by stage",
        look_for="Later stages are for prompts that are still unsolved: their layer should get thinner as the policy "
        "learns. Where the first stage solves nearly everything, it could be smaller.",
        figures=(figure(layers, x="step", y="responses per prompt"),),
    )


def fate_section(run: RunData) -> Section | None:
    columns = run.columns
    if not len(columns):
        return None
    edges = step_edges(columns["step"])
    drawn, _ = np.histogram(columns["step"], edges)
    there = drawn > 0
    layers = []
    for number, name in enumerate(OUTCOMES):
        counts, _ = np.histogram(columns["step"][columns.outcome == number], edges)
        if counts.any():
            points = edges[:-1][there], counts[there] / drawn[there]
            layers.append(area(_words(name), points, OUTCOME_COLOURS[name]))
    layout = {"yaxis": {"range": [0, 1], "tickformat": ".0%", "title": {"text": "share of groups"}}}
    return Section(
        key="fate",
        title="The fate of every group",
        look_for="Only mixed and rescued groups teach where advantages are relative to the group. All correct should "
        "grow as the policy learns; all wrong that stays is what the prompts or the verifier do not let it solve.",
        figures=(figure(layers, x="step", y="share of groups", layout=layout),),
    )


def budget_section(run: RunData) -> Section | None:
    uses = {name: count for name, count in responses_by_use(run).items() if count}
    if not uses:
        return None
    figures = [*_by_difficulty(run)]
    names = sorted(uses, key=lambda name: -uses[name])
    colours = {
        "color": [
            OUTCOME_COLOURS.get(n, PALETTE[2] if n == "signal" else PALETTE[7]) for n in names
        ]
    }
    total = sum(uses.values())
    shares = [uses[name] / total for name in names]
    shown = [bars("responses", [_words(n) for n in names], shares) | {"marker": colours}]
    figures.append(figure(shown, x="", y="share of responses", share=True))
    return Section(
        key="budget",
        title="Where the budget went",
        look_for="Difficulty is the share of a prompt's graded responses that were correct, over the whole run. "
        "Responses for prompts at 0 or 1 teach least; a stage plan or a choice of prompts can move them to the middle.",
        figures=tuple(figures),
    )


def _by_difficulty(run: RunData) -> Iterator[str]:
    columns = run.columns
    if not len(columns):
        return
    rates = columns.solve_rates
    labels = [
        "never",
        *(f"{i / _BINS:.1f} to {(i + 1) / _BINS:.1f}" for i in range(_BINS)),
        "always",
    ]
    bins = np.clip(np.floor(np.nan_to_num(rates) * _BINS), 0, _BINS - 1).astype(np.int64) + 1
    bins[rates == 0] = 0
    bins[rates == 1] = _BINS + 1
    known = ~np.isnan(rates)
    prompts = np.bincount(bins[known], minlength=len(labels))
    of_rows = columns["prompt"]
    counted = known[of_rows]
    spent = np.bincount(
        bins[of_rows[counted]], columns["responses"][counted], minlength=len(labels)
    )
    traces = [
        bars("of responses", labels, spent / max(1, spent.sum()), 0),
        bars("of prompts", labels, prompts / max(1, prompts.sum()), 7),
    ]
    yield figure(traces, x="share of its responses that were correct", y="share", share=True)


def store_section(run: RunData) -> Section | None:
    figures = []
    rates = {
        "unsolved groups with an answer in store": "reuse/hit_frac",
        "groups that borrowed": "reuse/borrowed_frac",
        "training groups that had borrowed": "reuse/signal_frac",
    }
    traces = [
        line(name, points, i)
        for i, (name, metric) in enumerate(rates.items())
        if len((points := series(run.steps, metric, 200))[0])
    ]
    if not any(row.get("reuse/borrowed_groups") for row in run.steps) and not any(
        row.get("reuse/store_responses") for row in run.steps
    ):
        return None
    if traces:
        figures.append(figure(traces, x="step", y="share", share=True))
    if len((age := series(run.steps, "reuse/age_steps"))[0]):
        figures.append(
            figure(
                [line("mean age of a loan", age, mode="markers")],
                x="step",
                y="age of a loan, steps",
            )
        )
    figures.append(_loans(run))
    if len((held := series(run.steps, "reuse/store_responses"))[0]):
        figures.append(figure([line("responses held", held, 2)], x="step", y="responses in store"))
    return Section(
        key="store",
        title="The store",
        look_for="Loans should be young: the older a response, the further the policy has moved from what sampled it. "
        "A hit rate that stays near 0 means that unsolved prompts have never been solved, and sampling must do it.",
        figures=tuple(figures),
    )


def _loans(run: RunData) -> str:
    """Their outcomes, per step or mean of neighbours."""
    rows = [row for row in run.steps if "reuse/borrowed_groups" in row]

    def count_trained(row: Row) -> float:
        idle, moved = row.get("reuse/idle_loans", 0), row.get("reuse/switched_to_detach", 0)
        return max(0, row["reuse/borrowed_groups"] - idle - moved)

    layers = [
        area("trained", series(rows, count_trained, 200), PALETTE[2]),
        area(
            "in the advantages only, as it had drifted",
            series(rows, lambda row: row.get("reuse/switched_to_detach", 0), 200),
            PALETTE[3],
        ),
        area("idle", series(rows, lambda row: row.get("reuse/idle_loans", 0), 200), PALETTE[7]),
    ]
    return figure(layers, x="step", y="groups with a loan")


def time_section(run: RunData) -> Section | None:
    split = split_of(run.rows)
    rows = [row for row in run.rows if row.get("time/wall_s")]
    if split is None or not rows:
        return None
    phases = [p.key for p in split.phases if _is_shown(p.key) and p.seconds > 0.001 * split.wall_s]
    steps = np.array([row["step"] for row in rows])
    edges = step_edges(steps)
    wall, _ = np.histogram(steps, edges, weights=[row["time/wall_s"] for row in rows])
    there = wall > 0
    layers, rest = [], wall.copy()
    for i, phase in enumerate(phases):
        seconds, _ = np.histogram(
            steps, edges, weights=[row.get(f"time/{phase}_s", 0) for row in rows]
        )
        rest -= seconds
        points = edges[:-1][there], seconds[there] / wall[there]
        layers.append(area(_words(phase), points, PALETTE[i % len(PALETTE)]))
    others = np.clip(rest, 0, None)[there] / wall[there]
    layers.append(area("other", (edges[:-1][there], others), "#b9bec6"))
    layout = {
        "yaxis": {"range": [0, 1], "tickformat": ".0%", "title": {"text": "share of seconds"}}
    }
    lines = [
        (
            "\u2003" * p.depth + _words(p.key.rpartition("/")[2]),
            f"{p.seconds:,.1f} s",
            f"{p.seconds / split.wall_s:.1%}",
        )
        for p in split.phases
        if p.depth < 2 and p.seconds >= 0.001 * split.wall_s
    ]
    return Section(
        key="time",
        title=f"Where {split.wall_s:,.0f} s went",
        look_for="The largest share is what a faster run must shrink: rollout by more or faster servers, shorter "
        "responses or fewer of them; evaluation and checkpoints by doing them less often.",
        figures=(figure(layers, x="step", y="share of seconds", layout=layout),),
        markup=table(lines, ("", "seconds", "of all")),
    )


def _is_shown(phase: str) -> bool:
    return phase in ("rollout", "batch", "train", "publish", "evaluation", "checkpoint", "start")


def _words(name: str) -> str:
    return name.replace("_", " ")
