"""Sections of a report that go into single prompts: their history, and samples to be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from megatron_ar3po.reporting.ledger_columns import OUTCOMES
from megatron_ar3po.reporting.page import Section
from megatron_ar3po.reporting.plots import OUTCOME_COLOURS, figure
from megatron_ar3po.reporting.run_data import RunData

NUM_PROMPTS = 60  # whose history is shown
_MAX_VISITS = 200
_STEP_BINS = 60


def history_section(run: RunData) -> Section | None:
    chosen = choose_prompts(run)
    if not len(chosen):
        return None
    return Section(
        key="prompts",
        title="The history of single prompts",
        look_for=f"Each line is one of {len(chosen)} prompts of {len(run.columns.prompt_ids):,}, those that changed "
        "most first. Prompts that are solved and then lost again say more about the update than a mean does.",
        figures=(_heat_map(run, chosen),),
        markup='<div class="filters"><label>one prompt: <select id="prompt-chooser"></select></label></div>'
        '<div class="figure" id="prompt-figure"></div>'
        '<p class="look">A larger dot is more responses; its colour is how the group ended.</p>',
    )


def choose_prompts(run: RunData) -> np.ndarray:
    """Indices of the prompts whose share of correct responses changed most between the first and the second half of
    their visits; the most visited ones of those that changed alike."""
    columns = run.columns
    if not len(columns):
        return np.zeros(0, np.int64)
    count = len(columns.prompt_ids)
    prompts = columns["prompt"]
    visits = np.bincount(prompts, minlength=count)
    order = np.argsort(
        prompts, kind="stable"
    )  # rows of a prompt in the order in which they were written
    starts = np.cumsum(visits) - visits
    number = np.empty(len(prompts), np.int64)
    number[order] = np.arange(len(prompts)) - np.repeat(starts, visits)
    is_late = number >= (visits[prompts] + 1) // 2
    change = np.abs(_rate(run, is_late) - _rate(run, ~is_late))
    ranked = np.lexsort((np.arange(count), -visits, -np.round(np.nan_to_num(change, nan=-1.0), 1)))
    return ranked[:NUM_PROMPTS]


def _rate(run: RunData, chosen: np.ndarray) -> np.ndarray:
    columns, count = run.columns, len(run.columns.prompt_ids)
    prompts = columns["prompt"][chosen]
    graded = np.bincount(prompts, columns["graded"][chosen], count)
    correct = np.bincount(prompts, columns["correct"][chosen], count)
    return np.divide(correct, graded, out=np.full(count, np.nan), where=graded > 0)


def _heat_map(run: RunData, chosen: np.ndarray) -> str:
    columns = run.columns
    first, last = int(columns["step"].min()), int(columns["step"].max())
    width = max(1, -(-(last - first + 1) // _STEP_BINS))
    num_bins = (last - first) // width + 1
    line_of = np.full(len(columns.prompt_ids), -1)
    line_of[chosen] = np.arange(len(chosen))
    lines = line_of[columns["prompt"]]
    rows = lines >= 0
    cells = lines[rows] * num_bins + (columns["step"][rows] - first) // width
    graded = np.bincount(cells, columns["graded"][rows], len(chosen) * num_bins)
    correct = np.bincount(cells, columns["correct"][rows], len(chosen) * num_bins)
    share = np.divide(correct, graded, out=np.full(len(graded), np.nan), where=graded > 0)
    z = [
        [None if np.isnan(v) else round(float(v), 3) for v in of_line]
        for of_line in share.reshape(len(chosen), -1)
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": z,
        "x": (first + width * np.arange(num_bins)).tolist(),
        "y": list(range(1, len(chosen) + 1)),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#d66c28"], [0.5, "#e8d9a0"], [1, "#2e7d5b"]],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "correct"}, "tickformat": ".0%", "thickness": 12},
        "hovertemplate": "prompt %{y}, step %{x}: %{z:.0%} correct<extra></extra>",
    }
    layout = {
        "yaxis": {"autorange": "reversed", "title": {"text": "prompt"}},
        "hovermode": "closest",
    }
    return figure([trace], x="step", y="prompt", layout=layout)


def prompt_histories(run: RunData) -> dict[str, Any]:
    """For page.js: the visits of the chosen prompts, the first `_MAX_VISITS` of each."""
    columns = run.columns
    chosen = choose_prompts(run)
    wanted = np.isin(columns["prompt"], chosen)
    of_prompt: dict[int, list[int]] = {int(prompt): [] for prompt in chosen}
    for row in np.flatnonzero(wanted).tolist():
        of_prompt[int(columns["prompt"][row])].append(row)
    names = {name: columns[name] for name in ("step", "responses", "graded", "correct")}
    found = []
    for number, (prompt, rows) in enumerate(of_prompt.items(), start=1):
        prompt_id = columns.prompt_ids[prompt]
        text = run.recorded.prompts.get(prompt_id) or prompt_id
        visits = sorted(rows, key=lambda row: names["step"][row])[:_MAX_VISITS]
        found.append(
            {
                "name": f"{number}: {text}",
                "steps": [int(names["step"][row]) for row in visits],
                "outcomes": [int(columns.outcome[row]) for row in visits],
                **{
                    n: [int(names[n][row]) for row in visits]
                    for n in ("responses", "graded", "correct")
                },
            }
        )
    return {
        "list": found,
        "outcomes": [name.replace("_", " ") for name in OUTCOMES],
        "colours": [OUTCOME_COLOURS[name] for name in OUTCOMES],
    }


def sample_section(run: RunData) -> Section | None:
    recorded = run.recorded
    if not recorded.groups:
        return None
    return Section(
        key="samples",
        title="Samples",
        look_for=f"{len(recorded.groups):,} of {recorded.num_groups:,} recorded groups (observability."
        "record_groups_per_step), spread evenly over the run. The stronger a token's colour, the less likely it was "
        "when it was sampled; the hue is the sign of its response's advantage. Read some that were called wrong: is "
        "the verifier?",
        markup='<div class="facts"><span class="key" style="background:rgba(var(--plus),.6)"></span>advantage above 0'
        '<span class="key" style="background:rgba(var(--minus),.6)"></span>below 0'
        '<span class="key" style="background:rgba(128,128,128,.6)"></span>no gradient</div>'
        '<div class="filters">'
        '<select id="by-status" aria-label="verdict"><option value="">every verdict</option></select>'
        '<select id="by-origin" aria-label="origin"><option value="">fresh or reused</option></select>'
        '<select id="by-source" aria-label="source"><option value="">every source</option></select>'
        '<input id="by-from" type="number" placeholder="from step" aria-label="from step">'
        '<input id="by-to" type="number" placeholder="to step" aria-label="to step">'
        '<input id="by-text" type="search" placeholder="text" aria-label="text">'
        '<span class="facts" id="sample-count"></span></div>'
        '<div id="sample-list"></div><button id="more" type="button">more</button>',
    )
