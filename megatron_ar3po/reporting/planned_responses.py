"""What a method is expected to spend on prompts whose pass rates are known: `ar3po plan CONFIG --pass-rates RATES`.

Responses of one prompt are independent, each correct with its pass rate p. Of stages of s_1, ..., s_S, N_k = s_1 + ...
+ s_k, stage k + 1 comes with the chance that the rule goes on: (1 - p)^N_k where stages end at the first correct
response (E[n] = s_1 + sum s_{k+1} (1 - p)^N_k), (1 - p)^N_k + p^N_k for `balance`. A group whose advantage is relative
to itself trains unless all of its responses are alike. Averaged over the prompts, never taken at the mean pass rate.

What hangs on a prompt's history is worked out for one that is settled: after many visits at this pass rate, its counts
at their mean. Nothing is borrowed.

Worked example, p = 0.5, two stages of 4: 4 + 4 / 16 = 4.25 responses; no signal where the first four are all correct or
all eight are wrong, 1/16 + 1/256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.algorithm.counterfactual_cost import expect_rounds
from megatron_ar3po.algorithm.history import chance_of_none
from megatron_ar3po.config.algorithm import RELATIVE_TO_GROUP, AlgorithmConfig
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Of one prompt that is rolled out, on average."""

    responses: float
    signal: float  # chance that its group trains

    @property
    def per_signal_group(self) -> float:
        return self.responses / self.signal if self.signal else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """Counts of a prompt that comes back again and again."""

    correct: float
    wrong: float


def expected_of(rates: Sequence[float], config: Config) -> Expected | None:
    """None for a rule or an advantage of the user's own, of which nothing is known."""
    rollout, algorithm = config.rollout, config.algorithm
    if ":" in rollout.stage_rule or ":" in algorithm.advantage:
        return None
    pooled = sum(rates) / len(rates)
    each = [_of_prompt(p, pooled, rollout, algorithm) for p in rates]
    return Expected(
        responses=sum(e.responses for e in each) / len(each),
        signal=sum(e.signal for e in each) / len(each),
    )


def _of_prompt(
    p: float, pooled: float, rollout: RolloutConfig, algorithm: AlgorithmConfig
) -> Expected:
    """Ends: how many responses the prompt may have in the end, and with which chance it has all of them wrong, all
    correct, or both outcomes."""
    sizes = _stage_sizes(p, pooled, rollout, algorithm)
    goes_on_after_success = rollout.stage_rule == "balance"
    drawn, responses, all_correct = 0, 0.0, 0.0
    for size in sizes:
        reached = (1 - p) ** drawn
        if drawn and goes_on_after_success:
            reached += p**drawn
        responses += reached * size
        drawn += size
        if drawn == size or goes_on_after_success:
            all_correct = p**drawn
    all_wrong = (1 - p) ** drawn
    if algorithm.advantage in RELATIVE_TO_GROUP:
        return Expected(responses=responses, signal=1 - all_wrong - all_correct)
    if algorithm.advantage == "history":
        wrong_trains, right_trains = _trains(p, pooled, rollout, algorithm)
        lost = all_wrong * (not wrong_trains) + all_correct * (not right_trains)
        mixed = 1 - all_wrong - all_correct
        return Expected(
            responses=responses,
            signal=1 - lost - mixed * (not wrong_trains and not right_trains),
        )
    return Expected(responses=responses, signal=1.0)  # relative to the whole step


def _stage_sizes(
    p: float, pooled: float, rollout: RolloutConfig, algorithm: AlgorithmConfig
) -> list[int]:
    """That an unsolved prompt gets, to the end."""
    plan = list(rollout.stage_sizes)
    seen = _settle(p, rollout)
    if rollout.stage_rule == "history":
        weight, drawn = algorithm.history_prior_weight, plan[0]
        for stage, size in enumerate(plan[1:], start=1):
            a = seen.correct + weight * pooled
            b = seen.wrong + weight * (1 - pooled) + drawn
            if 1 - chance_of_none(a, b, size) < rollout.history_success_frac:
                return plan[:stage]
            drawn += size
    if rollout.stage_rule == "difficulty":
        return _difficulty_sizes(seen, rollout)
    return plan


def _difficulty_sizes(seen: _Settled, rollout: RolloutConfig) -> list[int]:
    budget = rollout.max_responses_per_prompt
    least = min(rollout.difficulty_least_responses, budget)
    unsolved = 1 - rollout.difficulty_solve_frac
    a, b = 1 + seen.correct, 1 + seen.wrong
    first = next((n for n in range(least, budget) if chance_of_none(a, b, n) <= unsolved), budget)
    sizes = [first]
    while sum(sizes) < budget:
        sizes.append(min(rollout.responses_per_stage, budget - sum(sizes)))
    return sizes


def _settle(p: float, rollout: RolloutConfig) -> _Settled:
    """Each visit of n responses leaves decay * (counts + n): n * decay / (1 - decay) of them in the end; n is that of
    the first stage. A half-life is left out, and a decay of 1 is taken for one that is nearly so."""
    decay = min(rollout.history_decay, 0.999)
    counts = rollout.stage_sizes[0] * decay / (1 - decay)
    return _Settled(correct=p * counts, wrong=(1 - p) * counts)


def _trains(
    p: float, pooled: float, rollout: RolloutConfig, algorithm: AlgorithmConfig
) -> tuple[bool, bool]:
    """Whether a wrong and whether a correct response of a settled prompt have an advantage."""
    seen, weight = _settle(p, rollout), algorithm.history_prior_weight
    total = seen.correct + seen.wrong + weight
    mean = (seen.correct + weight * pooled) / total
    divisor = 1.0
    if algorithm.history_std == "posterior":
        divisor = (mean * (1 - mean) + algorithm.history_variance_floor) ** 0.5
    least = algorithm.history_least_advantage
    return mean / divisor > least, (1 - mean) / divisor > least


def read_pass_rates(path: Path, field: str) -> list[float]:
    """Of a JSONL file with a number in `field` of each line, or of what `ar3po history RUN --json` printed. Raises
    ValueError with the line."""
    require(path.is_file(), f"--pass-rates {path} is no file; name a JSONL file of prompts.")
    rates: list[float] = []
    for number, row in rows_of(path):
        rate = row.get(field) if isinstance(row, dict) else None
        is_rate = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate <= 1
        require(
            is_rate,
            f"{path}, line {number}: {field}={rate!r} is no pass rate; each line needs a number of 0 to 1 in {field!r} "
            "(--pass-rate-field names another field).",
        )
        rates.append(float(rate))  # type: ignore[arg-type]
    require(bool(rates), f"--pass-rates {path} holds no line.")
    return rates


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}).") from error
        if isinstance(row, dict) and isinstance(row.get("windows"), list):  # ar3po history --json
            yield from ((number, prompt) for prompt in row["prompts"] if prompt["responses"])
        else:
            yield number, row


def lines_of_expected(rates: Sequence[float], config: Config, described: str) -> Iterator[str]:
    """The table of `ar3po plan`: this config, and each preset as it is by itself."""
    mean = sum(rates) / len(rates)
    yield (
        f"expected   over {described}, mean {mean:.3f}; independent responses, nothing "
        "borrowed, settled histories"
    )
    yield f"  {'':<14}{'stages':<12}{'a prompt':>10}{'trains':>9}{'a group that trains':>21}{'a step':>10}"
    yield _row("this config", rates, config)
    for name in PRESETS:
        yield _row(name, rates, load_config([], [f"algorithm.name={name}"]), is_preset=True)
    yield "  history trains on a response however small its advantage is: that it trains says little of what it teaches"


def _row(name: str, rates: Sequence[float], config: Config, *, is_preset: bool = False) -> str:
    stages = " + ".join(map(str, config.rollout.stage_sizes))
    expected = expected_of(rates, config)
    if expected is None:
        return f"  {name:<14}{stages:<12}  not known for a function of your own"
    step = "" if is_preset else f"{_responses_of_step(expected, config):>10,.0f}"
    return (
        f"  {name:<14}{stages:<12}{expected.responses:>10.2f}{expected.signal:>9.1%}"
        f"{expected.per_signal_group:>21.2f}{step}"
    ).rstrip()


def _responses_of_step(expected: Expected, config: Config) -> float:
    """With dynamic sampling: of whole rounds, each prompt of which carries signal with the mean chance."""
    algorithm, prompts = config.algorithm, config.rollout.prompts_per_step
    if not algorithm.dynamic_sampling:
        return prompts * expected.responses
    a_round = algorithm.prompts_per_round or prompts
    rounds, _ = expect_rounds(
        expected.signal,
        slots=prompts,
        per_round=a_round,
        max_rounds=algorithm.max_sampling_rounds,
    )
    return rounds * a_round * expected.responses
