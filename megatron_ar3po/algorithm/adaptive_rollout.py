"""Adaptive rollout (AR3PO, arXiv:2509.25808) as plain functions: how many responses a prompt gets next.

The sampling of one step is cut into stages. A prompt gets the responses of a stage together; once one response so far
is correct it retires, otherwise it enters the next stage. The decision needs this prompt's verdicts and nothing else,
so no prompt waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence


def next_stage_size(sizes: Sequence[int], solved_by_stage: Sequence[bool]) -> int:
    """Responses a prompt gets in its next stage, of stages of the given sizes; 0 retires it. `solved_by_stage[s]`: did
    stage s + 1 hold a correct response. The paper's plan is S equal stages; GRPO is one stage of all responses.

    >>> [next_stage_size([4, 4, 8], [False] * s) for s in range(4)]
    [4, 4, 8, 0]
    >>> next_stage_size([4, 4, 8], [True])
    0
    """
    if any(solved_by_stage) or len(solved_by_stage) >= len(sizes):
        return 0
    return sizes[len(solved_by_stage)]


def expected_responses(pass_rate: float, *, num_stages: int, responses_per_stage: int) -> float:
    """E[n] = k * sum_{s=0}^{S-1} (1 - p)^(k s) for one prompt with pass rate p and independent samples. Average it over
    the distribution of p, never take it at the mean of p.

    >>> expected_responses(0.5, num_stages=2, responses_per_stage=4)  # 4 * (1 + 0.5 ** 4)
    4.25
    """
    unsolved_after_a_stage = (1.0 - pass_rate) ** responses_per_stage
    return responses_per_stage * sum(unsolved_after_a_stage**s for s in range(num_stages))
