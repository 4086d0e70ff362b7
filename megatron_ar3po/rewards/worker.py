"""The process that reads model text: `python -m megatron_ar3po.rewards.worker SETTINGS`, started by the pool.

It grades one item after another and writes one line for each. What an item does to it stays with that item: one that
exhausts the time (a soft limit: an alarm that no `except Exception` of a library can swallow), the memory or the stack
is 'ungradable' here, whatever the grader raises is an 'error', and the pool gives either a second chance. A worker
that was exhausted ends, so that the next item meets a fresh one. What the alarm cannot interrupt, the pool kills. It
ends with its parent, however that ends: by the end of its input, and by the kernel's parent-death signal should it be
busy.

It imports neither torch nor the heavy rest of the package, so it starts in about a second.
"""

from __future__ import annotations

import ctypes
import json
import math
import numbers
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

from megatron_ar3po.rewards.grade import Grade, Grader, GradeStatus
from megatron_ar3po.user_functions import (
    UserFunctionError,
    check_parameters,
    explain_user_error,
    load_user_function,
)

GradeItem = Callable[[list[Any]], Grade]
_PR_SET_PDEATHSIG = 1


class Expired(BaseException):
    """The soft time limit. No `Exception`, so that no library swallows it."""


class Alarm:
    """Raises `Expired` in the main thread while armed; again every half second, should someone catch it."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, signum: int, frame: object) -> None:
        if self._armed:
            raise Expired

    def run(self, grade: GradeItem, item: list[Any], limit_s: float) -> Grade:
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, limit_s, 0.5)
            return grade(item)
        except Expired:
            return Grade(status="ungradable", reason=f"not decided within {limit_s:g} s")
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    settings = json.loads(sys.argv[1])
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the trainer, which then closes the pool
    end_with_parent(settings["parent"])
    results = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # libraries print; the protocol is not theirs
    try:
        grade = load_grader(settings)
    # The pool shows these words at the start of the run and ends it.
    except UserFunctionError as error:
        sys.exit(str(error))
    except Exception as error:  # the math grader's libraries may raise anything
        sys.exit(explain_user_error(error))
    limit_memory(settings["memory_bytes"], may_write_files=settings["grader"] != "math")
    alarm = Alarm()
    os.write(results, b'"ready"\n')
    os.dup2(null, 2)
    for line in sys.stdin.buffer:
        for item in json.loads(line):
            answer = grade_one(alarm, grade, item, settings["timeout_s"])
            write_line(results, answer)
            if answer[0]:
                return


def grade_one(alarm: Alarm, grade: GradeItem, item: list[Any], limit_s: float) -> list[Any]:
    """[whether the worker ends now, then the fields of the grade in their order]."""
    started = time.perf_counter()
    try:
        result = alarm.run(grade, item, limit_s)
    except MemoryError:
        result = Grade(
            status="ungradable", reason="it needs more memory than a verifier worker may use"
        )
    except RecursionError:
        result = Grade(status="ungradable", reason="nested too deeply")
    except Exception as error:
        # The door where untrusted text is graded: whatever it provokes becomes a counted verdict, never a crash.
        result = Grade(status="error", reason=f"{type(error).__name__}: {error}"[:300])
    elapsed_s = time.perf_counter() - started
    needs_restart = result.status == "ungradable"  # the heap may be full of its remains
    fields = (result.status, result.extracted, result.reason, result.reward, result.is_marked)
    return [needs_restart, *fields, elapsed_s, result.tried]


def write_line(descriptor: int, answer: list[Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


# --- limits


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, also by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


def limit_memory(num_bytes: int, *, may_write_files: bool) -> None:
    """At most this much more than what is in use now, no core dumps, and for our own grader no file content either."""
    page = resource.getpagesize()
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * page
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + num_bytes if hard == resource.RLIM_INFINITY else min(used + num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not may_write_files:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


# --- graders


def load_grader(settings: dict[str, Any]) -> GradeItem:
    """The function that grades one item [text, ground truth, overridden options]."""
    name = settings["grader"]
    if name == "math":
        return _math_grader(settings["options"])
    if name == "check":
        return _ground_truth_checker()
    return _users_grader(name, settings["rewards"])


def _math_grader(options: dict[str, Any]) -> GradeItem:
    from megatron_ar3po.rewards.math import symbolic
    from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math

    base = GradingOptions(**options)
    symbolic.preload()

    def grade(item: list[Any]) -> Grade:
        text, ground_truth, overrides = item
        return grade_math(text, ground_truth, replace(base, **overrides) if overrides else base)

    return grade


def _ground_truth_checker() -> GradeItem:
    from megatron_ar3po.rewards.math.grader import unusable_ground_truth

    def check(item: list[Any]) -> Grade:
        reason = unusable_ground_truth(item[1])
        return (
            Grade(status="correct") if reason is None else Grade(status="incorrect", reason=reason)
        )

    return check


def _users_grader(path: str, rewards: dict[str, Any]) -> GradeItem:
    from megatron_ar3po.config.rewards import RewardsConfig

    config = RewardsConfig(**rewards)
    grader: Grader = load_user_function("rewards.verifier", path, "rewards_config")(config)
    check_parameters(
        grader,
        ("response", "ground_truth"),
        f"rewards.verifier={path}: the grader that it returned",
        "return a function of (response, ground_truth).",
    )

    def grade(item: list[Any]) -> Grade:
        return as_grade(grader(item[0], item[1]), config.correct)

    return grade


def as_grade(answer: object, correct: float) -> Grade:
    """What a user's grader may return, as a grade: a Grade, a bool or a finite number, those of numpy among them."""
    if isinstance(answer, Grade):
        if answer.status not in get_args(GradeStatus):
            raise ValueError(
                f"a Grade has one of the statuses {', '.join(get_args(GradeStatus))}, not {answer.status!r}"
            )
        reward = None if answer.reward is None else _plain(answer.reward)
        if not isinstance(reward, int | float | None):
            raise TypeError(
                f"the reward of a Grade is a number or None, not {answer.reward!r}"[:200]
            )
        return replace(answer, reward=reward, is_marked=bool(answer.is_marked))
    plain = _plain(answer)
    if isinstance(plain, bool):
        return Grade(status="correct" if plain else "incorrect")
    if not isinstance(plain, int | float) or not math.isfinite(plain):
        raise TypeError(
            f"a grader returns a Grade, a bool or a finite number, not {answer!r}"[:200]
        )
    return Grade(status="correct" if plain >= correct else "incorrect", reward=float(plain))


def _plain(value: object) -> object:
    """A scalar of numpy (or of torch, and an array of no dimension) as Python's own; a Decimal or a Fraction as a
    float; anything else as it is."""
    if isinstance(value, numbers.Real | Decimal) and not isinstance(value, int | float):
        return float(value)  # NumPy's numbers are of this kind, too
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value


if __name__ == "__main__":
    main()
