"""How many responses a prompt gets next. `rollout.stage_rule` names the rule:

    fixed           the stages of `rollout.stage_plan`, or `num_stages` equal ones, until one holds a correct response:
                    the paper's
    difficulty      the first stage as large as the prompt's history asks for, then `responses_per_stage` each
    balance         the stages of the plan until both outcomes are there (Reinforce-Ada, arXiv:2510.04996)
    history         the stages of the plan while the prompt is unsolved and a success is likely enough to pay
    package.module:function     your own: (prompt, solved_by_stage) -> int, which is asked while the prompt is unsolved,
                    or (prompt, stages, history) -> int, which is asked after every stage; 0 retires the prompt

A rule sees one prompt, its own verdicts and its history, so that no prompt waits for another. None gives a prompt more
than `rollout.max_responses_per_prompt` responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ar3po.algorithm.adaptive_rollout import next_stage_size
from megatron_ar3po.algorithm.history import PromptHistory, chance_of_none
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.prompt_record import StageOutcome
from megatron_ar3po.types import Prompt
from megatron_ar3po.user_functions import load_user_function


class StageRule(Protocol):
    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        """`stages`: those that the prompt has had in this step. 0: the prompt retires. A function of its arguments and
        of what earlier steps have shown."""
        ...


class FixedStages:
    """Stages of given sizes until one holds a correct response: the paper's plan, whatever the prompt."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        return next_stage_size(self._sizes, solved_by_stage(stages))


class BalancedStages:
    """Stages of given sizes until the prompt has a correct and an incorrect response: only then has a group something
    to compare."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        correct = sum(stage.correct for stage in stages)
        is_mixed = 0 < correct < sum(stage.responses for stage in stages)
        if is_mixed or len(stages) >= len(self._sizes):
            return 0
        return self._sizes[len(stages)]


class HistoryStages:
    """Stages of given sizes; one after the first begins where the prompt is unsolved and its history, with what this
    step has shown, gives the stage a chance of at least `least_success_frac` to hold a correct response. So a prompt
    that is hopeless today costs its first stage, and one that had bad luck gets another try."""

    def __init__(
        self, history: PromptHistory, sizes: Sequence[int], *, least_success_frac: float
    ) -> None:
        self._history = history
        self._sizes = tuple(sizes)
        self._least = least_success_frac

    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        size = next_stage_size(self._sizes, solved_by_stage(stages))
        if not size or not stages:
            return size
        num_wrong = sum(stage.responses for stage in stages)
        chance = self._history.success_frac(prompt, size, num_wrong=num_wrong)
        return size if chance >= self._least else 0


class DifficultyStages:
    """The first stage is the smallest that is expected to solve the prompt with probability `solve_frac`, between
    `least` (so that an easy prompt goes on being measured, and a group has something to compare) and the whole budget;
    every later one has `size` until the budget is used up. A prompt that was never seen gets `size`."""

    def __init__(
        self, history: PromptHistory, *, size: int, budget: int, least: int, solve_frac: float
    ) -> None:
        self._history = history
        self._size = size
        self._budget = budget
        self._least = min(least, budget)
        self._solve_frac = solve_frac

    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        if any(solved_by_stage(stages)):
            return 0
        first = self._first_size(prompt.prompt_id)
        if not stages:
            return first
        used = first + (len(stages) - 1) * self._size
        return max(0, min(self._size, self._budget - used))

    def _first_size(self, prompt_id: str) -> int:
        if not self._history.is_known(prompt_id):
            return min(self._size, self._budget)
        a, b = self._history.beta(prompt_id)
        for size in range(self._least, self._budget):
            if chance_of_none(a, b, size) <= 1 - self._solve_frac:
                return size
        return self._budget


class UserStages:
    """A function from the user's own code, named by its import path; what it answers is checked on every call. One that
    takes `history` is given (responses, correct) of each stage and the prompt's record; one that does not is given
    which stages held a correct response, and is not asked again once one did."""

    def __init__(self, path: str, history: PromptHistory, *, budget: int) -> None:
        self._path = path
        self._history = history
        self._budget = budget
        self._function = load_user_function(
            "rollout.stage_rule", path, "prompt", "solved_by_stage", optional="history"
        )

    def next_stage_size(self, prompt: Prompt, stages: Sequence[StageOutcome]) -> int:
        if any(solved_by_stage(stages)) and not self._function.takes_optional:
            return 0
        done = sum(self._ask(prompt, stages[:stage]) for stage in range(len(stages)))
        return self._ask(prompt, stages, done=done)

    def _ask(self, prompt: Prompt, stages: Sequence[StageOutcome], *, done: int = 0) -> int:
        if self._function.takes_optional:
            size = self._function(prompt, tuple(stages), self._history.record(prompt))
        else:
            size = self._function(prompt, tuple(solved_by_stage(stages)))
        least = 0 if stages else 1
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(
                f"rollout.stage_rule={self._path} returned {size!r} for stage {len(stages) + 1} of prompt "
                f"{prompt.prompt_id[:16]}; return how many responses it gets, an int of at least {least}."
            )
        if done + size > self._budget:
            raise ValueError(
                f"rollout.stage_rule={self._path} asks for {size} responses after {done}, more than "
                f"{self._budget} a prompt; raise rollout.stage_plan (its sum is the limit) or return less."
            )
        return size


def solved_by_stage(stages: Sequence[StageOutcome]) -> list[bool]:
    return [stage.correct > 0 for stage in stages]


def make_stage_rule(config: RolloutConfig, history: PromptHistory) -> StageRule:
    if config.stage_rule == "fixed":
        return FixedStages(config.stage_sizes)
    if config.stage_rule == "difficulty":
        return DifficultyStages(
            history,
            size=config.responses_per_stage,
            budget=config.max_responses_per_prompt,
            least=config.difficulty_least_responses,
            solve_frac=config.difficulty_solve_frac,
        )
    if config.stage_rule == "balance":
        return BalancedStages(config.stage_sizes)
    if config.stage_rule == "history":
        return HistoryStages(
            history, config.stage_sizes, least_success_frac=config.history_success_frac
        )
    return UserStages(config.stage_rule, history, budget=config.max_responses_per_prompt)
