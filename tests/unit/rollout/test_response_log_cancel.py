"""`rollout.cancel_solved` over a log: what was cancelled stays so, as long as what it was cancelled for is there.

One prompt, four responses of 2, 5 and endless many tokens; the second is correct, so the last two are cut off."""

from __future__ import annotations

import json

import pytest
from fakes.response_logs import contents, make_controller, open_log, step_prompts
from fakes.rollout_engine import ABORTED_TOKENS, AbortableEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.records import Sum


def collect(folder, **options):
    engine, log = AbortableEngine((2, 5, None, None)), open_log(folder)
    controller = make_controller(
        engine,
        log,
        verifier=FakeVerifier(lambda prompt, response: response.index == 1),
        num_stages=1,
        responses_per_stage=4,
        cancel_solved=True,
        **options,
    )
    collected = controller.collect(step_prompts(1), step=3, policy_version=0)
    controller.close()
    log.close()
    return collected, engine


def keep_rows(folder, is_kept) -> None:
    """As if the process had been killed before it wrote the others."""
    (path,) = folder.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if is_kept(json.loads(line))))


@pytest.mark.parametrize("counts_as", ["nothing", "truncated"])
def test_a_stage_with_cancelled_responses_comes_back_as_it_ended(tmp_path, counts_as):
    first, engine = collect(tmp_path, cancelled_counts_as=counts_as)
    assert len(engine.sent) == 4
    again, engine = collect(tmp_path, cancelled_counts_as=counts_as)
    assert engine.sent == []
    assert contents(again.groups) == contents(first.groups)
    assert again.records == first.records
    assert first.records["rollout/cancel/tokens"] == Sum(2 * ABORTED_TOKENS)


def test_killed_between_the_winner_and_the_cancelled_these_are_not_sent_again(tmp_path):
    first, _ = collect(tmp_path)
    keep_rows(tmp_path, lambda row: row["finish_reason"] != "abort")
    again, engine = collect(tmp_path)
    assert engine.sent == []
    assert contents(again.groups) == contents(first.groups)
    assert again.records["rollout/cancel/responses"] == Sum(0)
    assert again.records["rollout/cancel/unsent_responses"] == Sum(2)


def test_without_its_winner_a_cancelled_response_is_drawn_again(tmp_path):
    """The winner's row is damaged: its siblings may not be taken for cancelled before it is drawn again."""
    first, _ = collect(tmp_path)
    keep_rows(tmp_path, lambda row: row["index"] != 1)
    again, engine = collect(tmp_path)
    assert sorted(engine.sent) == ["s3.p0.1.1", "s3.p0.1.2", "s3.p0.1.3"]
    assert again.restored == {"s3.p0.1.0"}
    assert [s.verdict for s in again.groups[0].responses] == [
        s.verdict for s in first.groups[0].responses
    ]
