"""What a prompt's history learns of a step, live and from the ledger's rows: the same."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, make_errored, make_scored

from megatron_ar3po.algorithm import history as history_module
from megatron_ar3po.algorithm.history import PromptHistory, outcomes_of
from megatron_ar3po.prompt_record import PromptOutcome, PromptRecord
from megatron_ar3po.rollout.ledger_rows import prompt_row
from megatron_ar3po.rollout.lessons import Lessons
from megatron_ar3po.types import Prompt, ResponseGroup

PRIOR = 1.0  # Beta(1, 1)


def learn_and_replay(learnt: ResponseGroup) -> PromptHistory:
    """Checks that a resumed run, which has the ledger's row alone, knows what the run knew that went on."""
    history, resumed = PromptHistory(), PromptHistory()
    history.learn(5, outcomes_of([learnt]))
    resumed.replay([prompt_row(learnt, step=5, policy_version=4, is_discarded=False)])
    assert history.beta("p0") == resumed.beta("p0")
    stages = (4, 4)
    assert history.likely_chain_tokens("p0", stages) == resumed.likely_chain_tokens("p0", stages)
    return history


def test_an_aborted_response_is_neither_right_nor_wrong_and_has_no_length() -> None:
    """One right of 3 tokens, one wrong of 3, two that a cancel cut off after 9: Beta(2, 2) and a length of 3."""
    solved = group([1.0, 0.0])
    cut_off = tuple(
        make_scored(0.0, prompt_id="p0", name=name, num_tokens=9, finish_reason="abort")
        for name in ("c0", "c1")
    )
    history = learn_and_replay(replace(solved, responses=(*solved.responses, *cut_off)))
    assert history.beta("p0") == (PRIOR + 1, PRIOR + 1)
    assert history.likely_chain_tokens("p0", ()) == 3.0


def test_a_response_that_the_verifier_failed_for_teaches_nothing() -> None:
    """One right of 3 tokens, two failures of 9: Beta(2, 1) and a length of 3."""
    failed = make_errored(num_tokens=9)
    history = learn_and_replay(replace(group([1.0]), left_out=(failed, failed)))
    assert history.beta("p0") == (PRIOR + 1, PRIOR)
    assert history.likely_chain_tokens("p0", ()) == 3.0
    assert not learn_and_replay(replace(group([]), left_out=(failed,))).is_known("p0")


def test_of_a_prompt_whose_responses_were_all_aborted_nothing_is_known() -> None:
    cut_off = make_scored(0.0, prompt_id="p0", num_tokens=9, finish_reason="abort")
    history = learn_and_replay(replace(group([0.0]), responses=(cut_off,)))
    assert not history.is_known("p0") and history.beta("p0") == (PRIOR, PRIOR)


def test_rows_of_steps_that_a_resume_does_again_are_not_learnt_twice() -> None:
    """One right and one wrong, abandoned and done again: Beta(2, 2), as in the run that was never killed."""
    row = prompt_row(group([1.0, 0.0]), step=5, policy_version=4, is_discarded=False)
    resumed = PromptHistory()
    resumed.replay([{**row, "abandoned": True}, row])
    assert resumed.beta("p0") == (PRIOR + 1, PRIOR + 1)


def prompt_rows(step: int, *outcomes: tuple[str, str, int, int]) -> list[dict[str, object]]:
    """(prompt, source, responses, correct) each."""
    return [
        {
            "kind": "prompt",
            "step": step,
            "prompt_id": prompt_id,
            "source": source,
            "responses": responses,
            "response_tokens": 3 * responses,
            "correct": correct,
        }
        for prompt_id, source, responses, correct in outcomes
    ]


def prompt(prompt_id: str, source: str = "") -> Prompt:
    return Prompt(prompt_id=prompt_id, source=source, token_ids=(1,), ground_truth="7")


def test_a_record_holds_the_decayed_counts_of_the_visits_and_the_pooled_pass_rate() -> None:
    """Decay 0.5. p0: 1 of 1, then 0 of 1: 0.5 right and 1 wrong after the second visit, 0.25 and 0.5 for the third.
    All: 1 right and 1 wrong in step 1; in step 2, after the decay, 0.5 right and 0.5 + 1 wrong: (1 + .5) / (2 + 2)."""
    history = PromptHistory(decay=0.5)
    history.replay(prompt_rows(1, ("p0", "", 1, 1), ("p1", "", 1, 0)))
    history.replay(prompt_rows(2, ("p0", "", 1, 0)))
    record = history.record(prompt("p0"))
    assert (record.correct, record.wrong, record.last_step) == (0.25, 0.5, 2)
    assert record.pooled_mean == 1.5 / 4 and record.length_tokens == 3.0
    assert history.record(prompt("never seen")) == PromptRecord(pooled_mean=1.5 / 4)


def test_the_pass_rate_may_be_that_of_the_source() -> None:
    history = PromptHistory(pooled="source")
    history.replay(prompt_rows(1, ("p0", "easy", 2, 2), ("p1", "hard", 4, 0)))
    assert history.record(prompt("new", "easy")).pooled_mean == 3 / 4
    assert history.record(prompt("new", "hard")).pooled_mean == 1 / 6
    assert history.record(prompt("new", "other")).pooled_mean == 1 / 2


def test_with_a_half_life_counts_age_with_every_response_of_the_run() -> None:
    """Four prompts, half-life 2: eight responses halve. p0 is 1 of 1; then p1 has eight responses and p0 none: p0's
    count is 1 * 2^-(1/8) * 1/2. Seen again, wrong, it is that and 1 wrong, and 2^-(1/8) of both for the next visit."""
    history = PromptHistory(decay=1.0, half_life=2.0, num_prompts=4)
    history.replay(prompt_rows(1, ("p0", "", 1, 1)))
    history.replay(prompt_rows(2, ("p1", "", 8, 0)))
    eighth = 0.5 ** (1 / 8)
    assert history.record(prompt("p0")).correct == pytest.approx(eighth / 2)
    assert history.beta("p1") == pytest.approx((1.0, 1 + 8 / 2))
    history.replay(prompt_rows(3, ("p0", "", 1, 0)))
    record = history.record(prompt("p0"))
    assert record.correct == pytest.approx(eighth / 2 * eighth)
    assert record.wrong == pytest.approx(eighth)


def test_a_success_is_as_likely_as_the_posterior_says() -> None:
    """Never seen, weight 0.5, pooled 1/2, one wrong: Beta(.25, 1.25), one more is right with .25 / 1.5."""
    history = PromptHistory()
    assert history.success_frac(prompt("new"), 1, num_wrong=1) == pytest.approx(1 / 6)
    assert history.success_frac(prompt("new"), 1) == pytest.approx(1 / 2)


def test_a_prompt_takes_at_most_100_bytes_however_many_there_are() -> None:
    """The index doubles, so the worst is just after that; benchmarks/history.py measures a million."""
    history, largest = PromptHistory(), 0.0
    for number in range(1, 6_000):
        history.learn(
            1, [PromptOutcome(prompt_id=f"p{number}", source="", responses=1, correct=1, tokens=3)]
        )
        if number > 500:
            largest = max(largest, history.num_bytes / number)
    assert largest <= 100
    assert all(history.is_known(f"p{number}") for number in range(1, 6_000))
    assert not history.is_known("p6000")


def test_history_does_not_depend_on_who_rolled_out_which_prompt() -> None:
    """One replica, two, and a resume from rows in yet another order: the same records, to the bit."""
    steps = [[group([1, 0, 0], position=p, step=s) for p in range(s, s + 4)] for s in range(1, 6)]
    alone, resumed = PromptHistory(), PromptHistory()
    for number, groups in enumerate(steps, start=1):
        alone.learn(number, outcomes_of(groups))
    pair = [PromptHistory(), PromptHistory()]
    for number, groups in enumerate(steps, start=1):
        parts = [outcomes_of(groups[1::2]), outcomes_of(groups[::2])]
        for history in pair:
            Lessons(history, lambda mine, parts=parts: parts).learn(number)
    resumed.replay(
        prompt_row(g, step=number, policy_version=0, is_discarded=False)
        for number, groups in enumerate(steps, start=1)
        for g in reversed(groups)
    )
    for p in range(9):
        records = {h.record(prompt(f"p{p}")) for h in (alone, *pair, resumed)}
        assert len(records) == 1


def test_the_examples_of_the_docstrings_hold() -> None:
    results = doctest.testmod(history_module)
    assert results.failed == 0 and results.attempted >= 2
