from __future__ import annotations

from math import log

import pytest
import torch
from fakes.algorithm_cases import Row, micro_batch, on_response

from megatron_ar3po.algorithm.importance_sampling import importance_weights, mismatch
from megatron_ar3po.algorithm.policy_loss import policy_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig, ImportanceSampling

# Two sequences; the actor finds the tokens 1.5, 4 | 1.2, 0.5 times as likely as the server did.
BATCH = micro_batch(
    [
        Row(old=[-2.0, -2.0], behaviour=[-2.0 - log(1.5), -2.0 - log(4)]),
        Row(old=[-2.0, -2.0], behaviour=[-2.0 - log(1.2), -2.0 - log(0.5)]),
    ]
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token", [1.5, 2.0, 1.2, 0.5]),  # 4 is cut to the cap
        ("token_mask", [1.5, 0.0, 1.2, 0.5]),
        ("sequence", [2.0, 2.0, 0.6, 0.6]),  # products 6, cut to the cap, and 0.6
        ("sequence_mask", [0.0, 0.0, 0.6, 0.6]),
    ],
)
def test_the_correction_of_two_sequences_with_cap_2(
    mode: ImportanceSampling, expected: list[float]
) -> None:
    config = AlgorithmConfig(importance_sampling=mode, importance_sampling_cap=2.0)
    weights = importance_weights(BATCH, config)
    assert weights[BATCH.loss_mask > 0].tolist() == pytest.approx(expected)

    is_beyond = {
        "token": 1,
        "token_mask": 1,
        "sequence": 2,
        "sequence_mask": 2,
    }
    at_ratio_1 = policy_loss(on_response(BATCH, [-2.0] * 4), BATCH, config)
    total, count = at_ratio_1.sums["mismatch/beyond_cap_frac"]
    assert (total.item(), count.item()) == (is_beyond[mode], 4)

    logprobs = torch.full((4,), -2.0, dtype=torch.float64, requires_grad=True)
    policy_loss(on_response(BATCH, logprobs), BATCH, config).loss.backward()
    assert logprobs.grad is not None
    assert (-logprobs.grad).tolist() == pytest.approx(expected)  # ratio 1, advantage 1, weight 1


def test_the_kl_and_entropy_terms_are_not_corrected() -> None:
    """The mask takes the second token's policy loss away; its KL k1 = 1 and entropy 3 stay. Policy loss -1 for the
    first; KL 0.5 * (1 + 1), entropy -0.25 * (3 + 3)."""
    batch = micro_batch([Row(old=[-2.0, -2.0], behaviour=[-2.0, -4.0])])
    config = AlgorithmConfig(
        importance_sampling="token_mask", kl_coef=0.5, kl_estimator="k1", entropy_coef=0.25
    )
    result = policy_loss(
        on_response(batch, [-2.0, -2.0]),
        batch,
        config,
        entropy=on_response(batch, [3.0, 3.0]),
        reference_logprobs=on_response(batch, [-3.0, -3.0]),
    )
    assert result.loss.item() == pytest.approx(-1 + 1 - 1.5)


@pytest.mark.parametrize("mode", ["token", "sequence", "token_mask", "sequence_mask"])
def test_a_borrowed_response_is_left_as_it_is(mode: ImportanceSampling) -> None:
    """Its own policy is long gone; with recomputed log-probs its ratio starts at 1."""
    batch = micro_batch([Row(old=[-2.0], behaviour=[-9.0], is_reused=True)])
    weights = importance_weights(batch, AlgorithmConfig(importance_sampling=mode))
    assert weights.tolist() == [1.0] * batch.num_tokens
    assert mismatch(batch).tolist() == [0.0] * batch.num_tokens


def test_a_hopeless_mismatch_stays_finite() -> None:
    batch = micro_batch([Row(old=[-1.0] * 50, behaviour=[-90.0] * 50)], dtype=torch.float32)
    for mode in ("token", "sequence", "token_mask", "sequence_mask"):
        weights = importance_weights(batch, AlgorithmConfig(importance_sampling=mode))
        assert torch.isfinite(weights).all() and weights.max() <= 2.0
