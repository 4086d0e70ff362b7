from __future__ import annotations

import json
import math

import pytest

from megatron_ar3po.comparison.curves import (
    Spent,
    accuracy_at,
    costs_of,
    curve_of,
    no_signal_share,
    read_curve,
    spent_until,
)


def step_row(step: int, accuracy: float | None = None, **values: float) -> dict:
    row = {
        "step": step,
        "rollout/responses_generated": 100,
        "rollout/tokens_generated": 500,
        "rollout/prompts": 16,
        "group/signal_groups": 8,
        "time/step_s": 2.0,
        "time/evaluation_s": 50.0,
        "eval/responses": 1024,
        **values,
    }
    return row if accuracy is None else {**row, "eval/pass_at_1": accuracy}


ROWS = [
    {"step": 0, "eval/pass_at_1": 0.4},
    step_row(1),
    step_row(2, 0.6),
    step_row(3),
    step_row(4, 0.5),
    step_row(5, 0.9),
]


def test_a_curve_counts_what_was_spent_until_each_evaluation_and_not_the_evaluation_itself() -> (
    None
):
    curve = curve_of(ROWS)
    assert [p.accuracy for p in curve.points] == [0.4, 0.6, 0.5, 0.9]
    assert [p.responses for p in curve.points] == [0, 200, 400, 500]
    assert [p.tokens for p in curve.points] == [0, 1000, 2000, 2500]
    assert [p.seconds for p in curve.points] == [0, 4, 8, 10]
    assert curve.num_steps == 5


def test_what_a_kill_made_a_run_do_again_counts_once_along_its_curve_and_twice_in_what_it_spent() -> (
    None
):
    """100 responses of 5 tokens a step. Killed after step 3 and resumed from step 1: the total stands at 300, of which
    200 are done again. Steps 2 and 3 take their 100 each from the response log: 100 are left to be done again after the
    one, none after the other, and the total stays. A second kill, in step 5, loses 50 for good."""
    totals = {2: (300, 100), 3: (300, 0), 4: (400, 0), 5: (550, 50)}
    rows = [
        {"step": 0, "eval/pass_at_1": 0.4},
        step_row(1, **{"rollout/responses_total": 100, "rollout/tokens_total": 500}),
        *(
            step_row(
                step,
                step / 10,
                **{
                    "rollout/responses_total": total,
                    "rollout/tokens_total": 5 * total,
                    "rollout/cost/redone_responses_total": redone,
                    "rollout/cost/redone_tokens_total": 5 * redone,
                },
            )
            for step, (total, redone) in totals.items()
        ),
    ]
    curve = curve_of(rows)
    assert [p.responses for p in curve.points] == [0, 200, 300, 400, 500]
    assert [p.tokens for p in curve.points] == [0, 1000, 1500, 2000, 2500]
    assert [s.responses for s in curve.steps] == [100, 200, 300, 400, 500]
    assert curve.spent == {"responses": 550, "tokens": 2750, "seconds": 10}
    assert curve_of(rows, 300).points[-1].step == 3


def test_what_comes_after_the_budget_is_left_out_however_late_a_run_was_stopped() -> None:
    """350 responses: the evaluation at 400 is the first at or beyond them."""
    assert curve_of(ROWS, 350) == curve_of(ROWS[:5], 350)
    assert curve_of(ROWS, 350).points[-1].responses == 400


def test_accuracy_between_two_evaluations_lies_on_the_straight_line() -> None:
    """0.4 at 0, 0.6 at 200: 0.45 at 50. 0.6 at 200, 0.5 at 400: 0.55 at 300."""
    curve = curve_of(ROWS)
    assert accuracy_at(curve, "responses", 0) == 0.4
    assert accuracy_at(curve, "responses", 50) == pytest.approx(0.45)
    assert accuracy_at(curve, "responses", 300) == pytest.approx(0.55)
    assert accuracy_at(curve, "seconds", 9) == pytest.approx(0.7)
    assert accuracy_at(curve, "tokens", 2500) == pytest.approx(0.9)
    assert accuracy_at(curve, "responses", 501) is None


def test_the_target_is_reached_at_the_first_crossing() -> None:
    """0.5 lies half-way from 0.4 at 0 to 0.6 at 200 responses; that the curve falls back later does not count."""
    curve = curve_of(ROWS)
    assert spent_until(curve, "responses", 0.5).low == pytest.approx(100)
    assert spent_until(curve, "responses", 0.7).low == pytest.approx(450)
    assert spent_until(curve, "seconds", 0.7).low == pytest.approx(9)
    assert spent_until(curve, "seconds", 0.7).is_exact


def test_a_crossing_that_no_evaluation_saw_is_known_from_one_side() -> None:
    """Never within 500 responses: at least 500. By the first evaluation, at 200 responses: at most 200."""
    assert spent_until(curve_of(ROWS), "responses", 0.95) == Spent(500, math.inf)
    assert spent_until(curve_of(ROWS), "responses", 0.4) == Spent(0, 0)  # before it was trained
    assert spent_until(curve_of(ROWS[1:]), "responses", 0.5) == Spent(0, 200)


def test_the_costs_of_dapo_are_per_prompt_drawn_per_filled_slot_and_per_signal_group() -> None:
    """64 responses for 8 prompts and 96 for 12; 4 groups kept in each: 160 / 20 = 8, 160 / 8 = 20, 160 / 8 = 20."""
    rows = [
        {
            "rollout/responses_generated": 8 * prompts,
            "rollout/prompts": prompts,
            "rollout/responses_per_filled_slot": 8 * prompts / 4,
            "group/signal_groups": 4,
            "group/mixed_frac": 1.0,
        }
        for prompts in (8, 12)
    ]
    costs = costs_of(rows)
    assert costs.responses_per_prompt == pytest.approx(8)
    assert costs.responses_per_filled_slot == pytest.approx(20)
    assert costs.responses_per_signal_group == pytest.approx(20)
    assert costs.signal_share == pytest.approx(0.4)
    assert costs.outcomes["mixed"] == pytest.approx(1.0)


def test_shares_of_groups_weigh_by_the_groups_a_step_kept() -> None:
    """16 groups of which all are mixed, 4 of which none is, half of them as their verifier failed: 16 / 20, 2 / 20."""
    rows = [
        {"rollout/prompts": 16, "group/mixed_frac": 1.0, "group/all_wrong_frac": 0.0},
        {
            "rollout/prompts": 4,
            "group/mixed_frac": 0.0,
            "group/all_wrong_frac": 0.5,
            "group/verifier_error_frac": 0.5,
        },
    ]
    assert costs_of(rows).outcomes == pytest.approx(
        {"mixed": 0.8, "all_wrong": 0.1, "all_correct": 0, "rescued": 0, "verifier_error": 0.1}
    )


def test_steps_without_signal_have_no_cost_per_signal_group() -> None:
    costs = costs_of([{"rollout/responses_generated": 8, "rollout/prompts": 2}])
    assert (costs.responses_per_signal_group, costs.responses_per_prompt) == (None, 4)


def test_prompts_without_signal_are_counted_at_equal_responses() -> None:
    """4 prompts with 3 signal groups for 20 responses, then 4 with 1 for 30: a quarter at 20, half at 50 (and at 21,
    which the second step is needed for)."""
    shared = {"rollout/prompts": 4}
    rows = [
        {"step": 0, "eval/pass_at_1": 0.4},
        step_row(1, **shared, **{"rollout/responses_generated": 20, "group/signal_groups": 3}),
        step_row(2, 0.5, **shared, **{"rollout/responses_generated": 30, "group/signal_groups": 1}),
    ]
    curve = curve_of(rows)
    assert no_signal_share(curve, 20) == 0.25
    assert no_signal_share(curve, 21) == no_signal_share(curve, 50) == 0.5
    assert no_signal_share(curve_of(rows[:1]), 20) is None


def test_late_costs_are_those_of_the_last_quarter_of_the_steps() -> None:
    rows = [{"step": 0, "eval/pass_at_1": 0.4}, *(step_row(s) for s in range(1, 8))]
    rows.append(step_row(8, 0.5, **{"rollout/responses_generated": 60}))
    curve = curve_of(rows)
    assert curve.costs.responses_per_prompt == pytest.approx(760 / 128)
    assert curve.late_costs.responses_per_prompt == pytest.approx(160 / 32)


def test_a_run_without_an_evaluation_is_named(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="wrote no metrics"):
        read_curve(path)
    path.write_text(json.dumps(step_row(1)) + "\n")
    with pytest.raises(ValueError, match=r"no evaluation.*evaluation\.every_steps"):
        read_curve(path)
