"""`TokenBudget`: `rollout.max_tokens_per_step`, one replica's share of it."""

from __future__ import annotations

from collections.abc import Iterable


class TokenBudget:
    """A stage after the first begins only if all of it fits at full length, beside what was sampled and what may still
    come of what is in flight; so the step never exceeds the cap but by its first stages, which every prompt gets.

    >>> budget = TokenBudget(100)
    >>> budget.reserve(2, 30, is_first=True); budget.reserve(2, 30)  # 60 spoken for, 60 more do not fit
    True
    False
    >>> budget.settle(30, 10); budget.settle(30, 12); budget.reserve(2, 30)  # 22 were sampled
    True
    """

    def __init__(self, cap_tokens: int | None) -> None:
        """None: no cap."""
        self._cap = cap_tokens
        self._sampled = 0
        self._reserved = 0

    def reserve(self, num_responses: int, limit_tokens: int, *, is_first: bool = False) -> bool:
        asked = num_responses * limit_tokens
        if (
            self._cap is not None
            and not is_first
            and self._sampled + self._reserved + asked > self._cap
        ):
            return False
        self._reserved += asked
        return True

    def settle(self, limit_tokens: int, num_tokens: int) -> None:
        """A response is there (or cancelled): what it took replaces what it might have taken."""
        self._reserved -= limit_tokens
        self._sampled += num_tokens


def share_of_cap(cap_tokens: int, positions: Iterable[int], num_prompts: int) -> int:
    """What the prompts at `positions` of a step's `num_prompts` get of its tokens. The shares of all prompts add up to
    the cap, whoever owns which; 0 is a share too, and no lack of a cap.

    >>> [share_of_cap(10, [position], 4) for position in range(4)]
    [2, 3, 2, 3]
    >>> share_of_cap(10, [0, 2], 4) + share_of_cap(10, [1, 3], 4)
    10
    """
    return sum(
        cap_tokens * (position + 1) // num_prompts - cap_tokens * position // num_prompts
        for position in positions
    )
