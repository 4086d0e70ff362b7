from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
import torch.nn.functional as F
from fakes.algorithm_cases import Row, micro_batch, on_response

from megatron_ar3po.algorithm.policy_loss import policy_loss
from megatron_ar3po.config.algorithm import POLICY_LOSSES, AlgorithmConfig

PLAIN = AlgorithmConfig()


def test_the_loss_is_the_weighted_sum_of_the_token_losses() -> None:
    """A response of A = 1 with ratios 1.5 (clipped to 1.28) and 0.5, each of weight 0.1, and one of A = -2 with ratio
    1.1 and weight 0.3: -0.128 - 0.05 + 0.66."""
    batch = micro_batch(
        [
            Row(old=[-2.0, -2.0], advantage=1.0, weight=0.1),
            Row(old=[-1.0], advantage=-2.0, weight=0.3),
        ]
    )
    logprobs = on_response(batch, [-2 + log(1.5), -2 + log(0.5), -1 + log(1.1)])
    assert policy_loss(logprobs, batch, PLAIN).loss.item() == pytest.approx(-0.128 - 0.05 + 0.66)


def test_metrics_count_every_response_token_once_whatever_its_weight() -> None:
    """Ratios 1.5, 0.5 (fresh, A = 1) and 2 (borrowed, A = 1), the server off by 0.3, 0.1 on the fresh ones:

    ratio mean 4/3, borrowed 2; clipped the 1.5 and the 2; KL (k3) 0.5 - log 1.5, -0.5 + log 2, 1 - log 2."""
    batch = micro_batch(
        [
            Row(old=[-2.0, -2.0], behaviour=[-2.3, -1.9], weight=0.9),
            Row(old=[-1.0], behaviour=[-7.0], weight=0.0, is_reused=True),
        ]
    )
    logprobs = on_response(batch, [-2 + log(1.5), -2 + log(0.5), -1 + log(2)])
    result = policy_loss(logprobs, batch, PLAIN, entropy=on_response(batch, [1.0, 2.0, 6.0]))
    measured = {name: (s.item(), n.item()) for name, (s, n) in result.sums.items()}
    approx_kl = (0.5 - log(1.5)) + (-0.5 + log(2)) + (1 - log(2))
    expected = {
        "actor/ratio_mean": (4.0, 3),
        "actor/clip_frac": (2, 3),
        "actor/approx_kl": (approx_kl, 3),
        "actor/entropy": (9.0, 3),
        "reuse/ratio_mean": (2.0, 1),
        "reuse/clip_frac": (1, 1),
        "reuse/replayed_ratio_mean": (0.0, 0),
        "reuse/replayed_clip_frac": (0.0, 0),
        "mismatch/logprob_abs_mean": (0.4, 2),
    }
    assert measured.keys() == expected.keys()
    for name, (total, count) in expected.items():
        assert measured[name] == (pytest.approx(total), count), name
    assert result.maxima["actor/ratio_max"].item() == pytest.approx(2.0)
    assert result.maxima["mismatch/logprob_abs_max"].item() == pytest.approx(0.3)
    assert not any(t.requires_grad for pair in result.sums.values() for t in pair)


def test_kl_and_entropy_enter_the_loss_with_their_weights() -> None:
    """Ratio 1, A = 1: -1 a token. k2 of d = -1 and 2: 0.5 and 2. Entropies 0.7 and 0.3. Weight 1/2 each:
    (-2 + 0.1 * 2.5 - 0.01 * 1.0) / 2."""
    batch = micro_batch([Row(old=[-2.0, -3.0], weight=0.5)])
    config = AlgorithmConfig(kl_coef=0.1, kl_estimator="k2", entropy_coef=0.01)
    result = policy_loss(
        on_response(batch, [-2.0, -3.0]),
        batch,
        config,
        entropy=on_response(batch, [0.7, 0.3]),
        reference_logprobs=on_response(batch, [-3.0, -1.0]),
    )
    assert result.loss.item() == pytest.approx((-2 + 0.25 - 0.01) / 2)
    total, count = result.sums["actor/reference_kl"]
    assert (total.item(), count.item()) == (pytest.approx(2.5), 2)


def test_a_kl_in_the_reward_is_measured_and_not_added() -> None:
    """Its part of the advantages was made before."""
    batch = micro_batch([Row(old=[-2.0, -3.0], weight=0.5)])
    logprobs, reference = on_response(batch, [-2.0, -3.0]), on_response(batch, [-3.0, -1.0])
    config = AlgorithmConfig(kl_coef=0.1, kl_estimator="k2", kl_in="reward")
    result = policy_loss(logprobs, batch, config, reference_logprobs=reference)
    assert result.loss.item() == pytest.approx(-1.0)
    assert result.sums["actor/reference_kl"][0].item() == pytest.approx(2.5)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_at_the_policy_that_sampled_every_loss_has_the_policy_gradient(name: str) -> None:
    """Ratio 1 everywhere: the gradient is that of torch's cross entropy, weighted by weight * advantage."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 1, 4, 1, 5])
    logprobs = -F.cross_entropy(logits, targets, reduction="none")
    old = logprobs.tolist()
    batch = micro_batch(
        [
            Row(old=old[:2], advantage=1.7, weight=0.2),
            Row(old=old[2:], advantage=-0.6, weight=0.05, is_reused=True),
        ]
    )
    loss = policy_loss(on_response(batch, logprobs), batch, AlgorithmConfig(policy_loss=name)).loss
    [gradient] = torch.autograd.grad(loss, logits, retain_graph=True)

    coefficients = torch.tensor([1.7 * 0.2] * 2 + [-0.6 * 0.05] * 3, dtype=torch.float64)
    reference = (coefficients * F.cross_entropy(logits, targets, reduction="none")).sum()
    [expected] = torch.autograd.grad(reference, logits)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_a_replayed_row_is_measured_against_what_its_server_said_and_counted_by_its_own_names() -> (
    None
):
    """A fresh, a borrowed and a replayed token; ratios 1.1, 2 and 1.5, the latter against -3 and not -2, clipped at
    1.28. What server and actor disagree about is that of the fresh one alone."""
    batch = micro_batch(
        [
            Row(old=[-1.0], behaviour=[-1.2]),
            Row(old=[-1.0], behaviour=[-9.0], is_reused=True),
            Row(old=[-2.0], behaviour=[-3.0], is_replayed=True),
        ]
    )
    logprobs = on_response(batch, [-1 + log(1.1), -1 + log(2), -3 + log(1.5)])
    result = policy_loss(logprobs, batch, PLAIN)
    measured = {name: (s.item(), n.item()) for name, (s, n) in result.sums.items()}
    assert measured["reuse/replayed_ratio_mean"] == (pytest.approx(1.5), 1)
    assert measured["reuse/replayed_clip_frac"] == (1, 1)
    assert measured["reuse/ratio_mean"] == (pytest.approx(2.0), 1)
    assert measured["mismatch/logprob_abs_mean"] == (pytest.approx(0.2), 1)
    assert result.borrowed_rows[:, 0].tolist() == [0, 1, 0]
    assert result.loss.item() == pytest.approx(-(1.1 + 1.28 + 1.28))


EVERYTHING = AlgorithmConfig(importance_sampling="token", kl_coef=0.1, entropy_coef=0.01)

# Ratios away from the kinks of the clip range, inside and outside, for both signs of the advantage.
LOG_RATIOS = torch.tensor([0.1, -0.05, 0.6, -0.5, 0.15, -0.1], dtype=torch.float64)
OLD = torch.tensor([-2.0, -1.0, -0.5, -3.0, -2.5, -0.2], dtype=torch.float64)
ENTROPY = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.6], dtype=torch.float64)
SIX_TOKENS = micro_batch(
    [
        Row(old=OLD[:3].tolist(), behaviour=[-2.2, -1.0, -0.4], advantage=1.2, weight=0.3),
        Row(old=OLD[3:].tolist(), behaviour=[-3.1, -2.4, -0.3], advantage=-0.7, weight=0.1),
    ]
)


def loss_of_six_tokens(
    logprobs: torch.Tensor, entropy: torch.Tensor, config: AlgorithmConfig
) -> torch.Tensor:
    return policy_loss(
        on_response(SIX_TOKENS, logprobs),
        SIX_TOKENS,
        config,
        entropy=on_response(SIX_TOKENS, entropy),
        reference_logprobs=SIX_TOKENS.old_logprobs,
    ).loss


@pytest.mark.parametrize("name", ["ppo", "dual_clip", "gspo", "gmpo"])
@pytest.mark.parametrize("config", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_gradients_agree_with_finite_differences(name: str, config: AlgorithmConfig) -> None:
    """float64, by log-prob and by entropy. CISPO, whose factor is held, has its own test below."""
    config = replace(config, policy_loss=name)
    inputs = ((OLD + LOG_RATIOS).requires_grad_(), ENTROPY.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda *x: loss_of_six_tokens(*x, config), inputs)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "low_var"])
def test_the_gradient_of_every_kl_estimate_agrees_with_finite_differences(estimator: str) -> None:
    reference = on_response(SIX_TOKENS, OLD + torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4, 0.2]))
    config = AlgorithmConfig(kl_coef=0.7, kl_estimator=estimator)  # type: ignore[arg-type]

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        return policy_loss(
            on_response(SIX_TOKENS, logprobs), SIX_TOKENS, config, reference_logprobs=reference
        ).loss

    assert torch.autograd.gradcheck(loss, ((OLD + LOG_RATIOS).requires_grad_(),))


def test_the_gradient_of_cispo_is_that_of_its_loss_with_the_factor_held() -> None:
    """Factors e^0.1, e^-0.05, 1.28 (cut), e^-0.5, e^0.15, e^-0.1; times -weight * advantage."""
    logprobs = (OLD + LOG_RATIOS).requires_grad_()
    loss = loss_of_six_tokens(logprobs, ENTROPY, AlgorithmConfig(policy_loss="cispo"))
    loss.backward()
    factors = LOG_RATIOS.exp().clamp(max=1.28)
    expected = -factors * torch.tensor([0.3 * 1.2] * 3 + [0.1 * -0.7] * 3, dtype=torch.float64)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("config", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_a_micro_batch_without_response_tokens_gives_exactly_zero_and_a_graph(
    name: str, config: AlgorithmConfig
) -> None:
    """The dummy row that fills up a short rank; what the model says of it may be anything, NaN included."""
    batch = micro_batch([Row(old=[], num_prompt_tokens=2)], dtype=torch.float32)
    logprobs = torch.tensor([float("nan"), -3.0], requires_grad=True)
    config = replace(config, policy_loss=name)
    result = policy_loss(
        logprobs, batch, config, entropy=logprobs * 2, reference_logprobs=torch.zeros(2)
    )
    assert result.loss.item() == 0.0
    result.loss.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0, 0.0]
    assert {(s.item(), n.item()) for s, n in result.sums.values()} == {(0.0, 0.0)}
    assert {m.item() for m in result.maxima.values()} == {0.0}


def test_the_names_of_the_metrics_do_not_depend_on_the_tokens() -> None:
    """Ranks add their metrics up name by name."""
    empty = micro_batch([Row(old=[])])
    full = micro_batch([Row(old=[-1.0], is_reused=True), Row(old=[-1.0, -2.0])])
    one, other = (policy_loss(batch.weights * 0, batch, PLAIN) for batch in (empty, full))
    assert list(one.sums) == list(other.sums)
    assert list(one.maxima) == list(other.maxima)


def test_what_is_missing_is_named() -> None:
    batch = micro_batch([Row(old=[-1.0])])
    logprobs = on_response(batch, [-1.0])
    with pytest.raises(AssertionError, match="pass reference_logprobs"):
        policy_loss(logprobs, batch, AlgorithmConfig(kl_coef=0.1))
    with pytest.raises(AssertionError, match="pass entropy"):
        policy_loss(logprobs, batch, AlgorithmConfig(entropy_coef=0.1))
    with pytest.raises(AssertionError, match="run compute_logprobs first"):
        policy_loss(logprobs, replace(batch, old_logprobs=None), PLAIN)


def test_the_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    """Ratio 10, A = -1: ppo 10, dual clip 3; the k3 of the old policy 9 - log 10 is measured all the same."""
    batch = micro_batch([Row(old=[-5.0], advantage=-1.0)])
    logprobs = on_response(batch, [-5.0 + log(10)])
    result = policy_loss(logprobs, batch, AlgorithmConfig(policy_loss="dual_clip"))
    assert result.loss.item() == pytest.approx(3.0)
    assert result.sums["actor/approx_kl"][0].item() == pytest.approx(9 - log(10))
    assert result.maxima["actor/ratio_max"].item() == pytest.approx(10)
