"""Adaptive rollout (AR3PO, arXiv:2509.25808) as plain functions: how many responses a prompt gets next.

The sampling of one step is cut into stages. A prompt gets the responses of a stage together; once one response so far
is correct it retires, otherwise it enters the next stage. The decision needs this prompt's verdicts and nothing else,
so no prompt waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StagePlan(Protocol):
    """A rule that says how many responses a prompt gets in its next stage."""

    def next_stage_size(self, solved_by_stage: Sequence[bool]) -> int:
        """`solved_by_stage[s]`: did stage s + 1 hold a correct response. 0: the prompt retires."""
        ...

    @property
    def max_responses(self) -> int:
        """The most responses that one prompt can get."""
        ...


@dataclass(frozen=True, slots=True)
class EqualStages:
    """The paper's plan: S stages of k. GRPO is S = 1, k = G.

    >>> plan = EqualStages(num_stages=2, responses_per_stage=4)
    >>> plan.next_stage_size([]), plan.next_stage_size([True]), plan.next_stage_size([False])
    (4, 0, 4)
    >>> plan.next_stage_size([False, False])
    0
    """

    num_stages: int
    responses_per_stage: int

    def __post_init__(self) -> None:
        if self.num_stages < 1 or self.responses_per_stage < 1:
            raise ValueError(
                f"rollout.num_stages={self.num_stages} and rollout.responses_per_stage="
                f"{self.responses_per_stage} must be at least 1."
            )

    def next_stage_size(self, solved_by_stage: Sequence[bool]) -> int:
        if any(solved_by_stage) or len(solved_by_stage) >= self.num_stages:
            return 0
        return self.responses_per_stage

    @property
    def max_responses(self) -> int:
        return self.num_stages * self.responses_per_stage


def expected_responses(pass_rate: float, *, num_stages: int, responses_per_stage: int) -> float:
    """E[n] = k * sum_{s=0}^{S-1} (1 - p)^(k s) for one prompt with pass rate p and independent samples. Average it over
    the distribution of p, never take it at the mean of p.

    >>> expected_responses(0.5, num_stages=2, responses_per_stage=4)  # 4 * (1 + 0.5 ** 4)
    4.25
    """
    unsolved_after_a_stage = (1.0 - pass_rate) ** responses_per_stage
    return responses_per_stage * sum(unsolved_after_a_stage**s for s in range(num_stages))
