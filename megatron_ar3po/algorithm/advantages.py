"""Advantages: what each response of a group is worth beside the others.

One array of advantages per response group, in the order of its responses. Groups have unequal
sizes; a group whose rewards are all equal teaches nothing, and its advantages are exactly 0 (not
1e-11: rewards like 0.1 do not sum without rounding, so equality is decided on the rewards and never
on the advantages).

    group            A_i = (R_i - mean(R)) / (std(R) + 1e-6)   GRPO (arXiv:2402.03300);
                                                               not divided: Dr. GRPO (2503.20783)
    rloo             A_i = R_i - mean of the others' R         RLOO (arXiv:2402.14740)
    leave_one_out    rloo / (std(R) + 1e-6)                    GRPO around RLOO's baseline: it is
                                                               GRPO times G / (G - 1), so that small
                                                               groups do not weigh less than large
    global           A_i = (R_i - mean(R)) / (std(R) + 1e-6)   REINFORCE++ (arXiv:2501.03262): mean
                                                               and std over all responses of the step
    global_baseline  C_i / (std(C) + 1e-6),                    REINFORCE++ with baseline: mean of the
                     C_i = R_i - mean(R)                       group, std over the step
    history          from the prompt's earlier visits          history_advantage.py

With `algorithm.kl_in=reward`, R_i is the graded reward less the KL penalty. Whether a group carries
signal is decided on the graded rewards all the same: differences of KL alone, divided by their own
std, would be noise of the size of a right answer.

mean and std without a word are those of the group. REINFORCE++ is our reading in two points: a
response counts once in mean and std, however long it is (some implementations take its tokens), and
nothing is discounted.

Worked example, rewards 1 0 0 0: mean 1/4, population std sqrt(3)/4 = 0.433013.

    group, population   1.732047 -0.577349 -0.577349 -0.577349
    group, sample       1.499997 -0.499999 -0.499999 -0.499999      sample std 1/2
    group, none         0.75     -0.25     -0.25     -0.25
    rloo                1        -1/3      -1/3      -1/3
    leave_one_out       2.309396 -0.769799 -0.769799 -0.769799      1 / 0.433014

The same beside a second group, 1 1: the step is 1 0 0 0 1 1, mean 1/2, std 1/2; centred by group it is
0.75 -0.25 -0.25 -0.25 0 0, std sqrt(0.75 / 6) = 0.353553.

    global              0.999998 -0.999998 -0.999998 -0.999998 | 0.999998 0.999998
    global_baseline     2.121314 -0.707105 -0.707105 -0.707105 | 0        0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_ar3po.algorithm.custom import load_advantage_function
from megatron_ar3po.algorithm.history_advantage import history_advantages
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import ResponseGroup
from megatron_ar3po.user_functions import is_import_path

STD_EPSILON = 1e-6
STEP_WIDE = ("global", "global_baseline")

Rewards = NDArray[np.float64]
Advantages = NDArray[np.float64]


def carries_signal(group: ResponseGroup) -> bool:
    """Whether the group's rewards differ, so that a group-relative advantage is not 0. Those of a
    group without graded responses do not."""
    if not group.responses:
        return False
    check_rewards(group)
    return not _are_equal(group.rewards)


def is_mixed(group: ResponseGroup) -> bool:
    """0 < correct < all: DAPO (arXiv:2503.14476), Eq. 11, whatever the rewards are."""
    if not group.responses:
        return False
    check_rewards(group)
    num_correct = sum(scored.is_correct for scored in group.responses)
    return 0 < num_correct < len(group.responses)


def needs_the_whole_step(config: AlgorithmConfig) -> bool:
    """Whether advantages look beyond one group: REINFORCE++'s do, and a user's own function may."""
    return config.advantage in STEP_WIDE or is_import_path(config.advantage)


def group_advantages(rewards: Rewards, config: AlgorithmConfig) -> Advantages:
    """Advantages of one group, [G] -> [G], for `algorithm.advantage` = group, rloo or
    leave_one_out. They sum to 0."""
    if _are_equal(rewards):
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    if config.advantage != "group":
        # R_i - (sum - R_i) / (G - 1) = (R_i - mean) G / (G - 1); rewards differ, so G > 1
        centred = centred * (len(rewards) / (len(rewards) - 1))
    if config.advantage == "rloo":
        return centred
    return centred / _divisor(rewards, config.advantage_std)


def advantages_of(groups: Sequence[ResponseGroup], config: AlgorithmConfig) -> list[Advantages]:
    """Advantages of all groups, none of them empty, one [G] array each. Give it the groups of the
    whole step, of every replica, where `needs_the_whole_step`."""
    for group in groups:
        check_rewards(group)
    has_spread = [carries_signal(group) for group in groups]
    if is_import_path(config.advantage):
        return _custom_advantages(groups, config)
    if config.advantage == "history":
        return [history_advantages(group, config) for group in groups]
    rewards = [group.penalised_rewards for group in groups]
    if config.advantage == "global":
        return _over_the_step(rewards, config)
    rewards = [
        r if spread else np.zeros_like(r) for r, spread in zip(rewards, has_spread, strict=True)
    ]
    if config.advantage == "global_baseline":
        return _over_the_step([r - r.mean() for r in rewards], config)
    return [group_advantages(of_group, config) for of_group in rewards]


def check_rewards(group: ResponseGroup) -> None:
    """ValueError for an empty group or a reward that is not finite, which is named and never trained on."""
    rewards = group.rewards
    if not len(rewards):
        raise ValueError(
            f"prompt {group.prompt.prompt_id} (position {group.position}) has no responses in "
            "this step; a group without responses has no mean. Leave the prompt out of the groups."
        )
    if not np.isfinite(rewards).all():
        culprit = next(r for r in group.responses if not np.isfinite(r.reward))
        raise ValueError(
            f"prompt {group.prompt.prompt_id} (position {group.position}): response "
            f"{culprit.response.response_id} has reward {culprit.reward}, which no advantage can "
            "be made of. The verifier (rewards.verifier) must return finite rewards; its verdict: "
            f"status={culprit.verdict.status!r}, reason={culprit.verdict.reason!r}."
        )


def _divisor(rewards: Rewards, std: Literal["population", "sample", "none"]) -> float:
    if std == "none":
        return 1.0
    return float(rewards.std(ddof=1 if std == "sample" else 0)) + STD_EPSILON


def _over_the_step(rewards: Sequence[Rewards], config: AlgorithmConfig) -> list[Advantages]:
    """`rewards`: of the step's groups, for global_baseline centred in each group."""
    if not rewards:
        return []
    together = np.concatenate(rewards)
    if _are_equal(together):
        return [np.zeros_like(of_group) for of_group in rewards]
    mean = together.mean() if config.advantage == "global" else 0.0
    divisor = _divisor(together, config.advantage_std)
    return [(of_group - mean) / divisor for of_group in rewards]


def _custom_advantages(
    groups: Sequence[ResponseGroup], config: AlgorithmConfig
) -> list[Advantages]:
    option = f"algorithm.advantage={config.advantage}"
    function = load_advantage_function(config.advantage)
    history = ([group.record for group in groups],) if function.takes_optional else ()
    answer = function(groups, config, *history)
    try:
        arrays = [np.asarray(array, dtype=np.float64) for array in answer]
    except (TypeError, ValueError) as error:  # None, a number, ragged or non-numeric arrays
        raise ValueError(
            f"{option} returned {type(answer).__name__}, which is not a list of arrays ({error}); "
            "return one array per group."
        ) from error
    expected = [(len(group.responses),) for group in groups]
    if [a.shape for a in arrays] != expected:
        raise ValueError(
            f"{option} returned arrays of shapes {[a.shape for a in arrays]} for groups of shapes "
            f"{expected}; it must return one array per group with one advantage per response, in "
            "the order of the responses."
        )
    for group, array in zip(groups, arrays, strict=True):
        if not np.isfinite(array).all():
            raise ValueError(
                f"{option} returned {array.tolist()} for prompt {group.prompt.prompt_id}; "
                "advantages must be finite."
            )
    return arrays


def _are_equal(rewards: Rewards) -> bool:
    return bool((rewards == rewards[0]).all())
