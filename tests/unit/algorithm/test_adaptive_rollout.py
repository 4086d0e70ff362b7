import random

import pytest
from fakes.expected_responses import expected_responses

from megatron_ar3po.algorithm.adaptive_rollout import next_stage_size


def test_unsolved_prompt_enters_the_next_stage_until_the_stages_are_over():
    assert [next_stage_size([4, 4, 4], [False] * stages) for stages in range(4)] == [4, 4, 4, 0]


def test_solved_prompt_retires_at_once():
    assert next_stage_size([4, 4, 4], [True]) == 0
    assert next_stage_size([4, 4, 4], [False, True]) == 0


def test_grpo_is_one_stage_of_all_responses():
    assert next_stage_size([8], []) == 8
    assert next_stage_size([8], [False]) == 0


def test_expected_responses_worked_by_hand():
    # p = 0: all S stages; p = 1: the first; p = 0.5, S = 2, k = 4: 4 * (1 + 0.5 ** 4)
    assert expected_responses(0.0, num_stages=2, responses_per_stage=4) == 8
    assert expected_responses(1.0, num_stages=2, responses_per_stage=4) == 4
    assert expected_responses(0.5, num_stages=2, responses_per_stage=4) == 4.25
    # p = 0.1, S = 3, k = 2: 2 * (1 + 0.81 + 0.6561)
    assert expected_responses(0.1, num_stages=3, responses_per_stage=2) == pytest.approx(4.9322)


def test_simulated_plan_meets_the_expectation():
    """20,000 prompts at p = 0.2, S = 3, k = 2; the standard error of the mean is about 0.013."""
    draw = random.Random(0)

    def responses() -> int:
        total, solved = 0, []
        while size := next_stage_size([2, 2, 2], solved):
            total += size
            solved.append(any(draw.random() < 0.2 for _ in range(size)))
        return total

    mean = sum(responses() for _ in range(20_000)) / 20_000
    expected = expected_responses(0.2, num_stages=3, responses_per_stage=2)  # 2 * (1 + .64 + .4096)
    assert expected == pytest.approx(4.0992)
    assert mean == pytest.approx(expected, abs=0.05)
