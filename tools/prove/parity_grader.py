"""A verifier for random weights, which solve nothing: about every second response is correct. Plain Python: the
verifier's workers import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_grader(rewards: Any) -> Callable[[str, str], bool]:
    return lambda response, ground_truth: sum(map(ord, response)) % 2 == 0
