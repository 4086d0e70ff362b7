"""Down-sampling: many responses are drawn, `algorithm.downsample_to` of each group train.

Drawing responses is cheap beside training on them, so draw n and train on the m that teach most
(PODS, arXiv:2504.13818). Groups have unequal sizes: one of at most m stays whole. It happens after
borrowing and before the advantages, which are those of the m that stay.

    max_variance   the m whose rewards have the largest variance: for some i the i lowest and the
                   m - i highest (PODS, Theorem 1), so m + 1 candidates are looked at
    random         any m; what PODS is compared with. It may leave a group without signal

Among equal rewards max_variance keeps the first drawn, which are as good as any: responses to one
prompt are exchangeable. random is a hash of each response's name and seed. Both are functions of the
group alone, so ranks, layouts and resumed runs agree.

Worked example, rewards 0 1 1 1 1 1 0.2 1 and m = 4: with one low, 0 1 1 1, the variance is 0.1875;
with two low, 0 0.2 1 1, it is 0.2075, the largest. Kept are 0, the first two 1 and 0.2.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import ResponseGroup, ScoredResponse


def downsample(group: ResponseGroup, config: AlgorithmConfig) -> ResponseGroup:
    """The group with the responses that train, in their order."""
    size = config.downsample_to
    if not size or len(group.responses) <= size:
        return group
    if config.downsample_rule == "random":
        indices = sorted(range(len(group.responses)), key=lambda i: _hash_rank(group.responses[i]))[
            :size
        ]
    else:
        indices = max_variance_subset(group.rewards, size)
    return replace(group, responses=tuple(group.responses[i] for i in sorted(indices)))


def max_variance_subset(rewards: np.ndarray, size: int) -> list[int]:
    """Indices of the `size` rewards with the largest variance."""
    lowest_first = np.argsort(rewards, kind="stable").tolist()
    highest_first = np.argsort(-rewards, kind="stable").tolist()
    candidates = [
        [*lowest_first[:num_low], *highest_first[: size - num_low]] for num_low in range(size + 1)
    ]
    # Ends that meet among equal rewards name one response twice; another candidate has the same rewards.
    whole = [indices for indices in candidates if len(set(indices)) == size]
    return max(whole, key=lambda indices: float(rewards[indices].var()))


def _hash_rank(scored: ScoredResponse) -> bytes:
    response = scored.response
    return hashlib.sha256(f"{response.seed}/{response.response_id}".encode()).digest()
