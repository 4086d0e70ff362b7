"""Advantages from a prompt's own history: `algorithm.advantage=history`.

What a group of responses measures, how hard the prompt is, the prompt's earlier visits have measured already; so one
response a prompt has a baseline, and a step's responses go to more distinct prompts (SPO, arXiv:2509.13232, and DBB,
2603.18444, are relatives). With A correct and B wrong responses in the prompt's decayed history, n graded ones now of
which S are correct, r_j in {0, 1}:

    m_j   = (A + w p + S - r_j) / (A + B + w + n - 1)     posterior mean without the response itself
    adv_j = (r_j - m_j) / sqrt(m_j (1 - m_j) + c)         `history_std=none`: r_j - m_j

w is `algorithm.history_prior_weight`, p the pooled pass rate of the run or the source (`history_prior`), c
`history_variance_floor`; A and B are decayed by `rollout.history_decay` at each visit, this one included. m_j does not
depend on r_j, so the gradient is unbiased but for the division, which weighs prompts anew, and for the rows of
|adv_j| <= `history_least_advantage`, which leave.

Correctness counts, not the reward: an overlong punishment or a graded reward has no say. A borrowed response is no
outcome of this step: it is in no S and no n, and its own m_j leaves nothing out.

Worked example, w 0.5, p 0.5, c 0.05, A 1, B 2, one response:

    correct  m = 1.25 / 3.5 = 0.357143   adv =  0.642857 / sqrt(0.229592 + 0.05) =  1.215772
    wrong    m = 1.25 / 3.5 = 0.357143   adv = -0.357143 / sqrt(0.279592)        = -0.675429

Never seen, two responses, one right: m = 0.25 / 1.5 = 1/6 for the right one, 1.25 / 1.5 = 5/6 for the wrong one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import ResponseGroup


def history_advantages(group: ResponseGroup, config: AlgorithmConfig) -> NDArray[np.float64]:
    """[G] advantages, 0 for a response that is to leave."""
    record = group.record
    is_correct = np.array([scored.is_correct for scored in group.responses], dtype=np.float64)
    is_counted = np.array(
        [s.origin == "fresh" and s.response.finish_reason != "abort" for s in group.responses],
        dtype=np.float64,
    )
    weight = config.history_prior_weight
    solved = record.correct + weight * record.pooled_mean + (is_correct * is_counted).sum()
    seen = record.correct + record.wrong + weight + is_counted.sum()
    mean = (solved - is_correct * is_counted) / (seen - is_counted)
    advantages = is_correct - mean
    if config.history_std == "posterior":
        advantages /= np.sqrt(mean * (1 - mean) + config.history_variance_floor)
    return np.where(np.abs(advantages) > config.history_least_advantage, advantages, 0.0)
