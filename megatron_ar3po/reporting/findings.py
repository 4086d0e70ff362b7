"""The five sentences at the top of a report: did it learn, what a point of accuracy cost, where responses went to
waste, whether the verifier is sane, which checkpoint was best. Computed from the run's files, with how sure they are.

Intervals are 95%. An evaluation's comes from the spread over its prompts (`eval/pass_at_1_stderr`); where a run did not
write that down, from a draw of one response a prompt, which is no narrower. Two evaluations are taken as independent:
they draw the same noise on the same prompts, so the true interval of their difference is hardly ever wider.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np

from megatron_ar3po.config.algorithm import RELATIVE_TO_GROUP
from megatron_ar3po.reporting.ledger_columns import OUTCOMES
from megatron_ar3po.reporting.run_data import RunData

Mark = Literal["good", "bad", "open"]

Z = 1.96
_Z_OF_A_LOSS = 3.0  # the best of many evaluations is partly luck
_MANY = 50  # verdicts, before one looks at what they have in common
_BAD_SHARE = 0.01  # of responses that the verifier failed for
_POINT = 0.01  # of accuracy


@dataclass(frozen=True, slots=True)
class Finding:
    key: str
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    step: int
    rate: float
    stderr: float
    prompts: int
    responses: float  # generated for training until then
    tokens: float
    seconds: float

    @property
    def shown(self) -> str:
        return f"{self.rate:.3f} ± {Z * self.stderr:.3f}"


def find_all(run: RunData) -> list[Finding]:
    evaluations = evaluations_of(run.rows)
    return [
        find_learning(run, evaluations),
        find_cost(evaluations),
        find_waste(run),
        find_verifier(run),
        find_best(run, evaluations),
    ]


def evaluations_of(rows: Sequence[dict[str, Any]]) -> list[Evaluation]:
    found: list[Evaluation] = []
    responses = tokens = seconds = 0.0
    for row in rows:
        responses = row.get("rollout/responses_total", responses)
        tokens = row.get("rollout/tokens_total", tokens)
        seconds += row.get("time/wall_s", 0.0)
        rate = row.get("eval/pass_at_1")
        if rate is None:
            continue
        prompts = int(row.get("eval/prompts", 0))
        stderr = row.get("eval/pass_at_1_stderr") or guess_stderr(rate, prompts)
        found.append(
            Evaluation(
                step=row["step"],
                rate=rate,
                stderr=stderr,
                prompts=prompts,
                responses=responses,
                tokens=tokens,
                seconds=seconds,
            )
        )
    return found


def guess_stderr(rate: float, prompts: int) -> float:
    """Of one response a prompt, with two successes and two failures more (Agresti and Coull 1998): not 0 where all
    or none were right.

    >>> round(guess_stderr(0.5, 96), 3), round(guess_stderr(0.0, 96), 3)
    (0.05, 0.014)
    """
    middle = (rate * prompts + 2) / (prompts + 4)
    return sqrt(middle * (1 - middle) / (prompts + 4))


def gain_interval(first: Evaluation, last: Evaluation) -> tuple[float, float]:
    """
    >>> ends = [Evaluation(step=s, rate=r, stderr=e, prompts=9, responses=0, tokens=0, seconds=0)
    ...         for s, r, e in ((0, 0.25, 0.03), (9, 0.75, 0.04))]
    >>> [round(end, 3) for end in gain_interval(*ends)]
    [0.402, 0.598]
    """
    half = Z * sqrt(first.stderr**2 + last.stderr**2)
    return last.rate - first.rate - half, last.rate - first.rate + half


def find_learning(run: RunData, evaluations: Sequence[Evaluation]) -> Finding:
    if len(evaluations) < 2:
        return Finding("learning", "open", _without_evaluations(run, evaluations))
    first, last = evaluations[0], evaluations[-1]
    best = max(evaluations, key=lambda e: e.rate)
    low, high = gain_interval(first, last)
    change = (
        f"pass@1 on {last.prompts:,} held-out prompts went from {first.rate:.3f} to {last.rate:.3f}"
    )
    sure = f"by {last.rate - first.rate:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
    loss = best.rate - last.rate
    if loss > _Z_OF_A_LOSS * sqrt(best.stderr**2 + last.stderr**2):
        return Finding(
            "learning",
            "bad",
            f"It lost what it had: pass@1 on {last.prompts:,} held-out prompts was {best.shown} after step {best.step} "
            f"and is {last.shown} after step {last.step} (it began at {first.rate:.3f}).",
        )
    if low > 0:
        return Finding("learning", "good", f"It learned: {change} ({sure}).")
    if high < 0:
        return Finding("learning", "bad", f"It got worse: {change} ({sure}).")
    return Finding("learning", "bad", f"No sign that it learned: {change} ({sure}).")


def _without_evaluations(run: RunData, evaluations: Sequence[Evaluation]) -> str:
    said = (
        f"There is one evaluation, pass@1 {evaluations[0].shown}, and a second one to hold it against is missing"
        if evaluations
        else "No held-out prompts were evaluated"
    )
    rates = [row["reward/correct_frac"] for row in run.steps if "reward/correct_frac" in row]
    text = f"{said}, so whether it learned cannot be said"
    if len(rates) >= 2:
        part = max(1, len(rates) // 5)
        began, ended = sum(rates[:part]) / part, sum(rates[-part:]) / part
        text += (
            f"; of its training responses {began:.1%} were correct in the first {part} steps and {ended:.1%} in the "
            f"last {part}"
        )
    return f"{text}."


def find_cost(evaluations: Sequence[Evaluation]) -> Finding:
    if len(evaluations) < 2:
        return Finding(
            "cost", "open", "What a point of accuracy cost needs two evaluations to compare."
        )
    first = evaluations[0]
    best = max(evaluations[1:], key=lambda e: e.rate)
    low, high = gain_interval(first, best)
    spent = best.responses - first.responses
    gained = (best.rate - first.rate) / _POINT
    if low <= 0:
        last = evaluations[-1]
        spent = last.responses - first.responses
        at_least = f", so one cost at least {spent * _POINT / high:,.0f}" if high > 0 else ""
        return Finding(
            "cost",
            "bad",
            f"No point of accuracy was surely gained for {spent:,.0f} responses and "
            f"{last.tokens - first.tokens:,.0f} tokens (best: {best.shown} after step {best.step}{at_least}).",
        )
    seconds = best.seconds - first.seconds
    time = f" and {_duration(seconds / gained)}" if seconds > 0 else ""
    return Finding(
        "cost",
        "good",
        f"A point of accuracy cost {spent / gained:,.0f} responses (95% interval {spent * _POINT / high:,.0f} to "
        f"{spent * _POINT / low:,.0f}), {(best.tokens - first.tokens) / gained:,.0f} tokens{time}: {gained:.1f} points "
        f"for {spent:,.0f} responses until step {best.step}.",
    )


def _duration(seconds: float) -> str:
    """
    >>> _duration(4.21), _duration(600), _duration(9000)
    ('4.2 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


_WASTES = {
    "all_correct": "in groups that were all correct",
    "all_wrong": "in groups that were all wrong",
    "truncated": "in groups that were cut off at the length limit",
    "verifier_error": "in groups without a verdict",
    "cancelled": "cut off by early cancel",
    "discarded": "in groups that dynamic sampling discarded",
    "redone": "in steps that a kill made the run do again",
    "aborted": "cut off by their servers",
    "unusable": "in answers that could not be used",
    "ungraded": "without a verdict",
    "unlisted": "in rows of the ledger that are gone",
}
_ADVICE = {
    "all_correct": "harder prompts, or fewer responses at first, would teach more",
    "all_wrong": "easier prompts, or more responses of a prompt, would teach more",
    "truncated": "a higher rollout.max_response_tokens, or a penalty on length, would help",
    "verifier_error": "look at rewards.* and docs/verifier.md",
    "discarded": "that is what DAPO pays for full batches",
}


def responses_by_use(run: RunData) -> dict[str, int]:
    """Every response that was generated for training, by what it was good for: `signal`, or a way to waste it. They add
    up to the ledger's total."""
    columns, classes = run.columns, run.cost.classes
    kept = ~columns.is_discarded
    by_outcome = np.bincount(
        columns.outcome[kept], weights=columns["graded"][kept], minlength=len(OUTCOMES)
    )
    uses = {name: int(count) for name, count in zip(OUTCOMES, by_outcome, strict=True)}
    signal = ["mixed", "rescued"]
    if (run.setting("algorithm.advantage") or "group") not in RELATIVE_TO_GROUP:
        signal += ["all_correct", "all_wrong"]  # its advantages are relative to other groups
    found = {"signal": sum(uses.pop(name) for name in signal)} | uses
    for name, spent in classes.items():
        if name != "kept":
            found[name] = found.get(name, 0) + spent.responses
    return {name: count for name, count in found.items() if count or name == "signal"}


def find_waste(run: RunData) -> Finding:
    uses = responses_by_use(run)
    total = sum(uses.values())
    if not total:
        return Finding("waste", "open", "The ledger names no response, so none can be said wasted.")
    wasted = {name: count for name, count in uses.items() if name != "signal"}
    share = sum(wasted.values()) / total
    largest = sorted(wasted, key=lambda name: -wasted[name])
    named = "; ".join(f"{wasted[n] / total:.0%} {_WASTES[n]}" for n in largest[:3])
    if share < 0.1:
        return Finding(
            "waste", "good", f"Hardly any of {total:,} responses were wasted ({share:.0%})."
        )
    advice = _ADVICE.get(largest[0], "")
    return Finding(
        "waste",
        "bad" if share > 0.5 else "open",
        f"Of {total:,} responses {share:.0%} taught nothing: {named}"
        + (f" ({advice})." if advice else "."),
    )


def find_verifier(run: RunData) -> Finding:
    columns, recorded = run.columns, run.recorded
    graded, correct = int(columns["graded"].sum()), int(columns["correct"].sum())
    if not graded:
        return Finding("verifier", "open", "No response was graded, so the verifier is not known.")
    problems = list(_problems_of_verdicts(run, graded, correct))
    if problems:
        return Finding(
            "verifier", "bad", f"The verifier does not look sane: {'; '.join(problems)}."
        )
    shown = sum(recorded.statuses.values())
    same = f"; of {shown:,} recorded responses no text got two verdicts" if shown else ""
    return Finding(
        "verifier",
        "good",
        f"The verifier looks sane: it called {correct / graded:.0%} of {graded:,} responses correct and failed for "
        f"{_share_of(run, 'reward/verifier_error_frac'):.1%}{same}.",
    )


def _problems_of_verdicts(run: RunData, graded: int, correct: int) -> Iterator[str]:
    recorded = run.recorded
    for name, what in (
        ("reward/verifier_error_frac", "it failed for"),
        ("reward/ungradable_frac", "it ran out of time or memory at"),
    ):
        if (share := _share_of(run, name)) > _BAD_SHARE:
            yield f"{what} {share:.1%} of responses"
    if graded >= _MANY and correct == 0:
        yield f"it called none of {graded:,} responses correct"
    if graded >= _MANY and correct == graded:
        yield f"it called every one of {graded:,} responses correct"
    if recorded.two_verdicts:
        yield f"it gave {_times(recorded.two_verdicts, 'text')} of the recorded ones both verdicts"
    if recorded.wrong_though_equal:
        yield f"it called {_times(recorded.wrong_though_equal, 'recorded response')} wrong that are the ground truth"
    if recorded.empty_and_right:
        yield f"it called {_times(recorded.empty_and_right, 'empty response')} correct"
    shown = sum(recorded.statuses.values())
    if shown >= _MANY and recorded.statuses["no_answer"] > shown / 2:
        yield f"in {recorded.statuses['no_answer'] / shown:.0%} of the recorded responses it found no answer"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def _share_of(run: RunData, name: str) -> float:
    """Over all responses of the run."""
    rows = [row for row in run.steps if name in row]
    weights = [row.get("rollout/responses_generated", 1) for row in rows]
    total = sum(weights)
    return (
        sum(row[name] * w for row, w in zip(rows, weights, strict=True)) / total if total else 0.0
    )


def find_best(run: RunData, evaluations: Sequence[Evaluation]) -> Finding:
    after = [e for e in evaluations if e.step > 0]
    if not after:
        kept = f"the newest is of step {run.checkpoints[-1]}" if run.checkpoints else "none is kept"
        return Finding("best", "open", f"No checkpoint was evaluated, so none is best; {kept}.")
    best = max(after, key=lambda e: e.rate)
    text = f"The best evaluation came after step {best.step}: pass@1 {best.shown}"
    last = after[-1]
    if last.step != best.step:
        half = Z * sqrt(best.stderr**2 + last.stderr**2)
        is_near = best.rate - last.rate <= half
        text += f"; the last one, {last.shown} after step {last.step}, is " + (
            "as good within the noise" if is_near else "worse"
        )
    return Finding(
        "best",
        "good" if best.step in run.checkpoints else "open",
        text + _describe_kept(run, best, after),
    )


def _describe_kept(run: RunData, best: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    """Whether its checkpoint is there, and else which of those that are there was evaluated best."""
    if best.step in run.checkpoints:
        return f". Its checkpoint is kept: checkpoints/step_{best.step:05d}."
    there = [e for e in evaluations if e.step in run.checkpoints]
    if not there:
        return ". Its checkpoint is not kept (checkpoint.every_steps, checkpoint.keep_last)."
    other = max(there, key=lambda e: e.rate)
    return f". Its checkpoint is not kept; of those that are, step_{other.step:05d} was evaluated best ({other.shown})."
