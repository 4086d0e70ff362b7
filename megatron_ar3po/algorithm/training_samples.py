"""Groups -> training samples: which responses carry gradient, and with which advantage.

    down-sampling -> advantages -> the cap on borrowed groups -> their weight, the negatives' weight -> samples

A group whose advantages are all 0 gives nothing, nor does one without graded responses (the
verifier failed for all of them), nor one that borrowed beyond `reuse.max_borrowed_frac`. In the
others every response that is left gives one sample, except

- a borrowed response under Option II (`reuse.option: detach`): it has served the normalisation and
  counts nowhere else;
- a truncated response under `algorithm.overlong_filtering`.

Both leave after the advantages were normalised, so what stays keeps its advantage (which then no
longer sum to 0). A response with advantage 0 in a group that does carry signal stays: it counts in
the denominators, as in GRPO; not so with `algorithm.advantage=history`, which judges each response
for itself: there it leaves. In a group that borrowed, every advantage is multiplied by
`reuse.weight`, and one below 0 by `algorithm.negative_weight`; the denominators stay as they are.

Worked example, advantages 1.5 -0.5 -0.5 -0.5, `negative_weight` 0.4: 1.5 -0.2 -0.2 -0.2; in a group that
borrowed with `reuse.weight` 0.5: 0.75 -0.1 -0.1 -0.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from megatron_ar3po.algorithm.advantages import Advantages, advantages_of
from megatron_ar3po.algorithm.advantages import needs_the_whole_step as advantages_need_it
from megatron_ar3po.algorithm.downsampling import downsample
from megatron_ar3po.algorithm.response_reuse import loans_beyond_the_cap
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import ResponseGroup, RowKey, ScoredResponse, TrainingSample

GroupOutcome = Literal["all_correct", "mixed", "all_wrong", "rescued", "verifier_error"]


def needs_the_whole_step(algorithm: AlgorithmConfig, reuse: ReuseConfig) -> bool:
    """Whether the samples of a group depend on the other groups of the step."""
    return advantages_need_it(algorithm) or reuse.max_borrowed_frac < 1


def samples_with_signal(
    groups: Sequence[ResponseGroup],
    algorithm: AlgorithmConfig,
    reuse: ReuseConfig,
    *,
    whole_step: Sequence[ResponseGroup] | None = None,
) -> list[TrainingSample]:
    """Samples of `groups` in the order (position, response). `whole_step`: the groups of every replica, `groups` among
    them; needed where `needs_the_whole_step` and `groups` are those of one replica."""
    everyone = groups if whole_step is None else whole_step
    mine = {group.position for group in groups}
    samples: list[TrainingSample] = []
    for group, advantages in _groups_that_train(everyone, algorithm, reuse):
        if group.position not in mine:
            continue
        weight = reuse.weight if group.num_borrowed else 1.0
        weighted = weight * np.where(advantages < 0, algorithm.negative_weight, 1.0) * advantages
        samples.extend(
            _sample(group, scored, float(advantage), algorithm, reuse)
            for scored, advantage in zip(group.responses, weighted, strict=True)
            if _carries_gradient(scored, algorithm, reuse)
            and (advantage or algorithm.advantage != "history")
        )
    return samples


def _groups_that_train(
    everyone: Sequence[ResponseGroup], algorithm: AlgorithmConfig, reuse: ReuseConfig
) -> list[tuple[ResponseGroup, Advantages]]:
    """By position, with their advantages."""
    assert len({g.position for g in everyone}) == len(everyone), "two groups share a position"
    graded = sorted((g for g in everyone if g.responses), key=lambda g: g.position)
    kept = [downsample(g, algorithm) for g in graded]
    pairs = zip(kept, advantages_of(kept, algorithm), strict=True)
    with_signal = [(group, advantages) for group, advantages in pairs if advantages.any()]
    beyond = loans_beyond_the_cap([group for group, _ in with_signal], reuse.max_borrowed_frac)
    return [(g, advantages) for g, advantages in with_signal if g.position not in beyond]


def with_kl_penalty(
    group: ResponseGroup, kl: Mapping[RowKey, float], coefficient: float
) -> ResponseGroup:
    """`algorithm.kl_in=reward`: each response's penalty is `coefficient` times its KL to the reference policy, summed
    over its tokens. One without a row in the batch (detached, truncated and filtered) has none.

    Rewards 1 0 0 0, KL 2 0 -1 4 and 0.1: the advantages are those of 0.8 0 0.1 -0.4, which have mean 0.125 and std
    0.432290: 1.561447 -0.289156 -0.057831 -1.214459.
    """
    responses = [
        replace(
            scored,
            kl_penalty=coefficient
            * kl.get(RowKey(group.position, scored.response.response_id, scored.origin), 0.0),
        )
        for scored in group.responses
    ]
    return replace(group, responses=tuple(responses))


def group_outcome(group: ResponseGroup) -> GroupOutcome:
    """How a group ended, after lending: 'rescued' was all wrong until it borrowed, 'verifier_error' has no graded
    response."""
    if not group.responses:
        return "verifier_error"
    if group.num_borrowed:
        return "rescued"
    num_correct = sum(scored.is_correct for scored in group.responses)
    if num_correct == 0:
        return "all_wrong"
    return "all_correct" if num_correct == len(group.responses) else "mixed"


def why_nothing_trains(groups: Sequence[ResponseGroup]) -> str:
    """One line for a step without samples.

    `6 groups: 4 all_correct, 2 all_wrong; 0 of 48 responses truncated`
    """
    outcomes = Counter(group_outcome(group) for group in groups)
    responses = [scored.response for group in groups for scored in group.responses]
    num_cut = sum(response.finish_reason == "length" for response in responses)
    found = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
    return f"{len(groups)} groups: {found}; {num_cut} of {len(responses)} responses truncated"


def _carries_gradient(
    scored: ScoredResponse, algorithm: AlgorithmConfig, reuse: ReuseConfig
) -> bool:
    if scored.origin == "reused" and reuse.option == "detach":
        return False
    if algorithm.overlong_filtering and scored.response.finish_reason == "length":
        return False
    return scored.response.num_tokens > 0


def _sample(
    group: ResponseGroup,
    scored: ScoredResponse,
    advantage: float,
    algorithm: AlgorithmConfig,
    reuse: ReuseConfig,
) -> TrainingSample:
    response = scored.response
    is_fresh = scored.origin == "fresh"
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
        uses_behaviour_logprobs=algorithm.old_logprobs == "behaviour"
        if is_fresh
        else reuse.option == "stored",
    )
