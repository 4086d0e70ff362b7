"""The loss and its gradient do not depend on how a step is cut up; a detached response is as good as absent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from fakes.algorithm_cases import Row, group, micro_batch, on_response, stored_answer
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ar3po.algorithm.aggregation import Aggregation, token_weights
from megatron_ar3po.algorithm.policy_loss import policy_loss
from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import ADVANTAGES, POLICY_LOSSES, AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import TrainingSample

PLAIN = AlgorithmConfig()
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

STEP = [
    group([1, 0, 0, 0], position=0, lengths=[3, 5, 1, 4]),
    group([1, 1, 0, 1, 0, 0, 1, 0], position=1, lengths=[2, 2, 6, 1, 3, 4, 2, 5]),
    with_borrowed(
        group([0, 0, 0, 0], position=2, lengths=[4, 1, 2, 7]),
        stored_answer(position=2, num_tokens=6),
        seed=0,
        step=5,
    ),
]


def samples_of_the_step(
    option: str, algorithm: AlgorithmConfig = PLAIN, **reuse: float
) -> list[TrainingSample]:
    return samples_with_signal(STEP, algorithm, ReuseConfig(option=option, **reuse))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Objective:
    loss: float
    gradients: dict[str, torch.Tensor]  # by response id, one entry per token
    sums: dict[str, tuple[float, float]]
    maxima: dict[str, float]


def logprobs_of(response_id: str, num_tokens: int, salt: int) -> torch.Tensor:
    """What the policy says of a response: the same wherever the response is packed."""
    generator = torch.Generator().manual_seed(hash_of(response_id) + salt)
    return -1.0 - torch.rand(num_tokens, generator=generator, dtype=torch.float64)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % 2**31


def objective(
    samples: Sequence[TrainingSample],
    config: AlgorithmConfig,
    micro_batches: Sequence[Sequence[int]],
    aggregation: Aggregation,
) -> Objective:
    """Weights of the whole step, then the sum over micro-batches, as over the ranks of a data-parallel group."""
    weights, _ = token_weights(samples, aggregation)
    loss, gradients = 0.0, {}
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    maxima: dict[str, float] = defaultdict(float)
    for indices in micro_batches:
        rows, leaves = [], []
        for i in indices:
            sample = samples[i]
            name, length = sample.response_id, sample.num_response_tokens
            leaves.append(logprobs_of(name, length, salt=0).requires_grad_())
            rows.append(
                Row(
                    old=logprobs_of(name, length, salt=1).tolist(),
                    behaviour=logprobs_of(name, length, salt=2).tolist(),
                    advantage=sample.advantage,
                    weight=float(weights[i]),
                    is_reused=sample.origin == "reused",
                )
            )
        batch = micro_batch(rows)
        logprobs = on_response(batch, torch.cat(leaves))
        result = policy_loss(
            logprobs,
            batch,
            config,
            entropy=-logprobs * 0.5,
            reference_logprobs=batch.old_logprobs,
        )
        result.loss.backward()
        loss += result.loss.item()
        for i, leaf in zip(indices, leaves, strict=True):
            assert leaf.grad is not None
            gradients[samples[i].response_id] = leaf.grad
        for key, (total, count) in result.sums.items():
            sums[key] = (sums[key][0] + total.item(), sums[key][1] + count.item())
        for key, value in result.maxima.items():
            maxima[key] = max(maxima[key], value.item())
    return Objective(loss, gradients, dict(sums), dict(maxima))


def assert_same(one: Objective, other: Objective) -> None:
    assert one.loss == pytest.approx(other.loss, abs=1e-12)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], atol=1e-14, rtol=0)
    assert one.sums.keys() == other.sums.keys()
    for key, pair in one.sums.items():
        assert pair == pytest.approx(other.sums[key], abs=1e-10), key
    assert one.maxima == pytest.approx(other.maxima)


def full_config(name: str) -> AlgorithmConfig:
    return AlgorithmConfig(
        policy_loss=name, kl_coef=0.1, entropy_coef=0.01, importance_sampling="sequence"
    )


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(max_examples=10)
@given(data=st.data())
def test_every_split_into_micro_batches_gives_the_same_loss_and_gradient(
    name: str, aggregation: Aggregation, data: st.DataObject
) -> None:
    """Any order, any cut: one micro-batch per sequence, all in one, two ranks with unequal shares."""
    samples = samples_of_the_step("recompute")
    order = data.draw(st.permutations(range(len(samples))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(samples) - 1))))
    split = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    config = full_config(name)
    together = objective(samples, config, [range(len(samples))], aggregation)
    assert_same(objective(samples, config, split, aggregation), together)


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_detached_response_equals_the_batch_without_it_after_the_normalisation(
    name: str, aggregation: Aggregation
) -> None:
    """Option II against Option I with the borrowed rows taken out once the advantages are made: the same loss,
    gradient, KL, entropy, clip metrics, and counts."""
    detached = samples_of_the_step("detach")
    removed = [s for s in samples_of_the_step("recompute") if s.origin == "fresh"]
    config, everything = full_config(name), [range(len(removed))]
    assert len(detached) == len(removed) == 15
    one = objective(detached, config, everything, aggregation)
    assert_same(one, objective(removed, config, everything, aggregation))
    assert one.sums["reuse/ratio_mean"] == (0.0, 0.0)
    assert one.sums["actor/ratio_mean"][1] == sum(s.num_response_tokens for s in removed)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_so_it_is_with_every_advantage_a_weight_and_down_sampling(
    advantage: str, aggregation: Aggregation
) -> None:
    """Three of each group stay, the borrowed one among them; the groups that borrowed weigh 0.3. As many sequences,
    tokens and prompts in the denominator."""
    algorithm = AlgorithmConfig(advantage=advantage, downsample_to=3)
    detached = samples_of_the_step("detach", algorithm, weight=0.3)
    recomputed = samples_of_the_step("recompute", algorithm, weight=0.3)
    removed = [s for s in recomputed if s.origin == "fresh"]
    assert (len(detached), len(removed), len(recomputed)) == (8, 8, 9)
    assert token_weights(detached, aggregation)[1] == token_weights(removed, aggregation)[1]
    config, everything = full_config("ppo"), [range(8)]
    one = objective(detached, config, everything, aggregation)
    assert_same(one, objective(removed, config, everything, aggregation))
    assert any(one.gradients[s.response_id].any() for s in detached if s.group_position == 2)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_clipped_surrogate_agrees_with_a_loop_over_prompts_responses_and_tokens(
    aggregation: Aggregation,
) -> None:
    """The definitions of the aggregations written out as nested means, with plain floats."""
    samples = samples_of_the_step("recompute")
    config = AlgorithmConfig()
    token_losses: dict[int, list[list[float]]] = defaultdict(list)
    for sample in samples:
        now = logprobs_of(sample.response_id, sample.num_response_tokens, salt=0).numpy()
        old = logprobs_of(sample.response_id, sample.num_response_tokens, salt=1).numpy()
        ratios = np.exp(now - old)
        losses = [
            -min(r * sample.advantage, min(max(r, 0.8), 1.28) * sample.advantage) for r in ratios
        ]
        token_losses[sample.group_position].append(losses)
    sequences = [losses for prompt in token_losses.values() for losses in prompt]
    tokens = [loss for losses in sequences for loss in losses]
    expected = {
        "token_mean": np.mean(tokens),
        "seq_mean_token_mean": np.mean([np.mean(losses) for losses in sequences]),
        "seq_mean_token_sum": np.mean([np.sum(losses) for losses in sequences]),
        "prompt_mean": np.mean([np.mean(np.concatenate(p)) for p in token_losses.values()]),
    }[aggregation]
    measured = objective(samples, config, [range(len(samples))], aggregation)
    assert measured.loss == pytest.approx(float(expected), abs=1e-12)
