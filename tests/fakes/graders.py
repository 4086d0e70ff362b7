"""Graders of users, by import path: `rewards.verifier=fakes.graders:failing`. Each is a factory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.last_number import grade_last_number


def failing(config: dict[str, Any]) -> Callable[[str, str], bool]:
    def grade(response: str, ground_truth: str) -> bool:
        raise OSError("the answer service is down")

    return grade


def always_right(config: dict[str, Any]) -> Callable[[str, str], bool]:
    return lambda response, ground_truth: True


def not_a_number(config: dict[str, Any]) -> Callable[[str, str], Grade]:
    return lambda response, ground_truth: Grade(status="correct", reward=float("nan"))


def slow(config: dict[str, Any]) -> Callable[[str, str], bool]:
    def grade(response: str, ground_truth: str) -> bool:
        time.sleep(1.0)
        return False

    return grade


def last_number(config: dict[str, Any]) -> Callable[[str, str], Grade]:
    """The verifier of examples/tiny_sum in a worker, which a test can kill."""
    return grade_last_number
