"""Every generated response is counted once, in one class. Rows here are as `rollout/ledger_rows.py` writes them."""

from __future__ import annotations

import random

import pytest

from megatron_ar3po.records import Records, Sum
from megatron_ar3po.sampling_cost import (
    APART,
    CLASSES_OF_RUN,
    NOTHING,
    SamplingCost,
    Spent,
    check_totals,
    classes_of,
    cost_of,
    cost_records,
    metric_totals,
    restored_in,
    total_records,
)
from megatron_ar3po.usage import LedgerError


def prompt(step=1, responses=8, tokens=80, **fields):
    return {
        "kind": "prompt",
        "step": step,
        "responses": responses,
        "response_tokens": tokens,
        "discarded": False,
        **fields,
    }


# Of 12 responses 3 were cut off by early cancel, 2 by the server, 1 was unreadable and 1 got no verdict: 5 are graded.
TROUBLED = prompt(
    responses=12,
    tokens=100,
    cancelled=3,
    cancelled_tokens=12,
    aborted=2,
    aborted_tokens=9,
    unusable=1,
    unusable_tokens=4,
    ungraded=1,
    ungraded_tokens=10,
)


def spent(cost: SamplingCost) -> dict[str, tuple[int, int]]:
    return {name: (s.responses, s.tokens) for name, s in cost.classes.items() if s.responses}


def test_the_classes_of_a_step_add_up_to_what_was_generated():
    rows = [TROUBLED, prompt(), prompt(responses=4, tokens=40, discarded=True)]
    assert spent(cost_of(rows)) == {
        "kept": (5 + 8, 65 + 80),
        "discarded": (4, 40),
        "cancelled": (3, 12),
        "aborted": (2, 9),
        "unusable": (1, 4),
        "ungraded": (1, 10),
    }
    assert cost_of(rows).total == Spent(responses=24, tokens=220)
    records = cost_records(rows)
    assert records["rollout/responses_generated"] == Sum(24)
    assert records["rollout/tokens_generated"] == Sum(220)
    for name, (responses, tokens) in spent(cost_of(rows)).items():
        assert records[f"rollout/cost/{name}_responses"] == Sum(responses)
        assert records[f"rollout/cost/{name}_tokens"] == Sum(tokens)
    assert records["rollout/cost/restored_responses"] == Sum(0)


def test_what_a_resume_does_again_and_what_it_takes_from_the_log_are_counted_once():
    """Step 1 is kept. Step 2, 8 responses, is done again: 6 come from the log, 2 are drawn anew. Of step 3, which a
    kill cut short, 5 had come; 3 of them are taken over in the new one, and up to 9 were in flight."""
    rows = [
        prompt(1),
        prompt(2, abandoned=True),
        {
            "kind": "cut_short",
            "step": 3,
            "abandoned": True,
            "responses": 5,
            "response_tokens": 50,
            "in_flight_responses_max": 9,
            "in_flight_tokens_max": 288,
        },
    ]
    at_resume = cost_of(rows)
    assert spent(at_resume) == {"kept": (8, 80), "redone": (13, 130)}
    assert at_resume.in_flight_max == Spent(responses=9, tokens=288)
    rows += [
        prompt(2, restored=6, restored_tokens=60),
        prompt(3, restored=3, restored_tokens=30),
    ]
    cost = cost_of(rows)
    assert spent(cost) == {"kept": (24, 240), "redone": (4, 40)}
    assert cost.total.responses == 8 + 8 + 5 + 2 + 5
    assert metric_totals(cost) == {
        "rollout/responses_total": 28,
        "rollout/tokens_total": 280,
        "rollout/cost/redone_responses_total": 4,
        "rollout/cost/redone_tokens_total": 40,
    }


def test_a_response_that_is_restored_twice_was_generated_once():
    """Killed and resumed two times: the same 8 responses stand in three rows."""
    again = {"restored": 8, "restored_tokens": 80}
    rows = [prompt(abandoned=True), prompt(abandoned=True, **again), prompt(**again)]
    assert spent(cost_of(rows)) == {"kept": (8, 80)}


def test_evaluation_and_scoring_are_no_cost_of_training():
    rows = [
        {"kind": "evaluation", "responses": 32, "response_tokens": 90},
        {"kind": "scoring", "responses": 3, "tokens": 30},
        {"kind": "intent"},
        {"kind": "server", "requests": 35},
    ]
    cost = cost_of(rows)
    assert cost.total == Spent()
    assert (cost.evaluation, cost.num_scored) == (Spent(responses=32, tokens=90), 3)


def test_a_row_of_the_version_before_knows_no_class_but_cancelled():
    """There `responses` were the members of the group."""
    assert spent(cost_of([prompt(cancelled=2, cancelled_tokens=9)])) == {
        "kept": (6, 71),
        "cancelled": (2, 9),
    }


def test_metrics_that_are_not_what_the_ledger_says_end_the_run_with_both_numbers():
    totals = {"rollout/responses_total": 28.0, "rollout/tokens_total": 280.0}
    right = Records({"reward/mean": Sum(1)})
    right.add_all(total_records(Spent(responses=28, tokens=280)))
    check_totals(right, totals)
    assert right == {"reward/mean": Sum(1)}
    wrong = total_records(Spent(responses=28, tokens=279))
    with pytest.raises(LedgerError, match=r"tokens_total is 280, .* RUN/ledger come to 279"):
        check_totals(wrong, totals)
    check_totals(Records(), totals)  # a row of an evaluation alone


def test_the_sums_of_a_run_are_those_of_its_rows_whatever_they_hold():
    """Against the classes of each row, one after the other: 300 rows with every field at random, a fifth abandoned."""
    draw = random.Random(3)
    rows = []
    for _ in range(300):
        parts = {name: draw.randrange(3) for name in APART}
        tokens = {f"{name}_tokens": 5 * n for name, n in parts.items()}
        row = prompt(responses=20, tokens=400, restored=draw.randrange(4), **parts, **tokens)
        row |= {"discarded": draw.random() < 0.3, "restored_tokens": draw.randrange(50)}
        rows.append(row | ({"abandoned": True} if draw.random() < 0.2 else {}))
    expected = dict.fromkeys(CLASSES_OF_RUN, NOTHING)
    for row in rows:
        expected["redone"] -= restored_in(row)
        for name, of_class in classes_of(row).items():
            expected["redone" if row.get("abandoned") else name] += of_class
    assert cost_of(iter(rows)).classes == expected
