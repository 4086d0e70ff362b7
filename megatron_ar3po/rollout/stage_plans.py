"""How many responses a prompt gets next. `rollout.stage_rule` names the rule:

    fixed           the stages of `rollout.stage_plan`, or `num_stages` equal ones: the paper's
    difficulty      the first stage as large as the prompt's history asks for, then `responses_per_stage` each
    package.module:function     your own: (prompt, solved_by_stage) -> int, 0 retires the prompt

A rule sees one prompt and its own verdicts, so that no prompt waits for another. None gives a prompt more than
`rollout.max_responses_per_prompt` responses or goes on once it is solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ar3po.algorithm.adaptive_rollout import next_stage_size
from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.types import Prompt
from megatron_ar3po.user_functions import load_user_function


class StageRule(Protocol):
    def next_stage_size(self, prompt: Prompt, solved_by_stage: Sequence[bool]) -> int:
        """`solved_by_stage[s]`: did stage s + 1 hold a correct response. 0: the prompt retires. A function of its
        arguments and of what earlier steps have shown."""
        ...


class FixedStages:
    """Stages of given sizes until one holds a correct response: the paper's plan, whatever the prompt."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def next_stage_size(self, prompt: Prompt, solved_by_stage: Sequence[bool]) -> int:
        return next_stage_size(self._sizes, solved_by_stage)


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

    def next_stage_size(self, prompt: Prompt, solved_by_stage: Sequence[bool]) -> int:
        if any(solved_by_stage):
            return 0
        first = self._first_size(prompt.prompt_id)
        if not solved_by_stage:
            return first
        used = first + (len(solved_by_stage) - 1) * self._size
        return max(0, min(self._size, self._budget - used))

    def _first_size(self, prompt_id: str) -> int:
        if not self._history.is_known(prompt_id):
            return min(self._size, self._budget)
        for size in range(self._least, self._budget):
            if self._history.unsolved_frac(prompt_id, size) <= 1 - self._solve_frac:
                return size
        return self._budget


class UserStages:
    """A function from the user's own code, named by its import path; what it answers is checked on every call."""

    def __init__(self, path: str, *, budget: int) -> None:
        self._path = path
        self._budget = budget
        self._function = load_user_function("rollout.stage_rule", path, "prompt", "solved_by_stage")

    def next_stage_size(self, prompt: Prompt, solved_by_stage: Sequence[bool]) -> int:
        if any(solved_by_stage):
            return 0
        done = sum(
            self._ask(prompt, solved_by_stage[:stage]) for stage in range(len(solved_by_stage))
        )
        return self._ask(prompt, solved_by_stage, done=done)

    def _ask(self, prompt: Prompt, solved_by_stage: Sequence[bool], *, done: int = 0) -> int:
        size = self._function(prompt, tuple(solved_by_stage))
        least = 0 if solved_by_stage else 1
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(
                f"rollout.stage_rule={self._path} returned {size!r} for stage {len(solved_by_stage) + 1} of prompt "
                f"{prompt.prompt_id[:16]}; return how many responses it gets, an int of at least {least}."
            )
        if done + size > self._budget:
            raise ValueError(
                f"rollout.stage_rule={self._path} asks for {size} responses after {done}, more than "
                f"{self._budget} a prompt; raise rollout.stage_plan (its sum is the limit) or return less."
            )
        return size


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
    return UserStages(config.stage_rule, budget=config.max_responses_per_prompt)
