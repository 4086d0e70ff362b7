"""A reward that nearly every group of four has both values of: whether a response has an even number of characters.

For steps whose cost is compared: each of them trains, whatever the policy knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def is_even(text: str) -> bool:
    return len(text) % 2 == 0


def make_grader(rewards_config: Any) -> Callable[[str, str], Any]:
    """A `rewards.verifier`."""
    from megatron_ar3po.rewards.grade import Grade  # TRL's environment does without

    def grade(response: str, ground_truth: str) -> Any:
        return Grade(status="correct" if is_even(response) else "incorrect")

    return grade
