"""`TokenBudget`: `rollout.max_tokens_per_step`, one replica's share of it."""

from __future__ import annotations


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

    def __init__(self, cap_tokens: int) -> None:
        self._cap = cap_tokens
        self._sampled = 0
        self._reserved = 0

    def reserve(self, num_responses: int, limit_tokens: int, *, is_first: bool = False) -> bool:
        asked = num_responses * limit_tokens
        if self._cap and not is_first and self._sampled + self._reserved + asked > self._cap:
            return False
        self._reserved += asked
        return True

    def settle(self, limit_tokens: int, num_tokens: int) -> None:
        """A response is there (or cancelled): what it took replaces what it might have taken."""
        self._reserved -= limit_tokens
        self._sampled += num_tokens
