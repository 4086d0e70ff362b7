"""`rollout.cancel_solved` and `rollout.max_tokens_per_step` on an engine that can be aborted."""

from __future__ import annotations

import pytest
from fakes.rollout_engine import ABORTED_TOKENS, AbortableEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.records import Mean, Sum
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.ledger_file import ledger_rows
from megatron_ar3po.rollout.step_sampler import FixedSampler
from megatron_ar3po.sampling_cost import Spent
from megatron_ar3po.types import Prompt, StepPrompt


def prompts(count=1):
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth=""),
        )
        for i in range(count)
    ]


def collect(engine, is_correct, *, num_prompts=1, num_slots=0, incorrect_reward=0.0, **options):
    verifier = FakeVerifier(is_correct)
    config = RolloutConfig(
        **{"max_response_tokens": 64, "prompts_per_step": num_prompts, **options}
    )
    controller = make_controller(
        engine, verifier, config, num_slots=num_slots, incorrect_reward=incorrect_reward
    )
    collected = controller.collect(prompts(num_prompts), step=1, policy_version=0)
    controller.close()
    return collected.groups, verifier, collected.records


def make_controller(engine, verifier, config, *, num_slots=0, incorrect_reward=0.0):
    return RolloutController(
        engine,
        verifier,
        config,
        ServersConfig(max_concurrent_requests=num_slots),
        run_seed=7,
        stop_token_ids=(3,),
        max_context_tokens=1024,
        vocab_size=64,
        incorrect_reward=lambda prompt: incorrect_reward,
    )


def second_is_correct(prompt, response):
    return response.index == 1


def test_siblings_of_the_first_correct_response_are_aborted_and_never_graded():
    """The first is wrong, the second right, the others are cut off."""
    engine = AbortableEngine((2, 5, None, None))
    (group,), verifier, records = collect(engine, second_is_correct, cancel_solved=True)
    assert [r.response.index for r in group.responses] == [0, 1]
    assert [(r.response.index, r.response.num_tokens) for r in group.left_out] == [(2, 4), (3, 4)]
    assert verifier.verified == ["s1.p0.1.0", "s1.p0.1.1"]
    assert len(engine.sent) == 4 and group.stop_reason == "solved"
    assert records["rollout/cancel/responses"] == Sum(2)
    assert records["rollout/cancel/tokens"] == Sum(2 * ABORTED_TOKENS)
    assert records["rollout/cancel/winner_length_tokens"] == Mean(5.0, 1)


def test_a_cancelled_response_may_count_as_truncated_with_the_reward_of_an_incorrect_one():
    """`rewards.incorrect=-1`: better than none at all it must not be."""
    engine = AbortableEngine((2, 5, None, None))
    (group,), verifier, _ = collect(
        engine,
        second_is_correct,
        incorrect_reward=-1.0,
        cancel_solved=True,
        cancelled_counts_as="truncated",
    )
    assert [r.reward for r in group.responses[2:]] == [-1.0, -1.0]
    assert group.left_out == ()
    assert [r.verdict.status for r in group.responses] == [
        "incorrect",
        "correct",
        "truncated",
        "truncated",
    ]
    assert [r.response.finish_reason for r in group.responses[2:]] == ["abort", "abort"]
    assert len(verifier.verified) == 2


def one_more_unless_two_were_graded(prompt, stages, history):
    if not stages:
        return 4
    return 0 if stages[0] == (2, 1) else 1


def test_a_cancelled_response_that_counts_as_truncated_is_no_outcome_of_its_stage():
    """Four sent, one wrong, one right, two cut off: the rule sees (2, 1), as the history will."""
    (group,), _, _ = collect(
        AbortableEngine((2, 5, None, None)),
        second_is_correct,
        cancel_solved=True,
        cancelled_counts_as="truncated",
        stage_rule=f"{__name__}:one_more_unless_two_were_graded",
    )
    assert len(group.responses) == 4


def test_a_sibling_that_waits_for_a_slot_is_not_sent():
    engine = AbortableEngine((2, 5, None, None))
    (group,), _, records = collect(engine, second_is_correct, cancel_solved=True, num_slots=1)
    assert [r.response.index for r in group.responses] == [0, 1]
    assert len(engine.sent) in (2, 3)  # the third may have got the slot while the second was graded
    unsent, cut_off = (
        records[f"rollout/cancel/{name}"].value for name in ("unsent_responses", "responses")
    )
    assert unsent + cut_off == 2


def test_a_response_that_the_server_aborted_and_that_waits_to_be_drawn_again_is_cancelled():
    """One slot. The server aborts the first response after two tokens; the second is right before the first has the
    slot again. What the first had is cost, and it is not drawn again."""
    engine = AbortableEngine((None, 5, None, None), server_aborts=(0,))
    (group,), _, _ = collect(engine, second_is_correct, cancel_solved=True, num_slots=1)
    assert "s1.p0.1.0.again1" not in engine.sent
    first = group.left_out[0].response
    assert (first.index, first.num_generated, first.num_generated_tokens) == (0, 1, 2)
    assert first.finish_reason == "abort" and len(group.left_out) in (1, 2)


@pytest.mark.parametrize(("counts_as", "members"), [("nothing", 1), ("truncated", 4)])
def test_all_that_was_sent_is_in_the_steps_cost_whatever_a_cancelled_response_counts_as(
    tmp_path, counts_as, members
):
    """Four are sent. The server aborts the first after 2 tokens and it is drawn again; the second is right after 5; it,
    and the two others, have 4 each when they are cut off: 5 responses and 2 + 5 + 3 * 4 tokens."""
    engine = AbortableEngine((None, 5, None, None), server_aborts=(0,))
    config = RolloutConfig(
        cancel_solved=True, cancelled_counts_as=counts_as, max_response_tokens=64
    )
    controller = make_controller(engine, FakeVerifier(second_is_correct), config)
    ledger = Ledger(tmp_path / "dp00.jsonl")
    sampler = FixedSampler(
        controller,
        prompts,
        layout=ParallelLayout(),
        prompts_per_step=1,
        ledger=ledger,
    )
    collected = sampler.collect(step=1, policy_version=0)
    controller.close()
    assert len(engine.sent) == 5
    expected = {
        "responses_generated": 5,
        "tokens_generated": 19,
        "cost/kept_responses": 1,
        "cost/kept_tokens": 5,
        "cost/cancelled_responses": 3,
        "cost/cancelled_tokens": 12,
        "cost/aborted_responses": 1,
        "cost/aborted_tokens": 2,
        "stage_1/responses": 5,
    }
    records = {name: collected.records[f"rollout/{name}"].value for name in expected}
    assert records == expected
    assert collected.records["rollout/responses_per_prompt"] == Mean(5)
    assert len(collected.groups[0].responses) == members
    assert ledger.total == Spent(responses=5, tokens=19)
    assert spent_by_row(tmp_path / "dp00.jsonl") == [(5, 19)]


def spent_by_row(path):
    rows = [row for row in ledger_rows(path) if row["kind"] == "prompt"]
    return [(row["responses"], row["response_tokens"]) for row in rows]


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


def test_a_share_of_no_tokens_is_not_a_step_without_a_cap():
    """One token for 2 prompts: none for the first, which is this replica's alone."""
    config = RolloutConfig(max_tokens_per_step=1, prompts_per_step=2, max_response_tokens=64)
    controller = make_controller(AbortableEngine((2, 2, 2, 2)), FakeVerifier(), config)
    (group,) = controller.collect(prompts(1), step=1, policy_version=0).groups
    controller.close()
    assert (len(group.responses), group.stop_reason) == (4, "token_cap")


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
