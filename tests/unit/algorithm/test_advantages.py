from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fakes.algorithm_cases import group
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.algorithm.advantages import (
    advantages_of,
    carries_signal,
    group_advantages,
    is_mixed,
    needs_the_whole_step,
)
from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.config.algorithm import ADVANTAGES, AlgorithmConfig
from megatron_ar3po.prompt_record import PromptRecord
from megatron_ar3po.types import ResponseGroup, Verdict
from megatron_ar3po.user_functions import load_user_function

# halves and quarters too: verifiers may give partial credit
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, -1.0]), min_size=1, max_size=16)

OF_ONE_STEP = [
    name for name in ADVANTAGES if name != "history"
]  # the rewards of a step are all they know


@pytest.mark.parametrize(
    ("advantage", "std", "expected"),
    [
        ("group", "population", [1.732047, -0.577349, -0.577349, -0.577349]),
        ("group", "sample", [1.499997, -0.499999, -0.499999, -0.499999]),
        ("group", "none", [0.75, -0.25, -0.25, -0.25]),
        ("rloo", "population", [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("leave_one_out", "population", [2.309396, -0.769799, -0.769799, -0.769799]),
        ("leave_one_out", "sample", [1.999996, -0.666665, -0.666665, -0.666665]),
        ("leave_one_out", "none", [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_one_correct_response_of_four(advantage: str, std: str, expected: list[float]) -> None:
    """Mean 1/4. Population std sqrt(3/16) = 0.4330127, so 0.75 / 0.4330137 = 1.732047; sample std 1/2, so
    0.75 / 0.500001 = 1.499997. Leave-one-out: 1 - 0 and 0 - 1/3, divided by the same std."""
    config = AlgorithmConfig(advantage=advantage, advantage_std=std)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        group_advantages(np.array([1.0, 0, 0, 0]), config), expected, atol=1e-6
    )


def test_groups_of_unequal_size_are_normalised_each_by_itself() -> None:
    """Rewards 1 0: mean 1/2, std 1/2, so +-0.5 / 0.500001. Rewards 1 1 0 ... of eight (2 correct): mean 1/4, std as
    above."""
    small, large = advantages_of([group([1, 0]), group([1, 1] + [0] * 6)], AlgorithmConfig())
    np.testing.assert_allclose(small, [0.999998, -0.999998], atol=1e-6)
    np.testing.assert_allclose(large, [1.732047] * 2 + [-0.577349] * 6, atol=1e-6)


@pytest.mark.parametrize("rewards", [[0.0], [1.0], [0.1, 0.1, 0.1], [0.0] * 8, [1.0] * 8])
@pytest.mark.parametrize("advantage", OF_ONE_STEP)
def test_equal_rewards_give_advantages_of_exactly_zero(
    advantage: str, rewards: list[float]
) -> None:
    """0.1 + 0.1 + 0.1 is not 0.3 in floats, so mean-and-subtract alone would leave 1e-17 / 1e-6."""
    [advantages] = advantages_of([group(rewards)], AlgorithmConfig(advantage=advantage))
    assert advantages.tolist() == [0.0] * len(rewards)
    assert not carries_signal(group(rewards))


def test_differing_rewards_carry_signal() -> None:
    assert carries_signal(group([0, 0, 1]))
    assert carries_signal(group([0.3, 0.1]))


@given(REWARDS, st.sampled_from(["population", "sample", "none"]))
def test_the_advantages_of_a_group_sum_to_zero(rewards: list[float], std: str) -> None:
    for advantage in ("group", "rloo", "leave_one_out"):
        config = AlgorithmConfig(advantage=advantage, advantage_std=std)  # type: ignore[arg-type]
        assert abs(group_advantages(np.array(rewards), config).sum()) < 1e-9


@given(REWARDS)
def test_the_order_of_rewards_is_the_order_of_advantages(rewards: list[float]) -> None:
    for advantage in ("group", "rloo", "leave_one_out"):
        config = AlgorithmConfig(advantage=advantage)
        advantages = group_advantages(np.array(rewards), config)
        for i, j in zip(*np.triu_indices(len(rewards)), strict=True):
            assert np.sign(advantages[i] - advantages[j]) == np.sign(rewards[i] - rewards[j])


@given(REWARDS)
def test_leave_one_out_subtracts_the_mean_of_the_others(rewards: list[float]) -> None:
    advantages = group_advantages(np.array(rewards), AlgorithmConfig(advantage="rloo"))
    for i, advantage in enumerate(advantages):
        others = rewards[:i] + rewards[i + 1 :]
        expected = rewards[i] - sum(others) / len(others) if others else 0.0
        assert advantage == pytest.approx(expected, abs=1e-12)


@given(REWARDS.filter(lambda rewards: len(set(rewards)) > 1))
def test_group_normalisation_agrees_with_torch(rewards: list[float]) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    for std, correction in (("population", 0), ("sample", 1)):
        expected = (values - values.mean()) / (values.std(correction=correction) + 1e-6)
        config = AlgorithmConfig(advantage_std=std)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            group_advantages(np.array(rewards), config), expected, atol=1e-12
        )


def test_global_advantages_are_normalised_over_the_whole_step() -> None:
    """Rewards 1 0 | 1 1: mean 3/4, population std sqrt(3)/4. An all-correct group trains here: it is better than
    the step."""
    first, second = advantages_of(
        [group([1, 0]), group([1, 1])], AlgorithmConfig(advantage="global")
    )
    np.testing.assert_allclose(first, [0.577349, -1.732047], atol=1e-6)
    np.testing.assert_allclose(second, [0.577349, 0.577349], atol=1e-6)


def test_the_baseline_of_a_group_under_the_std_of_the_step() -> None:
    """The example of the module: rewards 1 0 0 0 | 1 1, centred 0.75 -0.25 -0.25 -0.25 | 0 0, whose population std is
    sqrt(0.75 / 6) = 0.353553. The all-correct group trains nothing."""
    step = [group([1, 0, 0, 0], position=0), group([1, 1], position=1)]
    first, second = advantages_of(step, AlgorithmConfig(advantage="global_baseline"))
    np.testing.assert_allclose(first, [2.121314] + [-0.707105] * 3, atol=1e-6)
    assert second.tolist() == [0, 0]
    first, second = advantages_of(step, AlgorithmConfig(advantage="global"))
    np.testing.assert_allclose(first, [0.999998] + [-0.999998] * 3, atol=1e-6)
    np.testing.assert_allclose(second, [0.999998] * 2, atol=1e-6)


STEPS = st.lists(REWARDS, min_size=1, max_size=6)


@given(STEPS, st.sampled_from(["population", "sample", "none"]))
def test_over_groups_of_unequal_size_every_advantage_with_a_baseline_sums_to_zero_in_each(
    step: list[list[float]], std: str
) -> None:
    """global has its mean over the step, so there the sum over the step is 0."""
    groups = [group(rewards, position=p) for p, rewards in enumerate(step)]
    for advantage in OF_ONE_STEP:
        config = AlgorithmConfig(advantage=advantage, advantage_std=std)  # type: ignore[arg-type]
        sums = [float(a.sum()) for a in advantages_of(groups, config)]
        expected = [sum(sums)] if advantage == "global" else sums
        assert expected == pytest.approx([0.0] * len(expected), abs=1e-8)


@given(STEPS.filter(lambda step: len({r for rewards in step for r in rewards}) > 1))
def test_step_wide_normalisation_agrees_with_torch(step: list[list[float]]) -> None:
    groups = [group(rewards, position=p) for p, rewards in enumerate(step)]
    values = [torch.tensor(rewards, dtype=torch.float64) for rewards in step]
    together = torch.cat(values)
    for std, correction in (("population", 0), ("sample", 1)):
        config = AlgorithmConfig(advantage="global", advantage_std=std)  # type: ignore[arg-type]
        expected = (together - together.mean()) / (together.std(correction=correction) + 1e-6)
        np.testing.assert_allclose(
            np.concatenate(advantages_of(groups, config)), expected, atol=1e-10
        )
        centred = torch.cat([v - v.mean() for v in values])
        if centred.abs().max() < 1e-9:
            continue  # rounding alone; exactly 0 with us
        config = AlgorithmConfig(advantage="global_baseline", advantage_std=std)  # type: ignore[arg-type]
        expected = centred / (centred.std(correction=correction) + 1e-6)
        np.testing.assert_allclose(
            np.concatenate(advantages_of(groups, config)), expected, atol=1e-9
        )


def test_mixed_is_about_correctness_and_not_about_rewards() -> None:
    """An overlong punishment makes the rewards of two wrong answers differ; DAPO draws that prompt anew."""
    assert is_mixed(group([1, 0, 0]))
    assert not is_mixed(group([1, 1])) and not is_mixed(group([0, 0]))
    punished = group([0, -0.5])
    assert carries_signal(punished) and not is_mixed(punished)


def test_only_step_wide_advantages_need_the_whole_step() -> None:
    assert not needs_the_whole_step(AlgorithmConfig(advantage="group"))
    assert not needs_the_whole_step(AlgorithmConfig(advantage="rloo"))
    assert needs_the_whole_step(AlgorithmConfig(advantage="global"))
    assert needs_the_whole_step(AlgorithmConfig(advantage="global_baseline"))
    assert needs_the_whole_step(AlgorithmConfig(advantage="my.module:function"))


def test_no_groups_have_no_advantages() -> None:
    for advantage in ADVANTAGES:
        assert advantages_of([], AlgorithmConfig(advantage=advantage)) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_names_prompt_and_response(bad: float) -> None:
    poisoned = group([1, 0, 0], position=4)
    broken = replace(
        poisoned.responses[1], verdict=Verdict(reward=bad, status="error", reason="sympy")
    )
    poisoned = replace(poisoned, responses=(poisoned.responses[0], broken, poisoned.responses[2]))
    with pytest.raises(ValueError, match=r"prompt p4 .*p4\.1 has reward (nan|inf|-inf).*sympy"):
        advantages_of([group([1, 0]), poisoned], AlgorithmConfig())
    with pytest.raises(ValueError, match="p4"):
        carries_signal(poisoned)


def test_an_empty_group_is_named() -> None:
    with pytest.raises(ValueError, match=r"prompt p3 \(position 3\) has no responses"):
        advantages_of([group([], position=3)], AlgorithmConfig())


AnyFunction = Callable[..., object]


@pytest.fixture
def install(request: pytest.FixtureRequest) -> Callable[[AnyFunction], AlgorithmConfig]:
    """Puts a function where an import path finds it: a module of this test alone."""

    def into_module(function: AnyFunction) -> AlgorithmConfig:
        module = ModuleType("advantages_of_a_user")
        module.chosen = function  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        request.addfinalizer(lambda: sys.modules.pop(module.__name__))
        load_user_function.cache_clear()
        return AlgorithmConfig(advantage="advantages_of_a_user:chosen")

    return into_module


def test_a_function_of_the_user_sees_all_groups(
    install: Callable[[AnyFunction], AlgorithmConfig],
) -> None:
    def best_minus_worst(
        groups: Sequence[ResponseGroup], config: AlgorithmConfig
    ) -> list[np.ndarray]:
        return [np.where(g.rewards == g.rewards.max(), 1.0, -1.0) for g in groups]

    config = install(best_minus_worst)
    check_custom_functions(config)
    first, second = advantages_of([group([1, 0]), group([0, 0, 1])], config)
    assert (first.tolist(), second.tolist()) == ([1, -1], [-1, -1, 1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda groups, config: [np.zeros(2)],
            r"shapes \[\(2,\)\] for groups of shapes \[\(3,\)\]",
        ),
        (lambda groups, config: [], r"shapes \[\] for groups of shapes \[\(3,\)\]"),
        (lambda groups, config: None, "returned NoneType"),
        (lambda groups, config: [["a", "b", "c"]], "not a list of arrays"),
        (lambda groups, config: [np.array([1, np.nan, 0])], r"nan.* for prompt p0"),
        (lambda groups, config: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_function_of_the_user_does_wrong_is_named(
    install: Callable[[AnyFunction], AlgorithmConfig], function: AnyFunction, message: str
) -> None:
    config = install(function)
    with pytest.raises(
        ValueError, match=rf"algorithm.advantage=advantages_of_a_user:chosen .*{message}"
    ):
        advantages_of([group([1, 0, 0])], config)


def test_a_function_of_the_user_may_take_the_history(
    install: Callable[[AnyFunction], AlgorithmConfig],
) -> None:
    """2 right and 6 wrong before, twice as much of the rewards as of the pass rate."""

    def take_from_the_past(groups: Any, config: Any, history: Any) -> list[Any]:
        return [
            2 * group.rewards - record.correct / (record.correct + record.wrong)
            for group, record in zip(groups, history, strict=True)
        ]

    seen = replace(group([1, 0]), record=PromptRecord(correct=2.0, wrong=6.0))
    config = install(take_from_the_past)
    check_custom_functions(config)
    [advantages] = advantages_of([seen], config)
    assert advantages == pytest.approx([1.75, -0.25])


def test_a_function_with_another_signature_is_refused_at_the_start(
    install: Callable[[AnyFunction], AlgorithmConfig],
) -> None:
    with pytest.raises(ValueError, match=r"chosen\(rewards\) cannot take \(groups, config\)"):
        check_custom_functions(install(lambda rewards: rewards))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:function", "there is no module 'no_such_package'"),
        ("math:no_such_function", "has no function 'no_such_function'"),
        ("time:no_such_function", "time has no function 'no_such_function'"),  # it has no file
        ("math:pi", "pi is no function but of type float"),
    ],
)
def test_a_function_that_is_not_there_is_refused_at_the_start(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.advantage={path}.*{message}"):
        check_custom_functions(AlgorithmConfig(advantage=path))


@pytest.mark.parametrize("value", ["grpo", "a.b", "a b:c", ":f", "module:"])
def test_what_is_neither_a_name_nor_a_path_is_refused_by_the_config(value: str) -> None:
    with pytest.raises(ValueError, match=rf"algorithm.advantage={value} is neither one of group"):
        AlgorithmConfig(advantage=value)
