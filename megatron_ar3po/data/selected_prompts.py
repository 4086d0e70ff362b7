"""`SelectedPrompts`: a share of each step's prompts is chosen by what they have shown, the rest comes in epoch order.

The share in epoch order, `data.exploration_frac`, is the floor: whatever the choice favours, every prompt comes once in
each epoch of that order, which takes (prompts of the run) / (such prompts of a step) steps. It has at least one prompt
in every draw, and comes first in it.

    step of 8, exploration_frac 0.25, 400 prompts: 2 in epoch order, 6 chosen; all 400 in each 200 steps

Promises, as `PromptSource`'s:
- a step never holds a prompt twice, and positions count through it;
- a draw is a pure function of (run seed, number of the draw, what the steps before have shown): the same on every
  replica, at any data-parallel size, and after a resume, whose cursor knows the number.

Leader only: its leaders draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from megatron_ar3po.algorithm.prompt_selection import (
    PromptCounts,
    Weights,
    draw_candidates,
    expected_variance,
    load_selection_function,
    read_weights,
    take_largest,
    thompson_scores,
    weighted_scores,
)
from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.prompt_visits import PromptVisits
from megatron_ar3po.records import Max, Records
from megatron_ar3po.types import StepPrompt
from megatron_ar3po.user_functions import is_import_path

Scores = Callable[[PromptCounts, str], Weights]  # (what is known, key of the noise) -> [N]


class SelectedPrompts:
    def __init__(
        self,
        source: PromptSource,
        visits: PromptVisits,
        *,
        selection: str,
        exploration_frac: float,
        seed: int,
        num_draws: int = 0,
    ) -> None:
        """`source` and `visits` stand where the run takes up; `num_draws`: that were made before."""
        self._source, self._visits = source, visits
        self._scores = scores_of(selection)
        self._exploration_frac = exploration_frac
        self._seed = seed
        self._num_draws = num_draws
        self._num_explored = self._num_chosen = 0  # of this step

    def start_step(self) -> None:
        self._source.start_step()
        self._num_explored = self._num_chosen = 0

    def next_batch(self, num_prompts: int) -> list[StepPrompt]:
        """The next prompts of this step; fewer when the step has drawn every prompt."""
        num_explored = math.ceil(self._exploration_frac * num_prompts)
        explored = self._source.next_batch(num_explored)
        self._num_draws += 1
        chosen = self._choose(num_prompts - num_explored)
        # Where too few have a weight, the rest is in epoch order as well.
        filled = self._source.next_batch(num_prompts - num_explored - len(chosen))
        self._num_explored += len(explored) + len(filled)
        self._num_chosen += len(chosen)
        return [*explored, *chosen, *filled]

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next step starts, for JSON."""
        return {**self._source.cursor, "draws": self._num_draws}

    @property
    def records(self) -> Records:
        """Of this step's choice and of the steps before; every replica knows them alike."""
        counts = self._visits.counts
        return Records(
            {
                "selection/explored_prompts": Max(self._num_explored),
                "selection/chosen_prompts": Max(self._num_chosen),
                "selection/visited_frac": Max(np.count_nonzero(counts.visits) / len(counts)),
                "selection/visits_max": Max(int(counts.visits.max())),
                "selection/longest_wait_steps": Max(int(counts.step - counts.last_step.min())),
            }
        )

    def _choose(self, num: int) -> list[StepPrompt]:
        if num <= 0:
            return []
        noise_key = f"{self._seed}:select:{self._num_draws}"
        candidates = draw_candidates(len(self._visits), noise_key)
        scores = self._scores(self._visits.counts.at(candidates), noise_key)
        held = [self._visits.index_of(prompt_id) for prompt_id in self._source.in_step]
        scores[np.isin(candidates, [index for index in held if index is not None])] = -np.inf
        chosen = candidates[take_largest(scores, num)]
        return self._source.add([self._visits.prompt_at(i).prompt_id for i in chosen])


def check_selection(config: DataConfig) -> None:
    """Imports a user's own function; ValueError where it is missing or does not fit."""
    if is_import_path(config.selection):
        load_selection_function(config.selection)


def draws_of(cursor: Mapping[str, Any]) -> int:
    """Of a checkpoint's cursor; 0 where the run had no selection."""
    return int(cursor.get("draws", 0))


def scores_of(selection: str) -> Scores:
    """Of `data.selection`; those of the largest scores are taken."""
    if selection == "weighted":
        return lambda counts, key: weighted_scores(expected_variance(counts), counts.keys, key)
    if selection == "thompson":
        return thompson_scores
    weigh = load_selection_function(selection)

    def of_user(counts: PromptCounts, key: str) -> Weights:
        weights = read_weights(weigh(counts), counts, f"data.selection={selection}")
        return weighted_scores(weights, counts.keys, key)

    return of_user
