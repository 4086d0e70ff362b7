"""A grader that misbehaves on demand, for the tests of the pool: `chaos_grader:make_grader`.

It answers "text equals ground truth", except for texts that name a disaster.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from megatron_ar3po.config.rewards import RewardsConfig


def make_grader(config: RewardsConfig) -> Callable[[str, str], bool | float]:
    return grade


def grade(response: str, ground_truth: str) -> bool | float:
    if response == "hang":  # deaf to the alarm, as C code is
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(3600)
    if response == "loop":
        while True:
            pass
    if response == "stubborn":  # swallows every Exception
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue
    if response == "bomb":
        return len(bytearray(8 * 1024**3)) > 0
    if response == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if response.startswith("die once "):  # the name of a file that remembers
        path = response.removeprefix("die once ")
        if not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    if response == "raise":
        raise RuntimeError("no such luck")
    if response == "slow":
        time.sleep(0.2)
    if response == "half":
        return 0.5
    return response == ground_truth


def with_three_arguments(config: RewardsConfig) -> Callable[[str, str, str], bool]:
    return lambda response, ground_truth, extra: True


def broken_factory(config: RewardsConfig) -> Callable[[str, str], bool]:
    settings: dict[str, float] = {}
    return lambda response, ground_truth, limit=settings["threshold"]: len(response) > limit


not_callable = 7
