"""What a grader says of one response text, before rewards are attached.

This module is imported by the worker processes: it must stay free of torch, so `Verdict` (whose home imports torch)
is made from it in the trainer's process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GradeStatus = Literal["correct", "incorrect", "no_answer", "timeout", "too_large", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """`reason` is one readable line. `reward` overrides what the status would earn (a user's own grader may give
    partial credit); None: correct and incorrect earn `rewards.correct` and `rewards.incorrect`."""

    status: GradeStatus
    extracted: str | None = None
    reason: str = ""
    reward: float | None = None
    elapsed_s: float = 0.0
