"""A log-prob that is not finite must not be trained on: it makes the loss NaN, and such an update is skipped."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.algorithm_cases import Row, micro_batch, on_response

from megatron_ar3po.algorithm.importance_sampling import importance_weights
from megatron_ar3po.algorithm.kl import kl_estimate
from megatron_ar3po.algorithm.log_ratio import hold
from megatron_ar3po.algorithm.token_losses import BUILT_IN, token_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig

NOT_FINITE = [math.nan, math.inf, -math.inf]


def test_what_is_finite_is_held_and_its_gradient_is_that_of_a_clamp():
    values = torch.tensor([30.0, -0.5, 0.0, -21.0], requires_grad=True)
    held = hold(values)
    assert held.tolist() == [20.0, -0.5, 0.0, -20.0]
    held.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_what_is_not_finite_is_no_large_ratio(value):
    assert math.isnan(float(hold(torch.tensor(value))))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_loss_shows_an_old_logprob_that_is_not_finite(name, advantage, value):
    """One of two tokens: an infinite one would be clipped, and the update would look healthy."""
    batch = micro_batch([Row(old=[-1.0, value], advantage=advantage)])
    logprobs = on_response(batch, [-1.0, -2.0])
    loss = token_loss(logprobs, batch, AlgorithmConfig(policy_loss=name)).loss
    assert not math.isfinite(float(loss.sum()))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("kind", ["token", "token_mask", "sequence", "sequence_mask"])
def test_the_correction_of_a_server_logprob_that_is_not_finite_is_not_0_and_not_the_cap(
    kind, value
):
    batch = micro_batch([Row(old=[-1.0, -1.0], behaviour=[-1.0, value])])
    weights = importance_weights(batch, AlgorithmConfig(importance_sampling=kind))
    assert not math.isfinite(float((weights * batch.loss_mask).sum()))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "low_var"])
def test_every_kl_estimate_shows_a_reference_that_is_not_finite(estimator, value):
    estimate = kl_estimate(torch.tensor([-1.0]), torch.tensor([value]), estimator)
    assert not math.isfinite(float(estimate))
