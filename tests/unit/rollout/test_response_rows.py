from dataclasses import MISSING, fields, replace

import numpy as np
import pytest

from megatron_ar3po.rollout.response_rows import (
    DamagedRowError,
    Origin,
    decode_row,
    encode_row,
)
from megatron_ar3po.types import Response, ScoredResponse, Verdict
from megatron_ar3po.usage import Retries

ORIGIN = Origin("settings", "policy", "grading")


def make_scored(**verdict) -> ScoredResponse:
    logprobs = np.array([-0.1, -0.0, -1e-42, -3.4e38], dtype=np.float32)  # one is subnormal
    response = Response(
        response_id="s17.p3.1.0",
        prompt_id="ab" * 16,
        token_ids=np.array([5, 0, 151_935, 70_000], dtype=np.int32),
        logprobs=logprobs,
        finish_reason="length",
        policy_version=16,
        step=17,
        stage=1,
        index=0,
        seed=123_456_789,
        server="dp0.s1",
        num_cached_tokens=31,
        elapsed_s=0.1 + 0.2,
        was_begun=False,
        retries=Retries(aborted=1, aborted_tokens=7, unusable=2, unusable_tokens=9),
    )
    return ScoredResponse(
        response=response, verdict=Verdict(**{"reward": 1 / 3, "status": "incorrect", **verdict})
    )


def read_again(one: ScoredResponse) -> ScoredResponse:
    line = encode_row(one, ORIGIN)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    row = decode_row(line[:-1])
    assert row.origin == ORIGIN
    return row.scored


def test_tokens_log_probs_and_provenance_come_back_to_the_bit():
    written, read = make_scored(), read_again(make_scored())
    assert read.response.token_ids.tolist() == written.response.token_ids.tolist()
    assert read.response.token_ids.dtype == np.int32
    assert read.response.logprobs.tobytes() == written.response.logprobs.tobytes()
    without = {"token_ids": None, "logprobs": None}
    assert replace(read.response, **without) == replace(written.response, **without)
    assert read.origin == "fresh"


def test_no_field_of_a_response_is_left_at_its_default_here():
    """Or the test above could not see that it is lost."""
    written = make_scored().response
    for field in fields(Response):
        if field.default is not MISSING:
            assert getattr(written, field.name) != field.default, field.name


@pytest.mark.parametrize("text", ["", "1/2", 'a "quote"\nand a line', "é 七", "\ud800 alone", None])
def test_a_verdict_comes_back_whatever_text_it_holds(text):
    one = make_scored(extracted=text, reason=text or "", elapsed_s=1e-9)
    assert read_again(one).verdict == one.verdict


@pytest.mark.parametrize("reward", [1 / 3, -0.0, float("inf"), 1e-310, None])
def test_a_reward_comes_back_to_the_bit(reward):
    read = read_again(make_scored(reward=reward, status="error")).verdict.reward
    assert repr(read) == repr(reward)


def test_a_response_that_was_cut_off_may_have_fewer_log_probs_than_tokens():
    short = make_scored()
    object.__setattr__(short.response, "logprobs", np.array([-0.5], dtype=np.float32))
    read = read_again(short).response
    assert (read.num_tokens, read.logprobs.tolist()) == (4, [-0.5])


def test_any_flipped_byte_and_any_cut_is_noticed():
    line = encode_row(make_scored(reason="fine"), ORIGIN)[:-1]
    for position in range(len(line)):
        flipped = bytearray(line)
        flipped[position] ^= 0x04
        with pytest.raises(DamagedRowError):
            decode_row(bytes(flipped))
    for length in range(len(line)):
        with pytest.raises(DamagedRowError):
            decode_row(line[:length])


def test_a_whole_line_of_something_else_is_no_row():
    for line in (b"", b"{}", b'{"kind": "prompt", "step": 3}', b"\xff" * 80):
        with pytest.raises(DamagedRowError):
            decode_row(line)
