import numpy as np

from megatron_ar3po.evaluation import evaluation_records, pass_at_k
from megatron_ar3po.types import Response, ScoredResponse, Verdict


def answer(is_correct: bool) -> ScoredResponse:
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
    status = "correct" if is_correct else "incorrect"
    return ScoredResponse(response=response, verdict=Verdict(reward=0, status=status))


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
