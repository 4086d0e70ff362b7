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
