"""Where old log-probs come from, and that a ratio measured against those of its own forward pass trains as one measured
against those of a pass before it. That Megatron's two forward passes agree is shown in tests/parallel."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any, get_args

import numpy as np
import pytest
import torch
from fakes.algorithm_cases import Row, micro_batch, on_response

from megatron_ar3po.algorithm.old_logprobs import source_of_old_logprobs
from megatron_ar3po.algorithm.policy_loss import PolicyLoss, policy_loss
from megatron_ar3po.config.algorithm import (
    POLICY_LOSSES,
    AlgorithmConfig,
    ImportanceSampling,
)
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import MicroBatch, Origin, TrainingSample


def sample(origin: Origin = "fresh", *, uses_behaviour: bool = False) -> TrainingSample:
    return TrainingSample(
        group_position=0,
        prompt_id="p0",
        response_id="r",
        prompt_token_ids=(1,),
        response_token_ids=np.array([2], np.int32),
        behaviour_logprobs=np.array([-1.0], np.float32),
        advantage=1.0,
        reward=1.0,
        origin=origin,
        policy_version=0,
        uses_behaviour_logprobs=uses_behaviour,
    )


FRESH, LOAN = [sample()], [sample(), sample("reused")]
STORED_LOAN = [sample(), sample("reused", uses_behaviour=True)]
SERVERS_OWN = [sample(uses_behaviour=True)]
SERVERS_OWN_AND_A_LOAN = [*SERVERS_OWN, sample("reused")]


@pytest.mark.parametrize(
    ("samples", "algorithm", "reuse", "sources"),
    [
        (FRESH, {}, {}, ["update", "pass"]),
        (LOAN, {}, {}, ["update", "pass"]),
        (STORED_LOAN, {}, {}, ["update", "pass"]),
        (STORED_LOAN[1:], {}, {}, ["update", "server"]),  # nothing there is to be recomputed
        # A KL in the loss is of this very policy, one in the reward is there before it is trained.
        (FRESH, {"kl_coef": 0.1}, {}, ["update", "pass"]),
        (FRESH, {"kl_coef": 0.1, "kl_in": "reward"}, {}, ["pass", "pass"]),
        (FRESH, {"kl_coef": 0.0, "kl_in": "reward"}, {}, ["update", "pass"]),
        # A limit on the drift is there for what is borrowed and recomputed.
        (LOAN, {}, {"max_logprob_drift": 2.0}, ["pass", "pass"]),
        (FRESH, {}, {"max_logprob_drift": 2.0}, ["update", "pass"]),
        (STORED_LOAN, {}, {"max_logprob_drift": 2.0}, ["update", "pass"]),
        # algorithm.old_logprobs=behaviour has marked the fresh ones.
        (SERVERS_OWN, {}, {}, ["update", "server"]),
        (SERVERS_OWN_AND_A_LOAN, {}, {}, ["update", "pass"]),
        (SERVERS_OWN, {}, {"max_logprob_drift": 2.0}, ["update", "server"]),
        (SERVERS_OWN, {"kl_coef": 0.1, "kl_in": "reward"}, {}, ["pass", "pass"]),
    ],
)
def test_a_pass_is_made_for_what_no_update_can_give(samples, algorithm, reuse, sources) -> None:
    """Of the first mini-batch of a step, and of the second."""
    found = [
        source_of_old_logprobs(i, samples, AlgorithmConfig(**algorithm), ReuseConfig(**reuse))
        for i in range(2)
    ]
    assert found == sources


NOW = torch.tensor([-2.0, -1.0, -0.5, -3.0, -2.5, -0.2], dtype=torch.float64)
ENTROPY = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.6], dtype=torch.float64)


def batch_of(source: str) -> MicroBatch:
    """Two fresh responses and a borrowed one, all at the policy as it is, which a pass would have found."""
    now = NOW.tolist()
    rows = [
        Row(old=now[:2], behaviour=[-2.3, -1.1], advantage=1.2, weight=0.3),
        Row(old=now[2:4], behaviour=[-0.4, -4.5], advantage=-0.7, weight=0.1),
        Row(old=now[4:], behaviour=[-5.0, -1.0], advantage=0.9, weight=0.2, is_reused=True),
    ]
    batch = replace(micro_batch(rows), old_logprobs_from=source)  # type: ignore[arg-type]
    return batch if source == "pass" else replace(batch, old_logprobs=None)


def train_on(batch: MicroBatch, config: AlgorithmConfig) -> tuple[PolicyLoss, torch.Tensor]:
    """With the gradient by log-prob. Off the response the forward pass says anything."""
    logprobs = NOW.clone().requires_grad_()
    anything = torch.where(batch.loss_mask > 0, 0.0, -7.0)
    result = policy_loss(
        on_response(batch, logprobs) + anything,
        batch,
        config,
        entropy=on_response(batch, ENTROPY),
        reference_logprobs=on_response(batch, NOW + 0.3),
    )
    result.loss.backward()
    assert logprobs.grad is not None
    return result, logprobs.grad


@pytest.mark.parametrize("correction", get_args(ImportanceSampling))
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_updates_own_log_probs_train_to_the_last_digit_as_those_of_a_pass(
    name: str, correction: Any
) -> None:
    """Loss, gradient, every metric and what is told of loans; corrected for the server's mismatch, with KL and
    entropy. The mismatch reaches the cap: e^1.5 = 4.5."""
    config = AlgorithmConfig(
        policy_loss=name, importance_sampling=correction, kl_coef=0.1, entropy_coef=0.01
    )
    (own, gradient), (passed, expected) = (
        train_on(batch_of(source), config) for source in ("update", "pass")
    )
    assert own.loss.item() == passed.loss.item()
    assert torch.equal(gradient, expected)
    assert repr(own.sums) == repr(passed.sums) and repr(own.maxima) == repr(passed.maxima)
    assert torch.equal(own.borrowed_rows, passed.borrowed_rows)
    assert own.sums["actor/ratio_mean"][0].item() == 6  # exactly 1 each
    assert own.sums["mismatch/logprob_abs_mean"][0].item() == pytest.approx(0.3 + 0.1 + 0.1 + 1.5)
    assert own.maxima["mismatch/logprob_abs_max"].item() == pytest.approx(1.5)


def test_what_a_borrowed_response_drifted_by_is_told_by_the_update() -> None:
    """-2.5 and -0.2 where -5 and -1 are stored: 3.3 over two tokens, both at ratio 1."""
    result, _ = train_on(batch_of("update"), AlgorithmConfig())
    assert result.borrowed_rows.tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [2, 2, 0, pytest.approx(3.3)],
    ]


def test_a_stored_response_is_measured_against_what_is_stored_whoever_computes_the_others() -> None:
    """reuse.option=stored: the borrowed tokens have ratios e^2.5 and e^0.8, both clipped at 1.28; the fresh ones 1."""
    for source in ("update", "pass"):
        batch = batch_of(source)
        batch = replace(batch, uses_behaviour_logprobs=batch.is_reused & (batch.loss_mask > 0))
        result, gradient = train_on(batch, AlgorithmConfig())
        total, count = result.sums["reuse/ratio_mean"]
        assert (total / count).item() == pytest.approx((np.exp(2.5) + np.exp(0.8)) / 2)
        assert result.sums["reuse/clip_frac"][0].item() == 2
        assert gradient[4:].tolist() == [0, 0]
        assert gradient[:4].tolist() == pytest.approx([-0.36, -0.36, 0.07, 0.07])
        assert result.sums["actor/ratio_mean"][0].item() == pytest.approx(
            4 + np.exp(2.5) + np.exp(0.8)
        )


@pytest.mark.parametrize(
    ("source", "num_measured", "worst"), [("update", 2, 0.4), ("server", 0, 0.0)]
)
def test_the_servers_log_probs_leave_the_mismatch_in_the_ratio(
    source: str, num_measured: int, worst: float
) -> None:
    """algorithm.old_logprobs=behaviour. The server said log 2 and log 3 less: ratios e^0.4 and e^-0.2, the first one
    clipped. In the first update the weights are those of the servers, so what they disagree about is measured; in a
    later one the difference would hold what the policy has learnt."""
    rows = [Row(old=[-2.0, -1.0], behaviour=[-2.4, -0.8], weight=0.5)]
    batch = replace(
        micro_batch(rows),
        old_logprobs_from=source,  # type: ignore[arg-type]
        old_logprobs=None,
    )
    batch = replace(batch, uses_behaviour_logprobs=batch.loss_mask > 0)
    logprobs = torch.tensor([-2.0, -1.0], dtype=torch.float64, requires_grad=True)
    result = policy_loss(on_response(batch, logprobs), batch, AlgorithmConfig())
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-0.5 * (1.28 + np.exp(-0.2)))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -0.5 * np.exp(-0.2)])
    assert result.sums["mismatch/logprob_abs_mean"][1].item() == num_measured
    assert result.maxima["mismatch/logprob_abs_max"].item() == pytest.approx(worst)


def test_a_function_of_your_own_sees_the_old_log_probs_that_the_ratio_takes() -> None:
    """Its loss is logprob - old_logprob. Against its own: 0, with slope 1. Against the server's: -2 + 2.3, -1 + 1.1,
    -0.5 + 0.4, -3 + 4.5, -2.5 + 5 and -0.2 + 1, with weights 0.3, 0.1 and 0.2 a response."""
    config = AlgorithmConfig(policy_loss="fakes.losses:distance_from_old")
    result, gradient = train_on(batch_of("update"), config)
    assert result.loss.item() == 0
    assert gradient.tolist() == pytest.approx([0.3, 0.3, 0.1, 0.1, 0.2, 0.2])
    batch = batch_of("server")
    batch = replace(batch, uses_behaviour_logprobs=batch.loss_mask > 0)
    result, _ = train_on(batch, config)
    assert result.loss.item() == pytest.approx(0.3 * 0.4 + 0.1 * 1.4 + 0.2 * 3.3)


def test_an_infinite_log_prob_of_its_own_is_no_ratio_of_1() -> None:
    """It is seen as one from a pass is: the loss is NaN, and the update is skipped."""
    batch = batch_of("update")
    logprobs = on_response(batch, torch.where(NOW == -0.5, -torch.inf, NOW))
    assert torch.isnan(policy_loss(logprobs, batch, AlgorithmConfig()).loss)


def test_a_dummy_row_that_takes_its_own_gives_0() -> None:
    batch = replace(
        micro_batch([Row(old=[], num_prompt_tokens=2)]),
        old_logprobs_from="update",
        old_logprobs=None,
    )
    logprobs = torch.tensor([log(0.5), torch.nan], dtype=torch.float64, requires_grad=True)
    result = policy_loss(logprobs, batch, AlgorithmConfig())
    result.loss.backward()
    assert result.loss.item() == 0
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0, 0]
