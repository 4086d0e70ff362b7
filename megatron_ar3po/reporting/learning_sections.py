"""Sections of a report: what was learnt, and how the update and its inputs fared."""

from __future__ import annotations

import numpy as np

from megatron_ar3po.reporting.findings import Evaluation, Z, evaluations_of
from megatron_ar3po.reporting.page import Section
from megatron_ar3po.reporting.plots import (
    PALETTE,
    Trace,
    bars,
    figure,
    line,
    list_between,
    running_mean,
    series,
)
from megatron_ar3po.reporting.run_data import RunData


def accuracy_section(run: RunData) -> Section | None:
    evaluations = evaluations_of(run.rows)
    traces = [*_evaluation_traces(evaluations, "step"), *_reward_traces(run)]
    if not traces:
        return None
    figures = [figure(traces, x="step", y="share correct", share=True)]
    if len(evaluations) > 1 and evaluations[-1].responses:
        by_cost = _evaluation_traces(evaluations, "responses")
        figures.append(figure(by_cost, x="responses generated", y="pass@1, held out", share=True))
    if sources := _source_traces(run):
        figures.append(figure(sources, x="step", y="pass@1, held out", share=True))
    return Section(
        key="accuracy",
        title="Accuracy and reward",
        look_for="The held-out curve should rise by more than its bars are long, and stay. Where training responses "
        "get better and the held-out ones do not, the policy learns its prompts, or the verifier.",
        figures=tuple(figures),
    )


def _evaluation_traces(evaluations: list[Evaluation], axis: str) -> list[Trace]:
    if not evaluations:
        return []
    points = [getattr(e, axis) for e in evaluations], [e.rate for e in evaluations]
    bar = {
        "type": "data",
        "array": [Z * e.stderr for e in evaluations],
        "thickness": 1.2,
        "width": 3,
    }
    return [line("pass@1, held out", points, 0, mode="lines+markers", error_y=bar)]


def _reward_traces(run: RunData) -> list[Trace]:
    steps, rates = series(run.steps, "reward/correct_frac")
    if not len(steps):
        return []
    window = max(1, len(steps) // 30)
    points = steps, running_mean(rates, window)
    name = "training responses" + (f", mean of {window} points" if window > 1 else "")
    faint = {"opacity": 0.3, "showlegend": False, "hoverinfo": "skip"} if window > 1 else None
    found = [line(name, points, 1)]
    return [line("training responses", (steps, rates), 1, **faint), *found] if faint else found


def _source_traces(run: RunData) -> list[Trace]:
    names = list_between({n for row in run.rows for n in row}, "eval/source/", "/pass_at_1")
    if len(names) < 2:
        return []
    return [
        line(name, series(run.rows, f"eval/source/{name}/pass_at_1"), i, mode="lines+markers")
        for i, name in enumerate(names)
    ]


def update_section(run: RunData) -> Section | None:
    figures = []
    for y, names in (
        ("entropy, nats a token", ("actor/entropy",)),
        ("share", ("actor/clip_frac", "response/truncated_frac")),
        ("gradient norm", ("actor/grad_norm",)),
        ("KL, nats a token", ("actor/approx_kl",)),
    ):
        traces = [
            line(name, points, i)
            for i, name in enumerate(names)
            if len((points := series(run.steps, name))[0])
        ]
        if traces:
            figures.append(figure(traces, x="step", y=y))
    if not figures:
        return None
    return Section(
        key="update",
        title="The update",
        look_for="Entropy that falls to nothing early ends the search for other answers. A gradient norm that "
        "leaps, or a clip fraction that keeps rising, asks for a smaller actor.learning_rate.",
        figures=tuple(figures),
    )


def mismatch_section(run: RunData) -> Section | None:
    traces = [
        line(name.rpartition("_")[2], points, i)
        for i, name in enumerate(("mismatch/logprob_abs_mean", "mismatch/logprob_abs_max"))
        if len((points := series(run.steps, name))[0])
    ]
    if not traces:
        return None
    limit = run.setting("observability.max_logprob_mismatch")
    if isinstance(limit, int | float) and limit > 0:
        steps = [run.steps[0]["step"], run.last_step]
        dashed = {"color": PALETTE[5], "dash": "dot", "width": 1.5}
        traces.append(line("the log warns above (mean)", (steps, [limit, limit]), line=dashed))
    layout = {
        "yaxis": {"type": "log", "exponentformat": "power", "title": {"text": "nats a token"}}
    }
    return Section(
        key="mismatch",
        title="Servers and actor",
        look_for="Both compute the log-prob of every sampled token with the same weights: the mean should stay flat. A "
        "step up is another dtype, temperature or kernel, or weights that did not arrive.",
        figures=(figure(traces, x="step", y="", layout=layout),),
    )


def length_section(run: RunData) -> Section | None:
    figures = []
    if len((points := series(run.steps, "response/length_tokens"))[0]):
        longest = series(run.steps, "response/length_max_tokens")
        traces = [line("mean", points, 0), line("longest", longest, 7)]
        held_out = series(run.rows, "eval/length_tokens")
        if len(held_out[0]):
            traces.append(line("mean, held out", held_out, 2, mode="lines+markers"))
        figures.append(figure(traces, x="step", y="tokens"))
    figures += [*_histogram_of_prompts(run), *_histogram_of_verdicts(run)]
    if not figures:
        return None
    return Section(
        key="lengths",
        title="Lengths",
        look_for="Responses that grow while accuracy does not are padding. A heap at the right edge is the limit "
        "(rollout.max_response_tokens): what is cut off there is hardly ever correct.",
        figures=tuple(figures),
    )


def _histogram_of_prompts(run: RunData) -> list[str]:
    """Mean length of a prompt's responses, in the first and the last third of the steps."""
    columns = run.columns
    counted = columns["responses"] > 0
    if not counted.any():
        return []
    steps, responses = columns["step"][counted], columns["responses"][counted]
    means = columns["tokens"][counted] / responses
    edges = np.histogram_bin_edges(means, bins=40)
    first, last = steps.min(), steps.max()
    thirds = {
        "first third of the steps": steps <= first + (last - first) / 3,
        "last third": steps >= last - (last - first) / 3,
    }
    traces = []
    for i, (name, chosen) in enumerate(thirds.items()):
        counts, _ = np.histogram(means[chosen], edges, weights=responses[chosen])
        share = counts / max(1, counts.sum())
        traces.append(bars(name, (edges[:-1] + edges[1:]) / 2, share, i, opacity=0.65))
    layout = {"barmode": "overlay", "bargap": 0.02}
    return [
        figure(
            traces,
            x="mean tokens of a prompt's responses",
            y="share of responses",
            share=True,
            layout=layout,
        )
    ]


def _histogram_of_verdicts(run: RunData) -> list[str]:
    lengths = run.recorded.lengths
    longest = max((n for counter in lengths.values() for n in counter), default=0)
    if not longest:
        return []
    width = max(1, -(-longest // 40))
    traces = []
    for i, is_right in enumerate((True, False)):
        counts = np.zeros(longest // width + 1)
        for tokens, count in lengths[is_right].items():
            counts[tokens // width] += count
        centres = (np.arange(len(counts)) + 0.5) * width if width > 1 else np.arange(len(counts))
        name = "correct" if is_right else "not correct"
        traces.append(bars(name, centres, counts, 2 - i, opacity=0.65))
    layout = {"barmode": "overlay", "bargap": 0.02}
    return [figure(traces, x="tokens of a recorded response", y="responses", layout=layout)]
