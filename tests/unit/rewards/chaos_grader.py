"""A grader that misbehaves on demand, for the tests of the pool: `chaos_grader:make_grader`.

It answers "text equals ground truth", except for texts that name a disaster.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from megatron_ar3po.config.rewards import RewardsConfig

SEEN: list[str] = []  # by this worker


def grade_deeply() -> bool:
    return grade_deeply()


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
    if response == "crash":  # as C code does that gets no memory
        os.abort()
    if response == "exit":
        os._exit(3)
    if response == "deep":
        return grade_deeply()
    if response == "raise":
        raise RuntimeError("no such luck")
    if response.startswith("raise once "):  # the name of a file that remembers
        path = response.removeprefix("raise once ")
        if not os.path.exists(path):
            open(path, "w").close()
            raise RuntimeError("no such luck")
        return True
    if response.startswith("loop then raise "):
        path = response.removeprefix("loop then raise ")
        if os.path.exists(path):
            raise RuntimeError("no such luck")
        open(path, "w").close()
        while True:
            pass
    if response == "how many":
        return float(len(SEEN))
    SEEN.append(response)
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
