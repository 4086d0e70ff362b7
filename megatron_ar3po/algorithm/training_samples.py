"""Groups -> training samples: which responses carry gradient, and with which advantage.

A group whose advantages are all 0 gives nothing. In the others every response gives one sample,
except

- a borrowed response under Option II (`reuse.option: detach`): it has served the normalisation and
  counts nowhere else;
- a truncated response under `algorithm.overlong_filtering`.

Both leave after the advantages were normalised, so what stays keeps its advantage (which then no
longer sum to 0). A response with advantage 0 in a group that does carry signal stays: it counts in
the denominators, as in GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from megatron_ar3po.algorithm.advantages import advantages_of
from megatron_ar3po.config.schema import AlgorithmConfig, ReuseConfig
from megatron_ar3po.types import ResponseGroup, ScoredResponse, TrainingSample

GroupOutcome = Literal["all_correct", "mixed", "all_wrong", "rescued"]


def samples_with_signal(
    groups: Sequence[ResponseGroup],
    algorithm: AlgorithmConfig,
    reuse: ReuseConfig,
    *,
    whole_step: Sequence[ResponseGroup] | None = None,
) -> list[TrainingSample]:
    """Samples of `groups` in the order (position, response). `whole_step`: the groups of every replica, `groups` among
    them; needed where `advantages.needs_the_whole_step` and `groups` are those of one replica."""
    everyone = sorted(groups if whole_step is None else whole_step, key=_position)
    advantages_at = dict(
        zip(map(_position, everyone), advantages_of(everyone, algorithm), strict=True)
    )
    assert len(advantages_at) == len(everyone), "two groups of one step share a position"
    samples: list[TrainingSample] = []
    for group in sorted(groups, key=_position):
        advantages = advantages_at[group.position]
        if not advantages.any():
            continue
        samples.extend(
            _sample(group, scored, float(advantage), reuse)
            for scored, advantage in zip(group.responses, advantages, strict=True)
            if _carries_gradient(scored, algorithm, reuse)
        )
    return samples


def group_outcome(group: ResponseGroup) -> GroupOutcome:
    """How a group ended, after lending: 'rescued' was all wrong until it borrowed."""
    if group.num_borrowed:
        return "rescued"
    num_correct = sum(scored.is_correct for scored in group.responses)
    if num_correct == 0:
        return "all_wrong"
    return "all_correct" if num_correct == len(group.responses) else "mixed"


def _position(group: ResponseGroup) -> int:
    return group.position


def _carries_gradient(
    scored: ScoredResponse, algorithm: AlgorithmConfig, reuse: ReuseConfig
) -> bool:
    if scored.origin == "reused" and reuse.option == "detach":
        return False
    if algorithm.overlong_filtering and scored.response.finish_reason == "length":
        return False
    return scored.response.num_tokens > 0


def _sample(
    group: ResponseGroup, scored: ScoredResponse, advantage: float, reuse: ReuseConfig
) -> TrainingSample:
    response = scored.response
    return TrainingSample(
        group_position=group.position,
        prompt_id=group.prompt.prompt_id,
        response_id=response.response_id,
        prompt_token_ids=group.prompt.token_ids,
        response_token_ids=response.token_ids,
        behaviour_logprobs=response.logprobs,
        advantage=advantage,
        reward=scored.reward,
        origin=scored.origin,
        policy_version=response.policy_version,
        uses_stored_logprobs=scored.origin == "reused" and reuse.option == "stored",
    )
