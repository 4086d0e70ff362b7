"""A rank that stands still in the middle of a step's training, as a frozen node does: `algorithm.policy_loss=
fakes.standing:in_training`. The others then wait for it inside Megatron."""

from __future__ import annotations

import os
import signal
import time

from torch import Tensor

from megatron_ar3po.algorithm.token_losses import TokenLoss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import MicroBatch

RANK, CALL = "1", 3
SLOW_S = 3.0  # so that it has written where it is
_calls = iter(range(1, 1_000_000))


def in_training(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    if os.environ["RANK"] == RANK and next(_calls) == CALL:
        time.sleep(SLOW_S)
        os.kill(os.getpid(), signal.SIGSTOP)
    return TokenLoss((logprobs - logprobs.detach()).exp(), micro_batch.loss_mask < 0)
