from __future__ import annotations

import sys
from math import exp, log
from types import ModuleType

import pytest
import torch
from fakes.algorithm_cases import Row, micro_batch, on_response

from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.algorithm.token_losses import TokenLoss, token_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.user_functions import load_user_function


def loss_of_one_token(
    policy_loss: str, ratio: float, advantage: float
) -> tuple[float, float, bool]:
    """(loss, its derivative by the log-prob, is it clipped) of one token with this ratio."""
    batch = micro_batch([Row(old=[-2.0], advantage=advantage)])
    logprob = torch.tensor([-2.0 + log(ratio)], dtype=torch.float64, requires_grad=True)
    config = AlgorithmConfig(
        policy_loss=policy_loss, clip_ratio_low=0.2, clip_ratio_high=0.28, dual_clip_ratio=3.0
    )
    loss, is_clipped = token_loss(on_response(batch, logprob), batch, config)
    loss.sum().backward()
    assert logprob.grad is not None
    return loss.sum().item(), logprob.grad.item(), bool(is_clipped.any())


@pytest.mark.parametrize(
    ("ratio", "advantage", "ppo", "dual_clip"),
    [
        # (loss, derivative, is clipped): the derivative is -r A where nothing is clipped, else 0
        (1.5, 1.0, (-1.28, 0.0, True), (-1.28, 0.0, True)),
        (0.5, 1.0, (-0.5, -0.5, False), (-0.5, -0.5, False)),
        (1.5, -1.0, (1.5, 1.5, False), (1.5, 1.5, False)),
        (0.5, -1.0, (0.8, 0.0, True), (0.8, 0.0, True)),
        (4.0, -1.0, (4.0, 4.0, False), (3.0, 0.0, True)),
        (4.0, -0.5, (2.0, 2.0, False), (1.5, 0.0, True)),
        (1.1, 2.0, (-2.2, -2.2, False), (-2.2, -2.2, False)),
    ],
)
def test_the_clipped_surrogate_of_one_token(ratio, advantage, ppo, dual_clip) -> None:
    assert loss_of_one_token("ppo", ratio, advantage) == pytest.approx(ppo)
    assert loss_of_one_token("dual_clip", ratio, advantage) == pytest.approx(dual_clip)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        # the factor min(r, 1.28) has no gradient: the derivative is -factor A, clipped or not
        (1.0, 1.0, (-1.0 * -2.0, -1.0, False)),
        (2.0, 1.0, (-1.28 * (-2.0 + log(2)), -1.28, True)),
        (2.0, -1.0, (1.28 * (-2.0 + log(2)), 1.28, True)),
        (0.1, 1.0, (-0.1 * (-2.0 + log(0.1)), -0.1, False)),
    ],
)
def test_cispo_keeps_the_gradient_of_a_clipped_token(ratio, advantage, expected) -> None:
    assert loss_of_one_token("cispo", ratio, advantage) == pytest.approx(expected)


def loss_per_token(policy_loss: str, log_ratios: list[list[float]], advantages: list[float]):
    """Sequences with these log ratios; (losses, is_clipped, derivatives) of their response tokens in order."""
    batch = micro_batch(
        [
            Row(old=[-3.0] * len(row), advantage=advantage)
            for row, advantage in zip(log_ratios, advantages, strict=True)
        ]
    )
    flat = [-3.0 + value for row in log_ratios for value in row]
    logprobs = torch.tensor(flat, dtype=torch.float64, requires_grad=True)
    config = AlgorithmConfig(policy_loss=policy_loss, clip_ratio_low=0.2, clip_ratio_high=0.28)
    loss, is_clipped = token_loss(on_response(batch, logprobs), batch, config)
    loss.sum().backward()
    assert logprobs.grad is not None
    mask = batch.loss_mask > 0
    return loss[mask].tolist(), is_clipped[mask].tolist(), logprobs.grad.tolist()


def test_gspo_takes_the_geometric_mean_ratio_of_each_sequence() -> None:
    """Log ratios 0.3 and -0.1: s = e^0.1 = 1.105171, inside [0.8, 1.28], loss -s for both tokens; by each log-prob the
    two losses together change by -s / 2 * 2 = -s. The second sequence, 1 and 0: s = e^0.5 = 1.65, held at 1.28."""
    losses, is_clipped, derivatives = loss_per_token("gspo", [[0.3, -0.1], [1.0, 0.0]], [1.0, 1.0])
    assert losses == pytest.approx([-1.105171] * 2 + [-1.28] * 2, abs=1e-6)
    assert is_clipped == [False, False, True, True]
    assert derivatives == pytest.approx([-1.105171] * 2 + [0, 0], abs=1e-6)


def test_gmpo_clips_each_token_before_the_geometric_mean() -> None:
    """A = 1, log ratios 0.5 and -0.3: the first is held at 0.28, the second is free, mean -0.01, loss -e^-0.01 =
    -0.990050; only the free token moves it. A = -1: 0.5 is free, -0.3 is held at -0.2, mean 0.15, loss e^0.15."""
    losses, is_clipped, derivatives = loss_per_token(
        "gmpo", [[0.5, -0.3], [0.5, -0.3]], [1.0, -1.0]
    )
    assert losses == pytest.approx([-exp(-0.01)] * 2 + [exp(0.15)] * 2)
    assert is_clipped == [True, False, False, True]
    assert derivatives == pytest.approx([0, -exp(-0.01), exp(0.15), 0])


@pytest.mark.parametrize("policy_loss", ["ppo", "dual_clip", "gspo", "cispo", "gmpo"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_beyond_all_bounds_stays_finite(policy_loss: str, advantage: float) -> None:
    batch = micro_batch([Row(old=[-200.0, -1.0], advantage=advantage)], dtype=torch.float32)
    logprobs = torch.tensor([-1.0, -200.0], requires_grad=True)
    config = AlgorithmConfig(policy_loss=policy_loss)
    loss, _ = token_loss(on_response(batch, logprobs), batch, config)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


@pytest.fixture
def custom_config(request: pytest.FixtureRequest):
    def register(function) -> AlgorithmConfig:
        module = ModuleType("losses_of_a_user")
        module.chosen = function
        sys.modules[module.__name__] = module
        request.addfinalizer(lambda: sys.modules.pop(module.__name__))
        load_user_function.cache_clear()
        return AlgorithmConfig(policy_loss="losses_of_a_user:chosen")

    return register


def test_a_loss_of_the_user_stands_beside_the_built_in_ones(custom_config) -> None:
    def reinforce(logprobs, micro_batch, config):
        return TokenLoss(
            -micro_batch.advantages * logprobs, torch.zeros_like(micro_batch.is_reused)
        )

    config = custom_config(reinforce)
    check_custom_functions(config)
    batch = micro_batch([Row(old=[-1.0, -2.0], advantage=3.0)])
    loss, _ = token_loss(on_response(batch, [-1.0, -2.0]), batch, config)
    assert loss[batch.loss_mask > 0].tolist() == [3.0, 6.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda logprobs, batch, config: logprobs,
            r"returned \[\(4,\)\]; it must return TokenLoss",
        ),
        (lambda logprobs, batch, config: (logprobs.sum(), logprobs), r"returned \[\(\), \(4,\)\]"),
        (lambda logprobs, batch, config: None, r"returned \['NoneType'\]"),
        (lambda logprobs, batch, config: {}["x"], "raised KeyError: 'x'"),
        (
            lambda logprobs, batch, config: (logprobs.log(), batch.is_reused),
            "returned 4 of 4 token losses that are not finite",
        ),
        (
            lambda logprobs, batch, config: (-logprobs.detach(), batch.is_reused),
            "returned a loss without gradient",
        ),
    ],
)
def test_what_a_loss_of_the_user_does_wrong_is_named(custom_config, function, message) -> None:
    batch = micro_batch([Row(old=[-1.0, -2.0])])
    with pytest.raises(
        ValueError, match=f"algorithm.policy_loss=losses_of_a_user:chosen {message}"
    ):
        logprobs = on_response(batch, [-1.0, -2.0]).requires_grad_()
        token_loss(logprobs, batch, custom_config(function))


def test_a_loss_with_another_signature_is_refused_at_the_start(custom_config) -> None:
    with pytest.raises(ValueError, match=r"cannot take \(logprobs, micro_batch, config\)"):
        check_custom_functions(custom_config(lambda logprobs, advantages: None))
