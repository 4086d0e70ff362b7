"""KL(policy || reference), estimated per token from the log-probs of the tokens that were sampled.

With d = reference_logprob - logprob (Schulman, "Approximating KL divergence"):

    k1       -d              unbiased, signed. As a loss its gradient has mean 0: it pulls nowhere
    k2       d^2 / 2         its gradient is the KL's, on the policy's own samples
    k3       e^d - 1 - d     unbiased, never negative; GRPO's
    low_var  k3, with d held to [-20, 20] and the result to [-10, 10]: one odd token cannot drown
    the step

Where it goes is `algorithm.kl_in`:

    loss    kl_coef * estimate is added to the loss of each token; its gradient flows through logprob
    reward  kl_coef * (sum of the estimates over a response) is taken off the response's reward before
            the advantages are made, and nothing flows through it: the classic penalty of RLHF. The
            log-probs are the actor's at the start of the step. There k1 has the KL's own gradient (its own
            derivative has mean 0, so the score function is all of it) and k2, k3 have not

Worked example, logprob log(1/2), reference log(1/4), d = -log 2 = -0.693147:
k1 0.693147, k2 0.240227, k3 0.5 - 1 + 0.693147 = 0.193147.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megatron_ar3po.algorithm.log_ratio import hold
from megatron_ar3po.types import MicroBatch

KlEstimator = Literal["k1", "k2", "k3", "low_var"]


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """[T], with the gradient of `logprobs`."""
    d = reference_logprobs - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return d.expm1() - d
    assert estimator == "low_var", f"unknown KL estimator {estimator!r}"
    d = hold(d)
    return (d.expm1() - d).clamp(-10, 10)


def sequence_kl(micro_batch: MicroBatch, estimator: KlEstimator) -> Tensor:
    """[N]: the estimates of KL(policy at the start of the step || reference), summed over the response
    tokens of each sequence."""
    old, reference = micro_batch.old_logprobs, micro_batch.reference_logprobs
    assert old is not None and reference is not None, "run compute_logprobs with a reference first"
    per_token = torch.where(micro_batch.loss_mask > 0, kl_estimate(old, reference, estimator), 0.0)
    return per_token.new_zeros(micro_batch.num_sequences).index_add(
        0, micro_batch.sequence_ids, per_token
    )
