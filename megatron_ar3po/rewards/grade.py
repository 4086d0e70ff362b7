"""What a grader says of one response text, before rewards are attached.

This module is imported by the worker processes: it must stay free of torch, so `Verdict` (whose home imports torch)
is made from it in the trainer's process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# ungradable: the response exhausts the time or the memory of the grader, which says something of the response. error:
# the grader failed, which says nothing.
GradeStatus = Literal["correct", "incorrect", "no_answer", "too_large", "ungradable", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """`reason` is one readable line. `reward` overrides what the status would earn (a user's own grader may give
    partial credit); None: correct and incorrect earn `rewards.correct` and `rewards.incorrect`. `is_marked`: the answer
    stood where a final answer belongs (a box, an answer line), which earns the format reward."""

    status: GradeStatus
    extracted: str | None = None
    reason: str = ""
    reward: float | None = None
    is_marked: bool = False
    elapsed_s: float = 0.0
    tried: tuple[str, ...] = ()  # one line for each layer, when they were asked for


# What a factory named by `rewards.verifier: package.module:factory` returns: (response, ground truth) -> its grade;
# True and False are correct and incorrect, a number is a reward.
Grader = Callable[[str, str], "Grade | bool | float"]


def own_tolerance(error: object) -> dict[str, str]:
    """The overridden option of a row that brings its own absolute tolerance, as OlympiadBench's field `error` does; a
    list of them, one for each part of an answer, is not for us, and a flag is none.

    >>> own_tolerance("1e-1"), own_tolerance(None), own_tolerance("1e-1,1e-2"), own_tolerance(True)
    ({'tolerance': '0.1'}, {}, {}, {})
    """
    if isinstance(error, bool) or not isinstance(error, str | int | float):
        return {}
    try:
        tolerance = float(error)
    except ValueError:
        return {}
    return {"tolerance": repr(tolerance)} if 0 < tolerance < float("inf") else {}
