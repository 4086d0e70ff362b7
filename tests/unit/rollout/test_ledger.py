import json

import numpy as np
import pytest

from megatron_ar3po.rollout.ledger import (
    Ledger,
    LedgerError,
    check_balance,
    outcome,
    parse_counters,
)
from megatron_ar3po.rollout.sglang_client import ServerUsage
from megatron_ar3po.types import (
    CollectedStep,
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    Verdict,
)


def scored(status="incorrect", *, tokens=3, finish_reason="stop", stage=1, index=0):
    response = Response(
        response_id=f"r{stage}{index}",
        prompt_id="ab",
        token_ids=np.zeros(tokens, dtype=np.int32),
        logprobs=np.zeros(tokens, dtype=np.float32),
        finish_reason=finish_reason,
        policy_version=5,
        step=2,
        stage=stage,
        index=index,
        server="dp0.s0",
        num_cached_tokens=1,
        elapsed_s=0.5,
    )
    return ScoredResponse(response=response, verdict=Verdict(reward=0.0, status=status))


def group(*responses, position=0):
    prompt = Prompt(prompt_id="ab", token_ids=(1, 2), ground_truth="1")
    return ResponseGroup(position=position, prompt=prompt, responses=responses)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ([scored("correct"), scored("correct")], "all_correct"),
        ([scored("correct"), scored("error")], "mixed"),
        ([scored(), scored("timeout")], "verifier_error"),
        (
            [scored(finish_reason="length"), scored("truncated", finish_reason="length")],
            "truncated",
        ),
        ([scored(), scored("truncated", finish_reason="length")], "all_wrong"),
    ],
)
def test_outcome_says_how_sampling_ended(responses, expected):
    assert outcome(group(*responses)) == expected


def test_one_row_per_prompt_and_step_discarded_ones_too(tmp_path):
    path = tmp_path / "ledger" / "dp00.jsonl"
    step = CollectedStep(
        groups=(group(scored(), scored("correct", tokens=5, stage=2)),),
        discarded=(group(scored(), position=1),),
    )
    Ledger(path).record_step(step, step=2, policy_version=5)
    first, second = rows(path)
    assert first == {
        "kind": "prompt",
        "step": 2,
        "position": 0,
        "prompt_id": "ab",
        "policy_version": 5,
        "outcome": "mixed",
        "discarded": False,
        "stages": 2,
        "responses": 2,
        "prompt_tokens": 4,
        "cached_prompt_tokens": 2,
        "response_tokens": 8,
        "truncated": 0,
        "request_s": 1.0,
        "servers": ["dp0.s0"],
    }
    assert (second["position"], second["discarded"]) == (1, True)


def test_evaluation_is_a_class_of_its_own(tmp_path):
    path = tmp_path / "dp00.jsonl"
    Ledger(path).record_evaluation([[scored(), scored(tokens=4)]], policy_version=5)
    assert rows(path) == [
        {
            "kind": "evaluation",
            "policy_version": 5,
            "prompts": 1,
            "responses": 2,
            "response_tokens": 7,
        }
    ]


def test_equal_books_become_a_row_per_server(tmp_path):
    usage = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=90, cached_prompt_tokens=30)
    path = tmp_path / "dp00.jsonl"
    Ledger(path, lambda: [("dp0.s0", 1, usage, usage)]).reconcile(step=3)
    assert rows(path) == [
        {
            "kind": "server",
            "step": 3,
            "server": "dp0.s0",
            "restarts": 1,
            "requests": 8,
            "prompt_tokens": 40,
            "cached_prompt_tokens": 30,
            "generated_tokens": 90,
            "lost_requests": 0,
        }
    ]


def test_unequal_books_end_the_run_with_both_numbers():
    ours = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=90)
    theirs = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=91)
    with pytest.raises(LedgerError, match="generated_tokens 90 here and 91 there"):
        check_balance("dp0.s0", ours, theirs)


def test_lost_requests_leave_room_for_as_many():
    ours = ServerUsage(requests=8, generated_tokens=90, lost_requests=2)
    check_balance("s", ours, ServerUsage(requests=9, generated_tokens=93))
    check_balance("s", ours, ServerUsage(requests=10, generated_tokens=96))
    with pytest.raises(LedgerError, match="2 requests were lost"):
        check_balance("s", ours, ServerUsage(requests=11, generated_tokens=99))
    with pytest.raises(LedgerError):  # it counted less than it answered
        check_balance("s", ours, ServerUsage(requests=7, generated_tokens=80))


def test_counters_are_read_from_the_prometheus_page():
    page = """# HELP sglang:num_requests_total Number of requests processed.
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{engine_type="unified",is_streaming="false",model_name="a b"} 1280.0
sglang:num_requests_total{engine_type="unified",is_streaming="true",model_name="a b"} 2.0
sglang:prompt_tokens_total{is_streaming="false"} 30720.0
sglang:generation_tokens_total{is_streaming="false"} 2.048e+04
sglang:http_requests_total{endpoint="/ready",method="GET"} 1.0
"""
    assert parse_counters(page) == ServerUsage(
        requests=1282, prompt_tokens=30720, generated_tokens=20480
    )
    assert parse_counters("") == ServerUsage()
