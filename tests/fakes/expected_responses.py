"""The closed form that what was sampled is held against (AR3PO, arXiv:2509.25808)."""

from __future__ import annotations


def expected_responses(pass_rate: float, *, num_stages: int, responses_per_stage: int) -> float:
    """E[n] = k * sum_{s=0}^{S-1} (1 - p)^(k s) for one prompt with pass rate p and independent samples. Average it over
    the distribution of p, never take it at the mean of p.

    >>> expected_responses(0.5, num_stages=2, responses_per_stage=4)  # 4 * (1 + 0.5 ** 4)
    4.25
    """
    unsolved_after_a_stage = (1.0 - pass_rate) ** responses_per_stage
    return responses_per_stage * sum(unsolved_after_a_stage**s for s in range(num_stages))
