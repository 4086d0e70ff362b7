"""Token losses: the surrogate of one token, before weights, KL and entropy.

All have one shape, the shape of a user's own function too:

    (logprobs [T], micro_batch, config) -> TokenLoss(loss [T], is_clipped [T])

`logprobs` are 0 off the response, where old_logprobs and advantages are 0 as well, so the ratio is
1 and the loss 0. With r = exp(logprob - old_logprob), A the advantage, l = clip_ratio_low, h =
clip_ratio_high:

    ppo        -min(r A, clip(r, 1-l, 1+h) A)                   PPO (arXiv:1707.06347, Eq. 7);
                                                                h > l: clip-higher (DAPO, Eq. 10)
    dual_clip  ppo, for A < 0 at most dual_clip_ratio |A|       dual-clip PPO (arXiv:1912.09729)
    gspo       ppo with r = exp(mean of log r over response)    GSPO (arXiv:2507.18071)
    cispo      -min(r, 1+h) A logprob, the factor detached      CISPO (MiniMax-M1, arXiv:2506.13585)
    gmpo       -A exp(mean of the clipped log r over response)  GMPO (arXiv:2507.20673);
                                                                clipped to [e^-l, e^h]

A response has one advantage, so gspo and gmpo give every token of it the same loss; any aggregation
then works.

Worked example, l = 0.2, h = 0.28, dual_clip_ratio = 3:

    r      A     ppo     dual_clip    clipped
    1.5    1    -1.28    -1.28        yes, above
    0.5    1    -0.5     -0.5         no: moving back is free
    1.5   -1     1.5      1.5         no
    0.5   -1     0.8      0.8         yes, below
    4     -1     4        3           dual_clip only

The others, a response of two tokens, its log ratios in front:

    gspo    0.3, -0.1   A = 1   s = e^0.1 = 1.105171, loss -1.105171 for both; 1, 0: e^0.5, held at 1.28
    gmpo    0.5, -0.3   A = 1   0.5 is held at 0.28, the mean is -0.01, loss -e^-0.01 = -0.990050
            0.5, -0.3   A = -1  -0.3 is held at -0.2, the mean is 0.15, loss e^0.15 = 1.161834
    cispo   log 2       A = 1   logprob -2 + log 2: -1.28 * (-2 + 0.693147) = 1.672772, slope -1.28
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from megatron_ar3po.algorithm.custom import load_policy_loss_function
from megatron_ar3po.algorithm.log_ratio import hold
from megatron_ar3po.algorithm.sequences import sequence_mean
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import MicroBatch
from megatron_ar3po.user_functions import is_import_path


class TokenLoss(NamedTuple):
    loss: Tensor  # [T], 0 off the response, with the gradient of logprobs
    is_clipped: Tensor  # [T] bool, the clip range holds this token's gradient back


TokenLossFunction = Callable[[Tensor, MicroBatch, AlgorithmConfig], TokenLoss]


def log_ratio_of(logprobs: Tensor, micro_batch: MicroBatch) -> Tensor:
    """[T] log(policy now / policy at the start of the step), held to +-20 (log_ratio.py)."""
    assert micro_batch.old_logprobs is not None, "old_logprobs are None: run compute_logprobs first"
    return hold(logprobs - micro_batch.old_logprobs)


def ppo(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    return _clipped_surrogate(log_ratio_of(logprobs, micro_batch), micro_batch.advantages, config)


def dual_clip(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    loss, is_clipped = ppo(logprobs, micro_batch, config)
    bound = -config.dual_clip_ratio * micro_batch.advantages
    is_beyond = (micro_batch.advantages < 0) & (loss > bound)
    return TokenLoss(torch.where(is_beyond, bound, loss), is_clipped | is_beyond)


def gspo(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    log_ratio = sequence_mean(log_ratio_of(logprobs, micro_batch), micro_batch)
    return _clipped_surrogate(log_ratio, micro_batch.advantages, config)


def cispo(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    """Only the upper bound, as in the paper: every token keeps its gradient, a large ratio is cut
    to 1 + h."""
    ratio = log_ratio_of(logprobs.detach(), micro_batch).exp()
    factor = ratio.clamp(max=1 + config.clip_ratio_high)
    return TokenLoss(-factor * micro_batch.advantages * logprobs, factor < ratio)


def gmpo(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    log_ratio = log_ratio_of(logprobs, micro_batch)
    held = log_ratio.clamp(-config.clip_ratio_low, config.clip_ratio_high)
    is_positive = micro_batch.advantages > 0
    pessimistic = torch.where(
        is_positive, torch.minimum(log_ratio, held), torch.maximum(log_ratio, held)
    )
    geometric_mean = sequence_mean(pessimistic, micro_batch).exp()
    return TokenLoss(-micro_batch.advantages * geometric_mean, pessimistic != log_ratio)


BUILT_IN: dict[str, TokenLossFunction] = {
    "ppo": ppo,
    "dual_clip": dual_clip,
    "gspo": gspo,
    "cispo": cispo,
    "gmpo": gmpo,
}


def token_loss(logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig) -> TokenLoss:
    """The loss that `algorithm.policy_loss` names."""
    if is_import_path(config.policy_loss):
        return _custom_token_loss(logprobs, micro_batch, config)
    return BUILT_IN[config.policy_loss](logprobs, micro_batch, config)


def _clipped_surrogate(log_ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> TokenLoss:
    ratio = log_ratio.exp()
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high) * advantages
    return TokenLoss(torch.maximum(unclipped, clipped), clipped > unclipped)


def _custom_token_loss(
    logprobs: Tensor, micro_batch: MicroBatch, config: AlgorithmConfig
) -> TokenLoss:
    found = f"algorithm.policy_loss={config.policy_loss}"
    answer = load_policy_loss_function(config.policy_loss)(logprobs, micro_batch, config)
    parts = cast("tuple[Any, ...]", answer if isinstance(answer, tuple) else (answer,))
    shapes = [
        tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]
    expected = [tuple(logprobs.shape)] * 2
    if shapes != expected:
        raise ValueError(
            f"{found} returned {shapes}; it must return TokenLoss(loss, is_clipped), tensors of "
            f"shapes {expected}: one entry per packed token."
        )
    loss = parts[0]
    if not torch.isfinite(
        loss
    ).all():  # waits for the accelerator: the price of a function we do not know
        raise ValueError(
            f"{found} returned {int((~torch.isfinite(loss)).sum())} of {loss.numel()} token losses that are not "
            "finite, which would make the whole step's gradient NaN. Off the response logprobs are 0; hold "
            "the ratio with log_ratio_of."
        )
    if logprobs.requires_grad and not loss.requires_grad:
        raise ValueError(
            f"{found} returned a loss without gradient, so nothing would be trained; make it of `logprobs`, "
            "without detach(), item() or numpy()."
        )
    return TokenLoss(*parts)
