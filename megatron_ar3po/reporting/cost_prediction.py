"""What a plan of sampling would have spent in a run's steps, from the outcomes that the run saw, with 95% intervals.

An interval is one for what the plan, had it really been run once, would have spent: it holds what the outcomes leave
open of the chances, and the chance in the run itself.

- On the same prompts (GRPO, AR3PO beside a run of a fixed batch) a visit's cost X has E[X] and E[X^2] linear in the
  chances, so that Var[X] and the variance of its estimate have unbiased estimates too, prompt by prompt: what differs
  between prompts is no uncertainty.
- DAPO draws other prompts than the run has seen. Those are taken for a sample of what it would draw, and the variance
  goes by prompt: visits of one prompt are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from megatron_ar3po.algorithm.counterfactual_cost import (
    Bounds,
    estimate_mixed,
    estimate_responses,
    estimate_squared_responses,
    estimate_unsolved,
    expect_rounds,
)
from megatron_ar3po.reporting.visits import Visits

Array = np.ndarray[Any, Any]

_Z = 1.959964  # of a normal distribution 95% lie within so many standard deviations
_VISITS_OF_A_BLOCK = 256  # of which the share of mixed groups is taken together: policies change


@dataclass(frozen=True, slots=True)
class Plan:
    """`sizes`: of its stages. DAPO has one, and goes on until its slots are filled."""

    algorithm: Literal["grpo", "dapo", "ar3po", "history"]
    sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        """
        >>> Plan("grpo", (8,)).name, Plan("ar3po", (4, 4)).name, Plan("ar3po", (4, 4, 8)).name
        ('GRPO(8)', 'AR3PO(2x4)', 'AR3PO(4+4+8)')
        """
        alike = len(set(self.sizes)) == 1
        shown = f"{len(self.sizes)}x{self.sizes[0]}" if alike else "+".join(map(str, self.sizes))
        return f"{self.algorithm.upper()}({self.sizes[0] if len(self.sizes) == 1 else shown})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """Of the run, and of DAPO's steps."""

    prompts_per_step: int
    is_dynamic: bool  # the run itself drew until its slots were filled
    prompts_per_round: int
    max_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """`low` to `high`: the estimate; equal where the outcomes suffice for one. `interval` lies around both."""

    plan: str
    low: float
    high: float
    interval: Bounds
    tokens: float  # between the two
    tokens_interval: Bounds


def predict_cost(visits: Visits, plan: Plan, shape: StepShape) -> Prediction:
    """Raises ValueError when there is no visit."""
    if not len(visits):
        raise ValueError(
            "the ledger holds no prompt with a verdict, so there are no outcomes to predict from."
        )
    if plan.algorithm == "dapo":
        return _predict_dynamic(visits, plan, shape)
    return _predict_stages(visits, plan, shape)


def _predict_stages(visits: Visits, plan: Plan, shape: StepShape) -> Prediction:
    kinds = np.frombuffer(visits.kinds, dtype=np.int64)
    lengths = np.frombuffer(visits.tokens, dtype=np.float64)
    cost: Array = np.array([estimate_responses(stages, plan.sizes) for stages in visits.outcomes])
    squared: Array = np.array(
        [estimate_squared_responses(s, plan.sizes)[1] for s in visits.outcomes]
    )
    shares = np.bincount(kinds, minlength=len(cost)) / len(visits)
    num_prompts = len(visits) + visits.left_out
    if shape.is_dynamic:
        num_prompts = visits.num_steps * shape.prompts_per_step
    low, high = (num_prompts * float(shares @ cost[:, end]) for end in (0, 1))
    is_staged = len(plan.sizes) > 1
    if not is_staged:
        spread = 0.0
    elif shape.is_dynamic:  # which of the prompts that it drew are the step's is chance
        spread = _spread_over_prompts(visits, cost[kinds, 1], squared[kinds], num_prompts)
    else:
        square_of_mean = _square_of_mean(visits.outcomes, shares, plan.sizes)
        variance = shares @ (cost[:, 1] ** 2 + squared) - 2 * square_of_mean
        spread = _Z * math.sqrt(num_prompts * max(0.0, variance))
    if is_staged:
        spread += plan.sizes[-1] / 2  # a run spends whole stages
    at_least, at_most = num_prompts * plan.sizes[0], num_prompts * sum(plan.sizes)
    mean_cost = cost.mean(axis=1)[kinds]
    tokens = num_prompts * float((lengths * mean_cost).mean())
    tokens_spread = _spread_over_prompts(
        visits, lengths * mean_cost, lengths**2 * squared[kinds], num_prompts
    )
    return Prediction(
        plan=plan.name,
        low=low,
        high=high,
        interval=Bounds(max(at_least, low - spread), min(at_most, high + spread)),
        tokens=tokens,
        tokens_interval=Bounds(max(0.0, tokens - tokens_spread), tokens + tokens_spread),
    )


def _square_of_mean(outcomes: Sequence[Any], shares: Array, sizes: Sequence[int]) -> float:
    """The mean over visits of E[X]^2 = sum over pairs of stages of (1 - p)^(responses before the two), from below: of a
    higher power than the outcomes tell, the mean is at least that power of the mean of the highest that they do."""
    total = 0.0
    starts = [sum(sizes[:stage]) for stage in range(len(sizes))]
    for size, start in zip(sizes, starts, strict=True):
        for other_size, other_start in zip(sizes, starts, strict=True):
            total += size * other_size * _mean_unsolved(outcomes, shares, start + other_start)
    return total


def _mean_unsolved(outcomes: Sequence[Any], shares: Array, power: int) -> float:
    for told in range(power, 0, -1):
        bounds = [estimate_unsolved(stages, told) for stages in outcomes]
        if all(b.low == b.high for b in bounds):
            return float(shares @ [b.low for b in bounds]) ** (power / told)
    return 1.0 if not power else 0.0


def _spread_over_prompts(visits: Visits, values: Array, squared: Array, num_prompts: int) -> float:
    """Half a width for what other prompts of the same kind would cost: the chance in them, and the estimate's own."""
    mean = float(values.mean())
    in_them = num_prompts * max(0.0, float(squared.mean()) - mean**2)
    influence = (values - mean) * (num_prompts / len(visits))
    return _Z * math.sqrt(in_them + _variance_by_prompt(visits, influence))


def _variance_by_prompt(visits: Visits, influence: Array) -> float:
    """Of a sum over visits, those of one prompt being alike."""
    sums = np.bincount(np.frombuffer(visits.prompts, dtype=np.int64), weights=influence)
    return float((sums**2).sum()) * len(sums) / max(1, len(sums) - 1)


def _predict_dynamic(visits: Visits, plan: Plan, shape: StepShape) -> Prediction:
    [size] = plan.sizes
    kinds = np.frombuffer(visits.kinds, dtype=np.int64)
    lengths = np.frombuffer(visits.tokens, dtype=np.float64)
    mixed = np.array([estimate_mixed(stages, size) for stages in visits.outcomes])
    blocks, steps_of = _blocks(visits)
    per_round = size * shape.prompts_per_round
    ends = [_sum_rounds(mixed[kinds, end], blocks, steps_of, shape, visits) for end in (1, 0)]
    means = [per_round * rounds for rounds, _, _ in ends]  # more mixed groups, fewer rounds
    relative = [_Z * math.sqrt(variance) / max(rounds, 1e-9) for rounds, variance, _ in ends]
    num_steps = sum(steps_of)
    least = per_round * num_steps * math.ceil(shape.prompts_per_step / shape.prompts_per_round)
    most = per_round * num_steps * shape.max_rounds
    by_block = (np.array(ends[0][2]) + np.array(ends[1][2])) / 2
    weights = by_block[blocks] / np.bincount(blocks)[blocks]
    tokens = per_round * float(weights @ lengths)
    mean_length = float(weights @ lengths) / max(float(weights.sum()), 1e-9)
    of_length = _variance_by_prompt(visits, weights * (lengths - mean_length))
    of_length = _Z * math.sqrt(of_length) / max(float(weights @ lengths), 1e-9)
    wide = [math.hypot(half, of_length) for half in relative]
    share_low, share_high = (mean / max(sum(means) / 2, 1e-9) for mean in means)
    return Prediction(
        plan=plan.name,
        low=means[0],
        high=means[1],
        interval=Bounds(
            max(least, means[0] * math.exp(-relative[0])),
            min(most, means[1] * math.exp(relative[1])),
        ),
        tokens=tokens,
        tokens_interval=Bounds(
            tokens * share_low * math.exp(-wide[0]), tokens * share_high * math.exp(wide[1])
        ),
    )


def _blocks(visits: Visits) -> tuple[Array, list[int]]:
    """Of each visit the number of its block of consecutive steps, and how many steps each block has."""
    steps = np.frombuffer(visits.steps, dtype=np.int64)
    present, number = np.unique(steps, return_inverse=True)
    count = max(1, min(len(present), len(visits) // _VISITS_OF_A_BLOCK))
    of_step = np.arange(len(present)) * count // len(present)
    steps_of = np.bincount(of_step, minlength=count) * (visits.num_steps / len(present))
    return of_step[number], [float(n) for n in steps_of]  # type: ignore[misc]


def _sum_rounds(
    mixed: Array, blocks: Array, steps_of: Sequence[float], shape: StepShape, visits: Visits
) -> tuple[float, float, list[float]]:
    """Rounds of all steps: mean, variance, and the mean by block. The variance is that of the rounds themselves and, by
    the slope of their mean, that of the share of mixed groups; a share of 0 or 1 counts as if half a visit more had
    been of the other kind."""
    visits_of = np.bincount(blocks)
    found = np.bincount(blocks, weights=mixed)
    influence = np.zeros(len(visits))
    variance = 0.0
    by_block: list[float] = []
    for block, num_steps in enumerate(steps_of):
        share = float(found[block] / visits_of[block])
        mean, spread = _expect(share, shape)
        by_block.append(num_steps * mean)
        careful = (float(found[block]) + 0.5) / (int(visits_of[block]) + 1)
        step = min(careful, 1 - careful) / 4
        slope = (_expect(careful + step, shape)[0] - _expect(careful - step, shape)[0]) / (2 * step)
        per_visit = num_steps * slope / int(visits_of[block])
        variance += num_steps * max(spread, _expect(careful, shape)[1])
        variance += per_visit**2 * careful * (1 - careful)
        here = blocks == block
        influence[here] = per_visit * (mixed[here] - share)
    return sum(by_block), variance + _variance_by_prompt(visits, influence), by_block


def _expect(share: float, shape: StepShape) -> tuple[float, float]:
    return expect_rounds(
        share,
        slots=shape.prompts_per_step,
        per_round=shape.prompts_per_round,
        max_rounds=shape.max_rounds,
    )
