from dataclasses import replace

import numpy as np
import pytest

from megatron_ar3po.folder_owner import FolderOwnedError
from megatron_ar3po.rollout.ledger import Ledger, check_balance, check_rows
from megatron_ar3po.rollout.ledger_file import ledger_rows
from megatron_ar3po.rollout.ledger_rows import outcome
from megatron_ar3po.sampling_cost import Spent
from megatron_ar3po.servers.counters import parse_counters
from megatron_ar3po.types import (
    CollectedStep,
    FinishReason,
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    Scoring,
    StepPrompt,
    Verdict,
    VerdictStatus,
)
from megatron_ar3po.usage import LedgerError, ServerBook, ServerCounters, ServerUsage


def make_scored(
    status: VerdictStatus = "incorrect",
    *,
    tokens=3,
    finish_reason: FinishReason = "stop",
    stage=1,
    index=0,
):
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
    reward = None if status == "error" else 0.0
    return ScoredResponse(response=response, verdict=Verdict(reward=reward, status=status))


def group(*responses, position=0):
    prompt = Prompt(prompt_id="ab", token_ids=(1, 2), ground_truth="1")
    return ResponseGroup(
        position=position,
        prompt=prompt,
        responses=tuple(scored for scored in responses if scored.is_graded),
        left_out=tuple(scored for scored in responses if not scored.is_graded),
    )


def rows(path):
    return ledger_rows(path)


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ([make_scored("correct"), make_scored("correct")], "all_correct"),
        ([make_scored("correct"), make_scored("ungradable")], "mixed"),
        ([make_scored("correct"), make_scored("error")], "all_correct"),
        ([make_scored(), make_scored("error")], "all_wrong"),
        ([make_scored("ungradable"), make_scored("ungradable")], "all_wrong"),
        ([make_scored("error"), make_scored("error")], "verifier_error"),
        (
            [make_scored(finish_reason="length"), make_scored("truncated", finish_reason="length")],
            "truncated",
        ),
        ([make_scored(), make_scored("truncated", finish_reason="length")], "all_wrong"),
        ([make_scored("truncated", finish_reason="abort")], "cancelled"),
        ([make_scored("truncated", finish_reason="abort"), make_scored("correct")], "all_correct"),
    ],
)
def test_outcome_says_how_sampling_ended(responses, expected):
    assert outcome(group(*responses)) == expected


def test_one_row_per_prompt_and_step_discarded_ones_too(tmp_path):
    path = tmp_path / "ledger" / "dp00.jsonl"
    step = CollectedStep(
        groups=(group(make_scored(), make_scored("correct", tokens=5, stage=2)),),
        discarded=(group(make_scored(), position=1),),
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
        "stop_reason": "",
        "discarded": False,
        "stages": 2,
        "responses": 2,
        "correct": 1,
        "ungradable": 0,
        "ungraded": 0,
        "ungraded_tokens": 0,
        "prompt_tokens": 4,
        "cached_prompt_tokens": 2,
        "response_tokens": 8,
        "truncated": 0,
        "cancelled": 0,
        "cancelled_tokens": 0,
        "aborted": 0,
        "aborted_tokens": 0,
        "unusable": 0,
        "unusable_tokens": 0,
        "restored": 0,
        "restored_tokens": 0,
        "request_s": 1.0,
        "servers": ["dp0.s0"],
    }
    assert (second["position"], second["discarded"]) == (1, True)


def test_responses_that_the_verifier_failed_for_are_cost_and_counted_apart(tmp_path):
    """Right with 5 tokens, ungradable with 3, failed with 4 and 2: 14 tokens of 4 responses, as the server counted."""
    path = tmp_path / "dp00.jsonl"
    seen = ServerUsage(requests=4, generated_tokens=14)
    counted = ServerCounters(requests=4, generated_tokens=14)
    ledger = Ledger(
        path,
        lambda: [ServerBook(server="dp0.s0", restarts=0, ours=seen, theirs=counted)],
    )
    failed = (make_scored("error", tokens=4), make_scored("error", tokens=2, stage=2))
    step = CollectedStep(
        groups=(group(make_scored("correct", tokens=5), make_scored("ungradable"), *failed),)
    )
    ledger.record_step(step, step=2, policy_version=5)
    ledger.reconcile(step=2)
    row = rows(path)[0]
    expected = {
        "outcome": "mixed",
        "stages": 2,
        "responses": 4,
        "response_tokens": 14,
        "correct": 1,
        "ungradable": 1,
        "ungraded": 2,
        "ungraded_tokens": 6,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_response_from_the_log_is_in_the_row_and_not_counted_anew(tmp_path):
    """Of two with 5 and 3 tokens the first was drawn by a process that was killed: the servers answered one."""
    restored = make_scored("correct", tokens=5)
    seen = ServerUsage(requests=1, generated_tokens=3)
    theirs = ServerCounters(requests=1, generated_tokens=3)
    books = [ServerBook(server="dp0.s0", restarts=0, ours=seen, theirs=theirs)]
    ledger = Ledger(tmp_path / "dp00.jsonl", lambda: books)
    step = CollectedStep(
        groups=(group(restored, make_scored(index=1)),),
        restored=frozenset({restored.response.response_id}),
    )
    (row,) = ledger.record_step(step, step=2, policy_version=5)
    ledger.reconcile(step=2)
    assert (row["responses"], row["response_tokens"]) == (2, 8)
    assert (row["restored"], row["restored_tokens"]) == (1, 5)
    assert ledger.total == Spent(responses=1, tokens=3)


def test_evaluation_is_a_class_of_its_own(tmp_path):
    path = tmp_path / "dp00.jsonl"
    Ledger(path).record_evaluation(
        [[make_scored(), make_scored(tokens=4)]], step=6, policy_version=5
    )
    assert rows(path) == [
        {
            "kind": "evaluation",
            "step": 6,
            "policy_version": 5,
            "prompts": 1,
            "responses": 2,
            "response_tokens": 7,
            "aborted": 0,
            "aborted_tokens": 0,
            "unusable": 0,
            "unusable_tokens": 0,
        }
    ]


def test_scoring_is_a_class_of_its_own_and_balances_with_the_servers_count(tmp_path):
    """Two stored answers of 3 and 5 tokens behind prompts of 4, read and not sampled: 2 requests, 16 prompt tokens."""
    path = tmp_path / "dp00.jsonl"
    used = ServerUsage(requests=2, prompt_tokens=16, cached_prompt_tokens=6)
    theirs = ServerCounters(requests=2, prompt_tokens=16, cached_prompt_tokens=6)
    book = ServerBook(server="dp0.s0", restarts=0, ours=used, theirs=theirs)
    ledger = Ledger(path, lambda: [book])
    with pytest.raises(LedgerError, match="requests 0 in the rows and 2 answered"):
        ledger.reconcile(step=3)
    scorings = [
        Scoring(
            logprobs=np.zeros(n, np.float32), policy_version=2, server="dp0.s0", num_cached_tokens=3
        )
        for n in (3, 5)
    ]
    ledger.record_scoring(scorings, prompt_tokens=8, step=3, policy_version=2)
    assert rows(path)[-1] == {
        "kind": "scoring",
        "step": 3,
        "policy_version": 2,
        "responses": 2,
        "tokens": 8,
        "prompt_tokens": 8,
        "cached_prompt_tokens": 6,
        "request_s": 0.0,
    }
    ledger.reconcile(step=4)


def make_answers(num=8, tokens=90):
    """The answers of one prompt: `num` responses of `tokens` tokens in all."""
    responses = [make_scored(tokens=tokens - num + 1), *[make_scored(tokens=1)] * (num - 1)]
    return [responses]


def test_equal_books_become_a_row_per_server(tmp_path):
    ours = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=90, cached_prompt_tokens=30)
    theirs = ServerCounters(
        requests=8, prompt_tokens=40, generated_tokens=90, cached_prompt_tokens=30
    )
    path = tmp_path / "dp00.jsonl"
    book = ServerBook(server="dp0.s0", restarts=1, ours=ours, theirs=theirs)
    ledger = Ledger(path, lambda: [book])
    ledger.record_evaluation(make_answers(), step=0, policy_version=0)
    ledger.reconcile(step=3)
    assert rows(path)[-1] == {
        "kind": "server",
        "step": 3,
        "server": "dp0.s0",
        "restarts": 1,
        "session": 0,
        "requests": 8,
        "prompt_tokens": 40,
        "cached_prompt_tokens": 30,
        "generated_tokens": 90,
        "abort_calls": 0,
        "retracted_requests": 0,
        "retracted_prompt_tokens": 0,
        "retracted_generated_tokens": 0,
        "lost_requests": 0,
    }


def test_an_intent_is_on_the_disk_before_anything_is_asked(tmp_path):
    path = tmp_path / "dp00.jsonl"
    prompts = [StepPrompt(position=i, prompt=group().prompt) for i in (4, 7)]
    most = Spent(responses=8, tokens=8 * 32)
    Ledger(path, most_of_a_prompt=most).open_step(prompts, step=2, policy_version=5)
    assert rows(path) == [
        {
            "kind": "intent",
            "step": 2,
            "policy_version": 5,
            "prompts": 2,
            "positions": [4, 7],
            "responses_max": 16,
            "response_tokens_max": 512,
        }
    ]


def test_a_run_that_was_taken_over_writes_no_row(tmp_path):
    path = tmp_path / "dp00.jsonl"

    def check() -> None:
        raise FolderOwnedError("taken over")

    with pytest.raises(FolderOwnedError):
        Ledger(path, check_ownership=check).open_step([], step=1, policy_version=0)
    assert not path.exists()


def test_a_dead_process_leaves_one_row_that_bounds_what_it_did_not_report(tmp_path):
    """It had reported 8 requests of 90 tokens; then it answered 2 more of 30 and took 3 along, limited to 16 each."""
    path = tmp_path / "dp00.jsonl"
    ours = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=90)
    theirs = ServerCounters(requests=8, prompt_tokens=40, generated_tokens=90)
    books = [ServerBook(server="s", restarts=0, ours=ours, theirs=theirs)]
    ledger = Ledger(path, lambda: books)
    ledger.record_evaluation(make_answers(), step=0, policy_version=0)
    ledger.reconcile(step=1)
    ours += ServerUsage(requests=2, prompt_tokens=10, generated_tokens=30)
    ours += ServerUsage(lost_requests=3, lost_prompt_tokens=15, lost_generated_tokens=48)
    books[:] = [ServerBook(server="s", restarts=0, ours=ours, theirs=None)]
    ledger.record_evaluation(make_answers(2, 30), step=1, policy_version=0)
    ledger.reconcile(step=2)
    ledger.reconcile(step=3)  # it is written once
    (row,) = [row for row in rows(path) if row["kind"] == "lost_server"]
    assert (row["step"], row["requests"], row["generated_tokens"]) == (2, 10, 120)
    assert (row["unreported_requests_min"], row["unreported_requests_max"]) == (2, 5)
    assert (row["unreported_generated_tokens_min"], row["unreported_generated_tokens_max"]) == (
        30,
        78,
    )
    assert row["unreported_prompt_tokens_max"] == 25


SEEN = ServerUsage(
    requests=10,
    generated_tokens=50,
    aborted_requests=1,
    aborted_generated_tokens=4,
    unused_requests=2,
    unused_generated_tokens=6,
)


def test_rows_that_hold_every_response_in_its_class_are_right():
    """10 answered, of which 1 was aborted after 4 tokens and 2 of 3 tokens each could not be used."""
    check_rows(SEEN, SEEN)
    check_rows(SEEN, replace(SEEN, lost_requests=3, queue_aborts=2))  # these are no responses


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requests": 8}, "requests 8 in the rows and 10 answered"),
        ({"generated_tokens": 49}, "generated_tokens 49 in the rows and 50 answered"),
        ({"aborted_requests": 0}, "aborted_requests 0 in the rows and 1 answered"),
        ({"unused_generated_tokens": 0}, "unused_generated_tokens 0 in the rows and 6 answered"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_do_not_hold_every_response_in_its_class_end_the_run_with_both_numbers(
    change, said
):
    with pytest.raises(LedgerError, match=said):
        check_rows(replace(SEEN, **change), SEEN)


def test_unequal_books_end_the_run_with_both_numbers():
    ours = ServerUsage(requests=8, prompt_tokens=40, generated_tokens=90)
    theirs = ServerCounters(requests=8, prompt_tokens=40, generated_tokens=91)
    with pytest.raises(LedgerError, match="generated_tokens 90 here and 91 there"):
        check_balance("dp0.s0", ours, theirs)


def test_lost_requests_leave_room_for_as_many_and_for_their_tokens():
    ours = ServerUsage(requests=8, generated_tokens=90, lost_requests=2, lost_generated_tokens=6)
    check_balance("s", ours, ServerCounters(requests=9, generated_tokens=93))
    check_balance("s", ours, ServerCounters(requests=10, generated_tokens=96))
    with pytest.raises(LedgerError, match="2 requests were lost"):
        check_balance("s", ours, ServerCounters(requests=11, generated_tokens=96))
    with pytest.raises(LedgerError):  # more tokens than two requests can have come to
        check_balance("s", ours, ServerCounters(requests=10, generated_tokens=97))
    with pytest.raises(LedgerError):  # it counted less than it answered
        check_balance("s", ours, ServerCounters(requests=7, generated_tokens=80))


def test_counters_are_read_from_the_prometheus_page():
    page = """# HELP sglang:num_requests_total Number of requests processed.
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{engine_type="unified",is_streaming="false",model_name="a b"} 1280.0
sglang:num_requests_total{engine_type="unified",is_streaming="true",model_name="a b"} 2.0
sglang:prompt_tokens_total{is_streaming="false"} 30720.0
sglang:generation_tokens_total{is_streaming="false"} 2.048e+04
sglang:http_requests_total{endpoint="/ready",method="GET"} 1.0
"""
    assert parse_counters(page) == ServerCounters(
        requests=1282, prompt_tokens=30720, generated_tokens=20480
    )
    assert parse_counters("") == ServerCounters()


def test_what_a_server_counted_before_this_run_is_not_held_against_it():
    """140 requests and 560 tokens in all, 100 and 400 of them by an earlier run."""
    before = ServerCounters(requests=100, generated_tokens=400, prompt_tokens=800)
    now = ServerCounters(requests=140, generated_tokens=560, prompt_tokens=1120)
    ours = ServerUsage(requests=40, generated_tokens=160, prompt_tokens=320)
    check_balance("dp0.s0", ours, now - before)
    with pytest.raises(LedgerError, match="40 here and 140 there"):
        check_balance("dp0.s0", ours, now)
