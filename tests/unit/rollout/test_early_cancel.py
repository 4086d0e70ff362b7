"""`rollout.cancel_solved` and `rollout.max_tokens_per_step` on an engine that can be aborted."""

from __future__ import annotations

import pytest
from fakes.rollout_engine import ABORTED_TOKENS, AbortableEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.records import Mean, Sum
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.types import Prompt, StepPrompt


def prompts(count=1):
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth=""),
        )
        for i in range(count)
    ]


def collect(engine, is_correct, *, num_prompts=1, num_slots=0, **options):
    verifier = FakeVerifier(is_correct)
    config = RolloutConfig(
        **{"max_response_tokens": 64, "prompts_per_step": num_prompts, **options}
    )
    controller = RolloutController(
        engine,
        verifier,
        config,
        ServersConfig(max_concurrent_requests=num_slots),
        run_seed=7,
        stop_token_ids=(3,),
        max_context_tokens=1024,
        vocab_size=64,
    )
    collected = controller.collect(prompts(num_prompts), step=1, policy_version=0)
    controller.close()
    return collected.groups, verifier, collected.records


def second_is_correct(prompt, response):
    return response.index == 1


def test_siblings_of_the_first_correct_response_are_aborted_and_never_graded():
    """The first is wrong, the second right, the others are cut off."""
    engine = AbortableEngine((2, 5, None, None))
    (group,), verifier, records = collect(engine, second_is_correct, cancel_solved=True)
    assert [r.response.index for r in group.responses] == [0, 1]
    assert verifier.verified == ["s1.p0.1.0", "s1.p0.1.1"]
    assert len(engine.sent) == 4 and group.stop_reason == "solved"
    assert records["rollout/cancel/responses"] == Sum(2)
    assert records["rollout/cancel/tokens"] == Sum(2 * ABORTED_TOKENS)
    assert records["rollout/cancel/winner_length_tokens"] == Mean(5.0, 1)


def test_a_cancelled_response_may_count_as_truncated():
    engine = AbortableEngine((2, 5, None, None))
    (group,), verifier, _ = collect(
        engine, second_is_correct, cancel_solved=True, cancelled_counts_as="truncated"
    )
    assert [r.verdict.status for r in group.responses] == [
        "incorrect",
        "correct",
        "truncated",
        "truncated",
    ]
    assert [r.response.finish_reason for r in group.responses[2:]] == ["abort", "abort"]
    assert len(verifier.verified) == 2


def test_a_sibling_that_waits_for_a_slot_is_not_sent():
    engine = AbortableEngine((2, 5, None, None))
    (group,), _, records = collect(engine, second_is_correct, cancel_solved=True, num_slots=1)
    assert [r.response.index for r in group.responses] == [0, 1]
    assert len(engine.sent) in (2, 3)  # the third may have got the slot while the second was graded
    unsent, cut_off = (
        records[f"rollout/cancel/{name}"].value for name in ("unsent_responses", "responses")
    )
    assert unsent + cut_off == 2


def test_without_the_option_every_response_is_sampled_to_its_end():
    engine = AbortableEngine((2, 5, 20, 20))
    (group,), verifier, records = collect(engine, second_is_correct)
    assert [r.response.num_tokens for r in group.responses] == [2, 5, 20, 20]
    assert len(verifier.verified) == 4 and records == {}


def test_a_stage_without_a_correct_response_is_sampled_whole():
    engine = AbortableEngine((2, 3, 4, 5))
    (group,), _, records = collect(engine, lambda p, r: False, cancel_solved=True)
    assert len(group.responses) == 8 and group.stop_reason == "stages_done"
    assert records["rollout/cancel/responses"] == Sum(0)


@pytest.mark.parametrize(("cap", "sizes"), [(0, [8, 8]), (300, [4, 8]), (200, [4, 4])])
def test_no_stage_begins_that_might_exceed_the_steps_tokens(cap, sizes):
    """Limit 64: a stage of 4 may take 256. Both first stages (2 x 4 x 2 = 16 tokens) are always drawn. Of 300 then 284
    are left: one second stage fits. Of 200, none."""
    groups, _, _ = collect(
        AbortableEngine((2, 2, 2, 2)),
        lambda p, r: False,
        num_prompts=2,
        max_tokens_per_step=cap,
        stage_scheduling="barrier",
    )
    assert sorted(len(g.responses) for g in groups) == sizes
    assert sum(g.stop_reason == "token_cap" for g in groups) == sizes.count(4)
