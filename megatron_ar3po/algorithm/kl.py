"""KL(policy || reference), estimated per token from the log-probs of the tokens that were sampled.

With d = reference_logprob - logprob (Schulman, "Approximating KL divergence"):

    k1       -d              unbiased, signed. As a loss its gradient has mean 0: it pulls nowhere
    k2       d^2 / 2         its gradient is the KL's, on the policy's own samples
    k3       e^d - 1 - d     unbiased, never negative; GRPO's
    low_var  k3, with d held to [-20, 20] and the result to [-10, 10]: one odd token cannot drown
    the step

Worked example, logprob log(1/2), reference log(1/4), d = -log 2 = -0.693147:
k1 0.693147, k2 0.240227, k3 0.5 - 1 + 0.693147 = 0.193147.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

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
    d = d.clamp(-20, 20)
    return (d.expm1() - d).clamp(-10, 10)
