"""Losses of users, by import path: `algorithm.policy_loss=fakes.losses:with_nan_gradient`."""

from __future__ import annotations

from torch import Tensor

from megatron_ar3po.algorithm.token_losses import TokenLoss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import MicroBatch


def with_nan_gradient(
    logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig
) -> TokenLoss:
    """Its value is 0 everywhere; the gradient of sqrt(|x|) at 0 is infinite times 0."""
    loss = (logprobs - logprobs.detach()).abs().sqrt()
    return TokenLoss(loss, loss > 1)


def distance_from_old(
    logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig
) -> TokenLoss:
    assert micro_batch.old_logprobs is not None
    return TokenLoss(logprobs - micro_batch.old_logprobs, micro_batch.loss_mask < 0)
