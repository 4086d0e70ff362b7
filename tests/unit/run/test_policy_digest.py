from dataclasses import replace

import numpy as np
import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.run.policy_digest import PolicyDigest
from megatron_ar3po.types import TrainingSample


def sample(index: int, **fields) -> TrainingSample:
    return TrainingSample(
        **{
            "group_position": 0,
            "prompt_id": "ab",
            "response_id": f"s1.p0.1.{index}",
            "prompt_token_ids": (1, 2),
            "response_token_ids": np.array([5, 6 + index], dtype=np.int32),
            "behaviour_logprobs": np.array([-0.5, -0.5], dtype=np.float32),
            "advantage": 0.5,
            "reward": 1.0,
            "origin": "fresh",
            "policy_version": 0,
            **fields,
        }
    )


def digest(samples, *words: str, before: str = "") -> str:
    policy = PolicyDigest(load_config([], ["model.path=x", "data.path=y", *words]), before)
    policy.advance(samples)
    return policy.value


SAMPLES = [sample(0), sample(1)]


def test_two_policies_trained_on_the_same_in_the_same_way_are_one():
    assert digest(SAMPLES) == digest([replace(one) for one in SAMPLES])


@pytest.mark.parametrize(
    "other",
    [
        [sample(0)],
        [sample(1), sample(0)],
        [sample(0), sample(1, advantage=0.25)],
        [sample(0), sample(1, reward=0.5)],
        [sample(0), sample(1, origin="reused")],
        [sample(0), sample(1, response_token_ids=np.array([5, 8]))],
    ],
)
def test_another_sample_makes_another_policy(other):
    assert digest(other) != digest(SAMPLES)


def test_what_came_before_counts():
    assert digest(SAMPLES, before=digest(SAMPLES)) != digest(SAMPLES)


@pytest.mark.parametrize(
    "word",
    ["actor.learning_rate=1e-3", "algorithm.clip_ratio_low=0.1", "actor.clip_grad=0.5"],
)
def test_another_way_of_training_makes_another_policy(word):
    assert digest(SAMPLES, word) != digest(SAMPLES)


@pytest.mark.parametrize(
    "word",
    [
        "actor.tensor_parallel_size=2",
        "actor.max_tokens_per_microbatch=8192",
        "actor.recompute=full",
        "run.num_steps=7",
    ],
)
def test_the_layout_and_the_memory_do_not_count(word):
    assert digest(SAMPLES, word) == digest(SAMPLES)


def test_the_length_of_the_run_counts_where_the_learning_rate_decays():
    decay = "actor.lr_decay=linear"
    assert digest(SAMPLES, decay, "run.num_steps=7") != digest(SAMPLES, decay)
