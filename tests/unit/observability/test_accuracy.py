import itertools
from collections import Counter

import numpy as np
import pytest

from megatron_ar3po.observability.accuracy import (
    Mark,
    accuracy,
    accuracy_of_marks,
    evaluation_records,
    maj_at_k,
    pass_at_k,
)
from megatron_ar3po.records import Mean, Sum, merge_records
from megatron_ar3po.types import Response, ScoredResponse, Verdict


def answer(is_correct: bool | None) -> ScoredResponse:
    """None: the verifier failed."""
    response = Response(
        response_id="r",
        prompt_id="p",
        token_ids=np.zeros(3, np.int32),
        logprobs=np.zeros(3, np.float32),
        finish_reason="stop",
        policy_version=0,
        step=0,
        stage=1,
        index=0,
    )
    if is_correct is None:
        return ScoredResponse(response=response, verdict=Verdict(reward=None, status="error"))
    status = "correct" if is_correct else "incorrect"
    return ScoredResponse(response=response, verdict=Verdict(reward=0, status=status))


def answers(*marks: tuple[bool | None, ...]) -> list[list[ScoredResponse]]:
    return [[answer(mark) for mark in of_prompt] for of_prompt in marks]


def test_pass_at_1_is_the_share_of_right_samples_and_pass_at_2_of_solved_prompts():
    """Prompts with (1, 1), (1, 0), (0, 0) right: 3 of 6 samples, 2 of 3 prompts."""
    marks = [(True, True), (True, False), (False, False)]
    records = evaluation_records([[answer(m) for m in pair] for pair in marks])
    assert records["eval/pass_at_1"].value == 0.5
    assert records["eval/pass_at_2"].value == 2 / 3
    assert records["eval/prompts"].value == 3


def test_a_replica_without_prompts_weighs_nothing():
    assert evaluation_records([])["eval/prompts"].value == 0


def test_pass_at_k_of_one_right_in_four():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 0, 4) == 0.0


def test_accuracy_over_prompts_with_its_standard_error():
    """Four samples each; 4, 1 and 0 right. Rates 1, 1/4, 0: mean 5/12, standard deviation sqrt(0.2708) = 0.5204."""
    marks = [(True,) * 4, (True, False, False, False), (False,) * 4]
    found = accuracy([[answer(m) for m in four] for four in marks])
    assert (found.prompts, found.samples_per_prompt) == (3, 4)
    assert found.pass_at_1 == 5 / 12
    assert found.pass_at_1_stderr == pytest.approx(0.5204 / 3**0.5, abs=1e-4)
    assert found.pass_at_k == pytest.approx({1: 5 / 12, 2: 1.5 / 3, 4: 2 / 3})


def test_a_sample_that_the_verifier_failed_for_is_neither_right_nor_wrong():
    """Of two samples: (right, failed), (right, wrong), (failed, failed). Rates 1 and 1/2, the third prompt has none;
    two graded samples has the second prompt alone, and it is solved."""
    failing = answers((True, None), (True, False), (None, None))
    records = evaluation_records(failing)
    assert records["eval/pass_at_1"] == Mean(0.75, 2)
    assert records["eval/pass_at_2"] == Mean(1.0, 1)
    assert records["eval/verifier_errors"] == Sum(3)
    assert records["eval/responses"] == Sum(6)
    found = accuracy(failing)
    assert (found.pass_at_1, found.verifier_errors) == (0.75, 3)
    assert found.pass_at_k == {1: 0.75, 2: 1.0}


def test_an_evaluation_knows_how_sure_it_is_whatever_replica_had_which_prompt():
    """Rates 1, 1/2, 0 and 1/2 of four prompts: squares 0.5 around 1/2, so sqrt(0.5 / 3 / 4)."""
    first = evaluation_records(answers((True, True), (True, False)))
    second = evaluation_records(answers((False, False), (False, True)))
    merged = merge_records(first, second)["eval/pass_at_1_stderr"]
    assert merged.value == pytest.approx((0.5 / 3 / 4) ** 0.5)


def test_without_a_graded_response_there_is_no_accuracy():
    assert "eval/pass_at_1" not in evaluation_records(answers((None, None)))
    with pytest.raises(ValueError, match="the verifier failed for all 2 responses"):
        accuracy(answers((None, None)))


def test_one_sample_of_one_prompt_has_no_spread():
    found = accuracy([[answer(True)]])
    assert (found.pass_at_1, found.pass_at_1_stderr, found.pass_at_k) == (1, 0, {1: 1})


def chosen_by_hand(answers: list[str | None], k: int) -> float:
    """maj@k by going through all choices of k; "right" is right, and ties share."""
    shares = []
    for chosen in itertools.combinations(answers, k):
        votes = Counter(answer for answer in chosen if answer is not None)
        most = max(votes.values(), default=0)
        winners = [answer for answer, count in votes.items() if count == most]
        shares.append(("right" in winners) / max(len(winners), 1))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 7])
def test_maj_at_k_is_the_mean_over_all_choices_of_k(k):
    """Of 7 samples 3 are right, 2 say a, 1 says b, 1 says nothing."""
    answers = ["right"] * 3 + ["a"] * 2 + ["b", None]
    assert maj_at_k(3, [2, 1], 1, k) == pytest.approx(chosen_by_hand(answers, k))


def test_a_majority_that_is_wrong_is_wrong_and_a_tie_is_shared():
    assert maj_at_k(1, [2], 0, 3) == 0.0
    assert maj_at_k(2, [2], 0, 4) == 0.5
    assert maj_at_k(1, [1, 1], 1, 4) == pytest.approx(1 / 3)
    assert maj_at_k(0, [1], 3, 4) == maj_at_k(0, [], 4, 4) == 0.0


def test_right_answers_vote_together_however_they_are_spelled():
    """0.5 and 1/2 are one answer, two samples; 3 has two; the tie is shared. An answer of spaces is none."""
    marks = [Mark(True, "0.5"), Mark(True, "1/2"), Mark(False, "3"), Mark(False, " 3 ")]
    assert accuracy_of_marks([[*marks, Mark(False, " ")]]).maj_at_k[5] == 0.5


def test_a_sample_that_is_not_graded_has_no_vote():
    found = accuracy_of_marks([[Mark(True, "1"), Mark(None, "2")], [Mark(False, "3")] * 2])
    assert (found.pass_at_1, found.verifier_errors) == (0.5, 1)
    assert found.maj_at_k == {1: 0.5, 2: 0.0}  # at k = 2 the second prompt alone


def test_many_samples_of_a_prompt_take_no_time():
    """64 samples, 20 right, 22 answers of two each: right always wins with all of them."""
    assert maj_at_k(20, [2] * 22, 0, 64) == 1.0
    assert 20 / 64 < maj_at_k(20, [2] * 22, 0, 16) < 1.0
