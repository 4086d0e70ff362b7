"""`algorithm.advantage=fakes.killing_advantage:advantage`: the group's advantage. In the second step the
server of rank 0 gets a signal first (`AR3PO_TEST_SIGNAL`), when nobody samples from it any more."""

from __future__ import annotations

import os
import signal

import psutil

from megatron_ar3po.algorithm.advantages import advantages_of
from megatron_ar3po.config.algorithm import AlgorithmConfig

_steps = 0


def advantage(groups, config):
    global _steps
    _steps += 1
    if _steps == 2 and os.environ.get("RANK", "0") == "0":
        for process in psutil.Process().children():
            if "megatron_ar3po.platform.sglang_launch" in process.cmdline():
                os.killpg(process.pid, signal.Signals[os.environ["AR3PO_TEST_SIGNAL"]])
    return advantages_of(groups, AlgorithmConfig(advantage="group"))
