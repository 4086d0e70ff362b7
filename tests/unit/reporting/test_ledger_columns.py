"""Columns of a ledger: what a report counts prompts and responses with."""

import numpy as np
import pytest

from megatron_ar3po.reporting.ledger_columns import OUTCOMES, LedgerColumns


def prompt(step, position, prompt_id, correct, **more):
    row = {"kind": "prompt", "step": step, "position": position, "prompt_id": prompt_id}
    row |= {"responses": 4, "response_tokens": 40, "correct": correct, "outcome": "all_wrong"}
    return row | more


def test_a_prompt_that_borrowed_is_rescued_in_its_own_step_alone():
    columns = LedgerColumns()
    for row in (
        prompt(1, 0, "a", 0),
        prompt(1, 1, "b", 0),
        {"kind": "rescued", "step": 1, "positions": [1, 7]},
        prompt(2, 1, "b", 0),
        {"kind": "rescued", "step": 1, "positions": [1]},
    ):
        columns.add(row)
    names = [OUTCOMES[number] for number in columns.outcome]
    assert names == ["all_wrong", "rescued", "all_wrong"]
    assert columns["prompt"].tolist() == [0, 1, 1]


def test_a_solve_rate_is_that_of_graded_responses_over_the_whole_run():
    """`a`: 1 of 4, then 2 of the 3 that were not cut off: 3 of 7. `b` was never graded."""
    columns = LedgerColumns()
    columns.add(prompt(1, 0, "a", 1))
    columns.add(prompt(2, 0, "a", 2, cancelled=1))
    columns.add(prompt(2, 1, "b", 0, ungraded=4, outcome="verifier_error"))
    columns.add(prompt(3, 0, "a", 4, abandoned=True))
    assert columns.solve_rates[0] == pytest.approx(3 / 7)
    assert np.isnan(columns.solve_rates[1])
    assert columns["graded"].tolist() == [4, 3, 0]


def test_a_row_that_lacks_something_leaves_nothing_behind():
    columns = LedgerColumns()
    whole = prompt(1, 0, "a", 1)
    for name in ("correct", "outcome", "position", "prompt_id"):
        with pytest.raises(KeyError):
            columns.add({key: value for key, value in whole.items() if key != name})
    for name in ("correct", "stages", "responses"):
        with pytest.raises(TypeError):
            columns.add({**whole, name: "a lot"})
    assert (len(columns), len(columns["step"]), columns.solve_rates.shape) == (0, 0, (0,))
