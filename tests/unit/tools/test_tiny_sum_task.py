"""The running-sum task: its text, its teacher and how prompts are chosen."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tiny_sum_task import (
    MAX_RESPONSE_TOKENS,
    PROMPT_TOKENS,
    TASKS,
    Teacher,
    answer,
    choose_prompts,
    difficulty,
    draw_operands,
    prompt_text,
    records,
    response_text,
)


def teacher_with(error_rates: dict[tuple[int, int], float], shift: int = 1) -> Teacher:
    return Teacher(
        error_rate=tuple(tuple(error_rates.get((a, z), 0.0) for z in range(10)) for a in range(10)),
        shift=tuple((shift,) * 10 for _ in range(10)),
    )


def test_prompts_are_eight_characters_and_responses_fit_the_limit():
    assert prompt_text((3, 8)) == "3+8xxxx="
    assert prompt_text((3, 8, 4, 9)) == "3+8+4+9="
    assert PROMPT_TOKENS == 8
    assert response_text((1, 5, 4)) == "1;5;4"
    assert len("1;5;4") + 1 == MAX_RESPONSE_TOKENS
    assert answer((3, 8, 4)) == "5"


def test_a_teacher_without_misconceptions_writes_the_running_sums():
    teacher = teacher_with({})
    assert teacher.respond((3, 8, 4, 9), random.Random(0)) == (1, 5, 4)
    assert teacher.pass_rate((3, 8, 4, 9)) == 1.0


def test_a_misconception_shifts_one_sum_and_all_that_follow():
    # 3 + 8 is always taken for 2 instead of 1; 2 + 4 = 6, 6 + 9 = 5.
    teacher = teacher_with({(3, 8): 1.0})
    assert teacher.respond((3, 8, 4, 9), random.Random(0)) == (2, 6, 5)
    assert teacher.pass_rate((3, 8, 4, 9)) == 0.0


def test_the_closed_form_counts_errors_that_cancel_out():
    # 1 + 1: right (2) with 0.75, else 2 + 5 = 7. From 7, + 3 errs with 0.5: 0 right, 5 shifted.
    # From 2, + 3 errs with 0.1: 5 right, 0 shifted. The sum is 5: 0.75 * 0.9 + 0.25 * 0.5 = 0.8.
    teacher = teacher_with({(1, 1): 0.25, (7, 3): 0.5, (2, 3): 0.1}, shift=5)
    assert teacher.pass_rate((1, 1, 3)) == pytest.approx(0.8)


def test_the_closed_form_is_what_the_teacher_does():
    teacher, rng = Teacher.with_misconceptions(seed=3), random.Random(0)
    for operands in [(1, 7), (9, 2, 5), (4, 4, 8, 1)]:
        right = sum(teacher.respond(operands, rng)[-1] == sum(operands) % 10 for _ in range(4000))
        assert right / 4000 == pytest.approx(teacher.pass_rate(operands), abs=0.03)


def test_prompts_have_the_shares_of_difficulty_and_none_is_held_out_and_trained_on():
    teacher = Teacher.with_misconceptions(seed=0)
    train = choose_prompts(teacher, 300, "train 0")
    heldout = choose_prompts(teacher, 256, "heldout 0", avoid=train)
    assert len(train) == 300 and len(heldout) == 256
    assert not set(train) & set(heldout)
    assert all(difficulty(teacher.pass_rate(operands)) == name for operands, name in train.items())
    assert sum(teacher.pass_rate(operands) <= 0.2 for operands in train) >= 300 / 4
    assert 0.3 < sum(map(teacher.pass_rate, train)) / 300 < 0.5


def test_three_of_five_prompts_of_the_harder_task_start_near_zero():
    task = TASKS["tiny_sum_core"]
    teacher = Teacher.with_misconceptions(seed=0, task=task)
    train = choose_prompts(teacher, task.num_train, "train 0", task=task)
    rates = sorted(map(teacher.pass_rate, train))
    assert len(rates) == 120
    assert rates[71] <= 0.06 < rates[72]  # 72 of 120 are core
    assert sum(sum(rate > 0.5 for rate in row) for row in teacher.error_rate) >= 30


def test_prompts_of_the_wide_task_share_little():
    """A prompt of four operands goes through two places of nine hundred: its first addition, which every tenth prompt
    shares, is clean."""
    task = TASKS["tiny_sum_wide"]
    teacher = Teacher.with_misconceptions(seed=0, task=task)
    assert len(teacher.error_rate) == 100
    assert all(teacher.error_rate[11 * digit] == (0.01,) * 10 for digit in range(10))
    assert sum(rate > 0.9 for row in teacher.error_rate for rate in row) == 200
    train = choose_prompts(teacher, task.num_train, "train 0", task=task)
    assert len(train) == 2400 and all(len(operands) == 4 for operands in train)
    assert sum(teacher.pass_rate(operands) <= 0.1 for operands in train) >= 960
    additions = Counter()
    for operands in train:
        running = [sum(operands[:end]) % 10 for end in (2, 3)]
        additions.update(zip(operands[1:3], running, operands[2:], strict=True))
    assert sum(additions.values()) / len(additions) < 6  # prompts that go through one place


def test_where_the_operand_before_counts_the_rate_is_that_of_its_row():
    """After operand 2 with running sum 5, operand 4 is taught as 5 + 4 + 1: wrong in a fourth of the cases."""
    rates = [[0.0] * 10 for _ in range(100)]
    rates[25][4] = 0.25
    teacher = Teacher(
        error_rate=tuple(map(tuple, rates)), shift=tuple((1,) * 10 for _ in range(100))
    )
    assert teacher.pass_rate((3, 2, 4)) == 0.75
    assert teacher.pass_rate((2, 3, 4)) == 1.0  # the same sum after operand 3


def test_the_same_seed_gives_the_same_task_and_another_seed_another():
    teacher = Teacher.with_misconceptions(seed=0)
    assert teacher == Teacher.with_misconceptions(seed=0) != Teacher.with_misconceptions(seed=1)
    assert choose_prompts(teacher, 60, "a") == choose_prompts(teacher, 60, "a")
    assert choose_prompts(teacher, 60, "a") != choose_prompts(teacher, 60, "b")


def test_a_line_holds_prompt_answer_source_and_difficulty():
    (line,) = records({(3, 8, 4): "easy"}, teacher_with({}), "tiny_sum_train")
    assert line == {
        "prompt": "3+8+4xx=",
        "answer": "5",
        "source": "tiny_sum_train",
        "difficulty": "easy",
        "teacher_pass_rate": 1.0,
    }


def test_operands_are_two_to_four_digits():
    rng = random.Random(0)
    drawn = [draw_operands(rng) for _ in range(500)]
    assert {len(operands) for operands in drawn} == {2, 3, 4}
    assert {digit for operands in drawn for digit in operands} == set(range(10))
