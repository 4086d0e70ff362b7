from __future__ import annotations

from dataclasses import replace
from math import log
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from fakes.algorithm_cases import Row, micro_batch, on_response
from torch.distributions import Categorical, kl_divergence

from megatron_ar3po.algorithm.kl import KlEstimator, kl_estimate, sequence_kl

ESTIMATORS: tuple[KlEstimator, ...] = get_args(KlEstimator)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", 0.693147), ("k2", 0.240227), ("k3", 0.193147), ("low_var", 0.193147)],
)
def test_a_token_of_probability_one_half_against_one_quarter(
    estimator: KlEstimator, expected: float
) -> None:
    """d = log(1/4) - log(1/2) = -0.693147; d^2 / 2 = 0.240227; e^d - 1 - d = 0.5 - 1 + 0.693147."""
    value = kl_estimate(torch.tensor([log(1 / 2)]), torch.tensor([log(1 / 4)]), estimator)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def policy_and_reference() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    return logits[0].requires_grad_(), logits[1]


@pytest.mark.parametrize("estimator", ["k1", "k3", "low_var"])
def test_the_expectation_of_an_unbiased_estimate_is_the_divergence_of_torch(
    estimator: KlEstimator,
) -> None:
    """The exact sum over a vocabulary of 7, in the place of samples."""
    policy, reference = (Categorical(logits=x) for x in policy_and_reference())
    estimates = kl_estimate(policy.logits, reference.logits, estimator)
    expected = kl_divergence(policy, reference)
    assert (policy.probs * estimates).sum().item() == pytest.approx(expected.item(), abs=1e-12)


def expected_loss_gradient(estimator: KlEstimator) -> torch.Tensor:
    """Gradient of the estimate, averaged over the samples of the policy, which are data and carry none."""
    logits, reference_logits = policy_and_reference()
    policy, reference = Categorical(logits=logits), Categorical(logits=reference_logits)
    loss = policy.probs.detach() * kl_estimate(policy.logits, reference.logits, estimator)
    [gradient] = torch.autograd.grad(loss.sum(), logits)
    return gradient


def test_the_gradient_of_k2_is_that_of_the_divergence_and_k1_has_none() -> None:
    """What the table in kl.py says of the estimates as losses."""
    logits, reference_logits = policy_and_reference()
    exact = kl_divergence(Categorical(logits=logits), Categorical(logits=reference_logits))
    [gradient] = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(expected_loss_gradient("k2"), gradient, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        expected_loss_gradient("k1"), torch.zeros_like(gradient), atol=1e-12, rtol=0
    )


def test_as_a_penalty_on_the_reward_k1_has_the_gradient_of_the_divergence_and_k3_has_not() -> None:
    """Score function: the mean over samples of estimate * grad logprob, the estimate held."""
    logits, reference_logits = policy_and_reference()
    policy, reference = Categorical(logits=logits), Categorical(logits=reference_logits)
    [exact] = torch.autograd.grad(kl_divergence(policy, reference), logits, retain_graph=True)

    def as_penalty(estimator: KlEstimator) -> torch.Tensor:
        estimate = kl_estimate(policy.logits, reference.logits, estimator).detach()
        surrogate = (policy.probs.detach() * estimate * policy.logits).sum()
        return torch.autograd.grad(surrogate, logits, retain_graph=True)[0]

    torch.testing.assert_close(as_penalty("k1"), exact, atol=1e-12, rtol=0)
    assert (as_penalty("k3") - exact).abs().max() > 0.01


def test_the_expectation_over_tokens_agrees_with_kl_div_of_torch() -> None:
    """torch.nn.functional.kl_div(input, target) is KL(target || input)."""
    logits, reference_logits = policy_and_reference()
    policy, reference = logits.log_softmax(-1).detach(), reference_logits.log_softmax(-1)
    expected = F.kl_div(reference, policy, reduction="sum", log_target=True)
    estimates = kl_estimate(policy, reference, "k3")
    assert (policy.exp() * estimates).sum().item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_kl_of_a_response_is_the_sum_over_its_own_tokens() -> None:
    """Two responses, k1: 0.5 + 0.25 and -1; prompts have none, whatever stands there."""
    batch = micro_batch([Row(old=[-1.0, -2.0]), Row(old=[-3.0])])
    reference = on_response(batch, [-1.5, -2.25, -2.0])
    reference[batch.loss_mask == 0] = 77.0
    batch = replace(batch, reference_logprobs=reference)
    assert sequence_kl(batch, "k1").tolist() == pytest.approx([0.75, -1.0])


def test_low_var_bounds_what_one_odd_token_adds() -> None:
    """d = 30: e^30 - 31 is 1e13; held at 10."""
    values = kl_estimate(torch.tensor([-31.0, -1.0]), torch.tensor([-1.0, -1.0]), "low_var")
    assert values.tolist() == [10.0, 0.0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_policies_have_no_divergence(estimator: KlEstimator) -> None:
    logprobs = torch.tensor([-0.1, -5.0, -20.0])
    assert kl_estimate(logprobs, logprobs, estimator).tolist() == [0, 0, 0]
