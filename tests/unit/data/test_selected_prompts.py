"""A step's prompts chosen by what they have shown, against a made-up policy; that a real run resumes with the same
choice at another data-parallel size is shown in tests/e2e."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.prompt_visits import PromptVisits
from megatron_ar3po.data.selected_prompts import SelectedPrompts, check_selection, draws_of
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.records import Max
from megatron_ar3po.types import Prompt

DECAY = 0.5


def make_prompts(num: int) -> list[Prompt]:
    return [Prompt(prompt_id=f"{i:032x}", token_ids=(i,), ground_truth="7") for i in range(num)]


def make_order(
    prompts: list[Prompt],
    selection: str = "weighted",
    *,
    exploration_frac: float = 0.25,
    rows: list[dict[str, Any]] | None = None,
    cursor: dict[str, Any] | None = None,
) -> tuple[SelectedPrompts, PromptVisits]:
    source = PromptSource(prompts, seed=3, shuffle=True)
    if cursor:
        source.restore(cursor)
    visits = PromptVisits(prompts, decay=DECAY)
    visits.replay(rows or [])
    order = SelectedPrompts(
        source,
        visits,
        selection=selection,
        exploration_frac=exploration_frac,
        seed=3,
        num_draws=draws_of(cursor or {}),
    )
    return order, visits


def take_step(
    order: SelectedPrompts, visits: PromptVisits, step: int, *sizes: int, learns: bool = True
) -> list[str]:
    order.start_step()
    drawn = [p for size in sizes or (8,) for p in order.next_batch(size)]
    assert [p.position for p in drawn] == list(range(len(drawn)))
    ids = [p.prompt.prompt_id for p in drawn]
    if learns:
        visits.learn(step, [outcome(step, prompt_id) for prompt_id in ids])
    return ids


def outcome(step: int, prompt_id: str) -> PromptOutcome:
    correct = 2 * ((int(prompt_id, 16) + step) % 2)
    return PromptOutcome(prompt_id=prompt_id, source="", responses=2, correct=correct, tokens=6)


def test_every_prompt_comes_again_within_the_steps_that_the_floor_promises():
    """40 prompts, 2 of 8 in epoch order: all within any 20 steps, although the weights favour one alone."""
    order, visits = make_order(make_prompts(40), f"{__name__}:only_the_first")
    steps = [take_step(order, visits, step) for step in range(1, 41)]
    assert all(len(set(ids)) == len(ids) for ids in steps)
    for first in (0, 20):
        assert len({i for ids in steps[first : first + 20] for i in ids}) == 40
    assert order.records["selection/visited_frac"] == Max(1.0)
    # Two steps of the same half may lie an epoch's both ends apart.
    longest = order.records["selection/longest_wait_steps"]
    assert longest.value < 40


def only_the_first(counts):
    weights = np.zeros(len(counts))
    weights[0] = 1.0
    return weights


def test_where_too_few_prompts_have_a_weight_the_epochs_order_fills_the_step():
    order, visits = make_order(make_prompts(40), f"{__name__}:only_the_first")
    assert len(take_step(order, visits, 1)) == 8
    assert order.records["selection/chosen_prompts"].value <= 1
    assert len(take_step(order, visits, 2, 39, 8)) == 40


def test_a_draw_has_its_share_in_epoch_order_first_and_at_least_one():
    prompts = make_prompts(40)
    for frac, num in ((0.25, 2), (0.01, 1), (1.0, 8)):
        order, visits = make_order(prompts, exploration_frac=frac)
        plain = PromptSource(prompts, seed=3, shuffle=True)
        epoch = [p.prompt.prompt_id for p in plain.next_batch(num)]
        assert take_step(order, visits, 1)[:num] == epoch
        assert order.records["selection/explored_prompts"] == Max(num)
        assert order.records["selection/chosen_prompts"] == Max(8 - num)


@pytest.mark.parametrize("selection", ["weighted", "thompson", f"{__name__}:unvisited_first"])
@pytest.mark.parametrize("done", [0, 3, 5])
def test_a_resume_draws_the_same_prompts(selection: str, done: int):
    """Two draws a step, as dynamic sampling makes; rows come from the ledger in another order."""
    prompts = make_prompts(60)
    order, visits = make_order(prompts, selection)
    rows, cursor, expected = [], order.cursor, []
    for step in range(1, 9):
        ids = take_step(order, visits, step, 5, 4)
        rows += [(step, prompt_id) for prompt_id in ids]
        if step == done:
            cursor = json.loads(json.dumps(order.cursor))
        if step > done:
            expected.append(ids)
    there = [outcome_row(step, i) for step, i in sorted(rows, reverse=True) if step <= done]
    there.sort(key=lambda row: row["step"])  # as `rows_of_run` does, replica by replica
    resumed, again = make_order(prompts[::-1], selection, rows=there, cursor=cursor)
    assert [take_step(resumed, again, s, 5, 4) for s in range(done + 1, 9)] == expected


def unvisited_first(counts):
    return 1.0 / (1.0 + counts.visits) ** 2


def outcome_row(step: int, prompt_id: str) -> dict[str, Any]:
    from megatron_ar3po.algorithm.history import outcome_in

    row = LEDGER_ROW | {"step": step, "prompt_id": prompt_id}
    row["correct"] = outcome(step, prompt_id).correct
    assert outcome_in(row) == outcome(step, prompt_id)
    return row


LEDGER_ROW: dict[str, Any] = {"kind": "prompt", "source": "", "responses": 2, "response_tokens": 6}


def test_counts_decay_at_each_visit_and_a_visit_that_failed_teaches_nothing():
    """2 correct, then 2 wrong, then none graded: 1 and 2 are left, at 3 visits."""
    prompts = make_prompts(2)
    visits = PromptVisits(prompts, decay=DECAY)
    name = prompts[0].prompt_id
    for step, (responses, correct) in enumerate([(2, 2), (2, 0), (0, 0)], start=1):
        visits.learn(
            step,
            [
                PromptOutcome(
                    prompt_id=name, source="", responses=responses, correct=correct, tokens=0
                )
            ],
        )
    index, counts = visits.index_of(name), visits.counts
    assert (counts.correct[index], counts.wrong[index]) == (1.0, 2.0)
    assert (counts.visits[index], counts.last_step[index], counts.step) == (3, 3, 3)
    assert counts.visits.sum() == 3 and visits.num_bytes == 2 * 28


def test_rows_that_were_abandoned_and_prompts_that_are_gone_count_nowhere():
    visits = PromptVisits(make_prompts(2), decay=DECAY)
    visits.replay([outcome_row(1, f"{0:032x}") | {"abandoned": True}, outcome_row(1, f"{9:032x}")])
    assert not visits.counts.visits.any()


def test_favoured_prompts_come_more_often():
    """Half of the prompts are solved always, half every other time."""
    order, visits = make_order(make_prompts(40))
    seen: Counter[bool] = Counter()
    for step in range(1, 60):
        order.start_step()
        ids = [p.prompt.prompt_id for p in order.next_batch(8)]
        learnt = []
        for prompt_id in ids:
            is_mixed = int(prompt_id, 16) % 2 == 1
            correct = 1 if is_mixed else 2
            learnt.append(
                PromptOutcome(
                    prompt_id=prompt_id, source="", responses=2, correct=correct, tokens=6
                )
            )
            seen[is_mixed] += 1
        visits.learn(step, learnt)
    assert seen[True] > 1.2 * seen[False]


def test_a_selection_that_starves_prompts_or_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"exploration_frac=0 with data\.selection=weighted starves"
    ):
        DataConfig(selection="weighted", exploration_frac=0.0)
    DataConfig(exploration_frac=0.0)  # epoch
    with pytest.raises(ValueError, match=r"data\.selection=hardest is neither one of epoch"):
        DataConfig(selection="hardest")
    with pytest.raises(
        ValueError, match=r"has no function 'nothing'; define it as: def nothing\(counts\)"
    ):
        check_selection(DataConfig(selection=f"{__name__}:nothing"))
