"""Section of a report: what other plans of sampling would have spent in the run's steps (docs/cost.md)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from megatron_ar3po.algorithm.counterfactual_cost import Stages
from megatron_ar3po.reporting.cost import (
    ASSUMPTIONS,
    default_plans,
    own_plan,
    read_config,
    show_interval,
    show_range,
    step_shape,
    sum_graded,
)
from megatron_ar3po.reporting.cost_prediction import Prediction, predict_cost
from megatron_ar3po.reporting.ledger_columns import LedgerColumns
from megatron_ar3po.reporting.page import Section, table
from megatron_ar3po.reporting.plots import PALETTE, Trace, figure
from megatron_ar3po.reporting.run_data import RunData
from megatron_ar3po.reporting.visits import Visits, stages_of

_LOOK = (
    "What each plan would have spent in as many steps of as many prompts, with 95% intervals, beside the line of what "
    "this run spent. The cheapest is not the best: what a response teaches differs."
)


def cost_section(run: RunData) -> Section | None:
    """None where nothing was graded, or the outcomes tell nothing of other plans (`ar3po cost` says why)."""
    try:
        config = read_config(run.folder)
    except ValueError:  # the report's notes say what cannot be read
        return None
    visits = visits_of_columns(run.columns, config.rollout.stage_sizes)
    if not len(visits):
        return None
    own, shape = own_plan(config), step_shape(config)
    found = [predict_cost(visits, plan, shape) for plan in default_plans(own)]
    spent = sum_graded(run.cost)
    rows = [("this run, graded", f"{spent.responses:,}", "", f"{spent.tokens:,}", "")]
    rows += [
        (
            f"{p.plan} (this run's plan)" if p.plan == own.name else p.plan,
            show_range(p.low, p.high),
            show_interval(*p.interval),
            f"{p.tokens:,.0f}",
            show_interval(*p.tokens_interval),
        )
        for p in found
    ]
    header = ("", "responses", "95% interval", "tokens", "95% interval")
    return Section(
        key="counterfactual",
        title="What other plans would have spent",
        look_for=f"{_LOOK} Assumed: {' '.join(ASSUMPTIONS)}",
        figures=(
            figure(
                [_bars(found), _line(found, spent.responses)],
                x="plan",
                y="responses",
                layout={"xaxis": {"type": "category", "title": {"text": "plan"}}},
            ),
        ),
        markup=table(rows, header),
    )


def visits_of_columns(columns: LedgerColumns, sizes: Sequence[int]) -> Visits:
    """The same as from the rows, but that a response without a verdict has its tokens in the mean too."""
    numbers = np.stack([columns[name] for name in ("graded", "correct", "stages", "ungraded")])
    distinct, kinds = np.unique(numbers, axis=1, return_inverse=True)
    outcomes: list[Stages] = []
    number_of = np.full(distinct.shape[1], -1)
    for index, (graded, correct, stages, ungraded) in enumerate(distinct.T.tolist()):
        row = {
            "responses": graded + ungraded,
            "response_tokens": 0,
            "correct": correct,
            "stages": stages,
        }
        row["ungraded"] = ungraded
        if told := stages_of(row, sizes):
            number_of[index] = len(outcomes)
            outcomes.append(told)
    number = number_of[kinds.reshape(-1)]
    kept = number >= 0
    tokens = columns["tokens"][kept] / np.maximum(1, columns["responses"][kept])
    return Visits(
        steps=array("q", columns["step"][kept].tobytes()),
        prompts=array("q", columns["prompt"][kept].tobytes()),
        kinds=array("q", number[kept].astype(np.int64).tobytes()),
        tokens=array("d", tokens.astype(np.float64).tobytes()),
        outcomes=outcomes,
        prompt_ids=columns.prompt_ids,
        left_out=int((~kept).sum()),
        num_steps=len(np.unique(columns["step"])),
    )


def _bars(found: Sequence[Prediction]) -> Trace:
    middles = [(p.low + p.high) / 2 for p in found]
    return {
        "type": "bar",
        "name": "predicted",
        "x": [p.plan for p in found],
        "y": middles,
        "marker": {"color": PALETTE[0]},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [p.interval.high - m for p, m in zip(found, middles, strict=True)],
            "arrayminus": [m - p.interval.low for p, m in zip(found, middles, strict=True)],
        },
    }


def _line(found: Sequence[Prediction], spent: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "this run, graded",
        "x": [p.plan for p in found],
        "y": [spent] * len(found),
        "line": {"color": PALETTE[1], "width": 2, "dash": "dash"},
    }
