"""Correction of the mismatch between the server that sampled and the actor that trains.

Both hold the same weights, yet their kernels differ, so the sampled tokens follow
`behaviour_logprobs` and not quite `old_logprobs`. The policy loss of a token is multiplied by

    rho = exp(old_logprob - behaviour_logprob)   of the token, or the product over its response

cut off at `algorithm.importance_sampling_cap`, where "truncate" uses min(rho, cap) and "mask" uses
0 beyond the cap:

    token, sequence              truncated importance sampling
    token_mask, sequence_mask    masked importance sampling

Worked example, cap 2, two responses of two tokens with rho 1.5, 4 | 1.2, 0.5 (products 6 and 0.6):

    token      1.5  2  | 1.2  0.5      sequence       2  2  | 0.6  0.6
    token_mask 1.5  0  | 1.2  0.5      sequence_mask  0  0  | 0.6  0.6

The KL and entropy terms are left as they are. A borrowed or replayed response is left as it is, too: its
behaviour policy is an older one on purpose, and recomputing the log-probs of a borrowed one (Option I) means
that its ratio starts at exactly 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_ar3po.algorithm.log_ratio import hold
from megatron_ar3po.algorithm.sequences import sequence_sum
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import MicroBatch


def mismatch(micro_batch: MicroBatch) -> Tensor:
    """[T] old_logprobs - behaviour_logprobs on fresh response tokens, 0 elsewhere. `old_logprobs` are here those of
    the actor at the start of the step, on every token (old_logprobs.with_start_logprobs)."""
    assert micro_batch.old_logprobs is not None, "old_logprobs are None: run compute_logprobs first"
    difference = micro_batch.old_logprobs - micro_batch.behaviour_logprobs
    return torch.where(is_fresh(micro_batch), difference, 0.0)


def is_fresh(micro_batch: MicroBatch) -> Tensor:
    """[T] bool, response tokens that this step's own policy sampled."""
    return (micro_batch.loss_mask > 0) & ~micro_batch.is_reused


def is_borrowed(micro_batch: MicroBatch) -> Tensor:
    """[T] bool, tokens of a response that was lent to a group; neither fresh nor replayed."""
    if micro_batch.is_replayed is None:
        return micro_batch.is_reused
    return micro_batch.is_reused & ~micro_batch.is_replayed


def importance_weights(micro_batch: MicroBatch, config: AlgorithmConfig) -> Tensor:
    """[T] factor on the policy loss, no gradient; 1 for a borrowed or replayed response, unused off the response."""
    difference = mismatch(micro_batch)
    if config.importance_sampling.startswith("sequence"):
        difference = sequence_sum(difference, micro_batch)
    rho = hold(difference).exp()  # e^20 is beyond any sensible cap
    if config.importance_sampling.endswith("mask"):
        return torch.where(rho > config.importance_sampling_cap, 0.0, rho)
    return rho.clamp(max=config.importance_sampling_cap)
