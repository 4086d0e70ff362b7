"""What a prompt's history learns of a step, live and from the ledger's rows: the same."""

from __future__ import annotations

from dataclasses import replace

from fakes.algorithm_cases import group, make_errored, make_scored

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.rollout.ledger_rows import prompt_row
from megatron_ar3po.types import ResponseGroup

PRIOR = 1.0  # Beta(1, 1)


def learn_and_replay(learnt: ResponseGroup) -> PromptHistory:
    """Checks that a resumed run, which has the ledger's row alone, knows what the run knew that went on."""
    history, resumed = PromptHistory(), PromptHistory()
    history.learn([learnt])
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
