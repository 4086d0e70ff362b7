"""The loop, with fakes at its ports (tests/fakes/trainer.py): what happens, and in which order. What the parts do is
tested where they live, and all of it together with real servers and a real model in tests/e2e/test_main_job.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.trainer import TrainerCase, make_trainer

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.checkpoint import CheckpointConfig
from megatron_ar3po.config.debug import DebugConfig
from megatron_ar3po.config.evaluation import EvaluationConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.dump import load_groups
from megatron_ar3po.folder_owner import FolderOwnedError
from megatron_ar3po.records import Sum
from megatron_ar3po.run.state import RunState, read_state
from megatron_ar3po.types import MiniBatch
from megatron_ar3po.update_stats import UpdateStats

MIXED, ALL_WRONG, ALL_CORRECT = (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)

ONE_STEP = [
    "phase rollout",
    "rollout of step 1 by version 0",
    "deposit of step 1: 2",
    "loans of step 1: 0",
    "learns from step 1",
    "phase train",
    "update",
    "phase sync",
    "publish version 1",
]


def config(num_steps: int = 1, **sections: object) -> Config:
    """Neither evaluation nor checkpoint on the way."""
    return replace(
        Config(
            run=RunConfig(num_steps=num_steps),
            evaluation=EvaluationConfig(every_steps=0, samples_per_prompt=2),
            checkpoint=CheckpointConfig(every_steps=0),
        ),
        **sections,
    )


def saves_in(case: TrainerCase) -> list[str]:
    return [folder.parent.name for folder in case.actor.saved]


def test_a_run_publishes_evaluates_trains_evaluates_and_saves_in_this_order(tmp_path):
    case = make_trainer(tmp_path, config())
    state = case.trainer.run()
    assert case.events == [
        *("phase sync", "publish version 0"),
        *("phase rollout", "evaluate version 0 after step 0"),
        *ONE_STEP,
        *("phase rollout", "evaluate version 1 after step 1"),
        *("phase save", "save", "no way back before {'step': 1}"),
    ]
    assert (state.step, state.policy_version) == (1, 1)
    assert [row["step"] for row in case.rows] == [0, 1]


def test_a_steps_numbers_are_in_its_row(tmp_path):
    """Two prompts, each with a right and a wrong answer of three tokens."""
    case = make_trainer(tmp_path, config())
    case.trainer.run()
    before, row = case.rows
    expected = {
        "rollout/responses_generated": 4,
        "rollout/responses_total": 4,
        "reward/mean": 0.5,
        "reuse/deposited": 2,
        "reuse/unsolved_groups": 0,
        "group/mixed_frac": 1,
        "group/signal_groups": 2,
        "actor/loss": 1,
        "actor/ratio_mean": 1,
        "actor/samples": 4,
        "actor/tokens": 4 * (2 + 3),
        "weight_sync/bytes": 8,
        "eval/pass_at_1": 1,
    }
    assert {name: row[name] for name in expected} == expected
    assert "actor/loss" not in before and before["eval/responses"] == 2


def test_a_run_stopped_before_its_first_step_is_evaluated_once_however_often_it_goes_on(tmp_path):
    """It leaves a checkpoint of step 0: the evaluation is done, and its row is there."""
    first = make_trainer(tmp_path, config(1))
    first.trainer.stop.reason = "a stop"
    assert first.trainer.run().step == 0
    again = make_trainer(tmp_path, config(1), state=RunState())
    again.trainer.stop.reason = "a stop"
    again.trainer.run()
    third = make_trainer(tmp_path, config(1), state=RunState())
    third.trainer.run()
    asked = [e for case in (first, again, third) for e in case.events if e.startswith("evaluate")]
    assert asked == ["evaluate version 0 after step 0", "evaluate version 1 after step 1"]
    assert [row["step"] for row in third.rows] == [0, 1]


def test_a_step_without_signal_trains_and_publishes_nothing_and_counts(tmp_path, caplog):
    case = make_trainer(tmp_path, config(), rewards=[ALL_CORRECT])
    state = case.trainer.run()
    assert (state.step, state.policy_version) == (1, 0)
    assert "update" not in case.events and "publish version 1" not in case.events
    assert "phase train" not in case.events
    assert case.rows[1]["group/no_signal_frac"] == 1
    assert case.rows[1]["rollout/responses_total"] == 4
    assert "step 1 trains nothing: 2 groups: 2 all_correct" in caplog.text


def test_an_unsolved_prompt_trains_on_what_an_earlier_step_has_stored(tmp_path):
    """Two prompts come by in both steps: solved in the first, all wrong in the second."""
    case = make_trainer(tmp_path, config(2), rewards=[MIXED, ALL_WRONG], num_prompts=2)
    case.trainer.run()
    second = case.events.index("rollout of step 2 by version 1")
    assert case.events[second + 1 : second + 5] == [
        "deposit of step 2: 0",
        *("borrow in step 2 at 0", "borrow in step 2 at 1"),
        "loans of step 2: 2",
    ]
    assert case.rows[2]["group/rescued_frac"] == 1
    assert case.rows[2]["reuse/borrowed_groups_total"] == 2
    drifts = [loan.drift for loan in case.store.outcomes]
    ratios = [loan.ratio for loan in case.store.outcomes]
    assert drifts == [0.0, 0.0] and ratios == [1.0, 1.0]  # told by the update


def test_asked_to_stop_in_the_middle_of_a_step_it_ends_the_step_and_saves(tmp_path):
    case = make_trainer(tmp_path, config(5))

    def ask_in_step_2(step: int) -> None:
        if step == 2:
            case.trainer.stop.reason = "SIGTERM"

    case.sampler.on_collect = ask_in_step_2
    state = case.trainer.run()
    assert state.step == 2
    assert case.events[-4:] == [
        *("publish version 2", "phase save", "save", "no way back before {'step': 2}")
    ]
    assert read_state(tmp_path / "checkpoints/step_00002").step == 2
    assert "evaluate version 2 after step 2" not in case.events  # it is not the run's last step


def test_a_step_whose_updates_were_all_skipped_keeps_the_version_of_the_policy(tmp_path):
    """Weights of the same version go to the servers, which gave up theirs to train; the next step is version 1."""
    case = make_trainer(tmp_path, config(2))
    case.actor.skipped = [1]
    state = case.trainer.run()
    assert (state.step, state.policy_version) == (2, 1)
    published = [event for event in case.events if event.startswith("publish")]
    assert published == ["publish version 0", "publish version 0", "publish version 1"]
    assert "rollout of step 2 by version 0" in case.events
    assert [row.get("actor/skipped_updates") for row in case.rows] == [None, 1, 0]
    assert [row.get("actor/skipped_updates_total") for row in case.rows] == [None, 1, 1]
    assert "actor/loss" not in case.rows[1]


def test_too_many_skipped_updates_in_a_row_end_the_run_with_what_it_has_saved(tmp_path):
    case = make_trainer(tmp_path, config(9, actor=ActorConfig(max_skipped_updates=1)))
    case.actor.skipped = range(3, 10)
    state = case.trainer.run()
    assert (state.step, state.policy_version) == (4, 2)
    saved = read_state(tmp_path / "checkpoints/step_00004")
    assert saved.totals["actor/skipped_updates_total"] == 2
    assert case.trainer.stop.reason == case.trainer.stop.fault
    assert case.trainer.stop.fault.startswith("2 updates in a row had a loss or a gradient")


def test_a_failing_verifier_stops_the_run_before_anything_is_stored(tmp_path):
    case = make_trainer(tmp_path, config(), rewards=[(float("nan"), 0.0)])
    with pytest.raises(ValueError, match="has reward nan"):
        case.trainer.run()
    assert not any(event.startswith("deposit") for event in case.events)
    assert case.store.held == {}


def test_a_response_that_the_verifier_failed_for_is_cost_and_nothing_else(tmp_path):
    """Two prompts, each with a right, a wrong and a failed answer of three tokens: as if two had been drawn, but for
    what they cost."""
    case = make_trainer(
        tmp_path, config(debug=DebugConfig(dump_steps=[1])), rewards=[(1.0, 0.0, None)]
    )
    case.trainer.run()
    expected = {
        "rollout/responses_generated": 6,
        "rollout/tokens_generated": 18,
        "rollout/verifier_errors": 2,
        "reward/mean": 0.5,
        "reuse/deposited": 2,
        "actor/samples": 4,
    }
    assert {name: case.rows[1][name] for name in expected} == expected
    (first, _) = load_groups(tmp_path / "dumps" / "step_00001.pt")
    assert [len(first.responses), len(first.errored)] == [2, 1]


def test_a_group_whose_verifier_failed_altogether_borrows_and_trains_nothing(tmp_path, caplog):
    """In the second step, for prompts that have stored answers; the limit is lifted."""
    lenient = config(2, rewards=RewardsConfig(max_error_frac=1.0))
    case = make_trainer(tmp_path, lenient, rewards=[MIXED, (None, None)], num_prompts=2)
    assert case.trainer.run().policy_version == 1
    assert not any(event.startswith("borrow") for event in case.events)
    assert case.rows[2]["group/verifier_error_frac"] == 1
    assert "step 2 trains nothing: 2 groups: 2 verifier_error" in caplog.text


def test_a_verifier_that_fails_too_often_halts_the_run_before_a_deposit(tmp_path):
    case = make_trainer(tmp_path, config(2), rewards=[MIXED, (None, None)])
    with pytest.raises(VerifierFailedError, match="failed for 4 of 4 responses of this step"):
        case.trainer.run()
    assert "deposit of step 2: 0" not in case.events


@pytest.mark.parametrize(("every", "evaluated"), [(0, [0, 4]), (2, [0, 2, 4]), (3, [0, 3, 4])])
def test_evaluations_are_due_every_so_many_steps_and_at_both_ends(tmp_path, every, evaluated):
    evaluation = EvaluationConfig(every_steps=every, samples_per_prompt=1)
    case = make_trainer(tmp_path, config(4, evaluation=evaluation))
    case.trainer.run()
    assert [row["step"] for row in case.rows if "eval/pass_at_1" in row] == evaluated


@pytest.mark.parametrize(
    ("every", "evaluated"),
    [(4, [0, 1, 2, 3, 4, 5]), (8, [0, 2, 4, 5]), (9, [0, 3, 5]), (20, [0, 5])],
)
def test_evaluations_are_due_where_the_responses_pass_a_multiple(tmp_path, every, evaluated):
    """Two prompts with two responses each are 4 a step, 20 in five: 9 is passed in the third, 18 in the fifth."""
    evaluation = EvaluationConfig(every_responses=every, samples_per_prompt=1)
    case = make_trainer(tmp_path, config(5, evaluation=evaluation))
    case.trainer.run()
    assert [row["step"] for row in case.rows if "eval/pass_at_1" in row] == evaluated


def test_a_resumed_run_is_evaluated_at_the_same_counts(tmp_path):
    """4 a step from 8 responses on: 9 is passed by the first step after the resume."""
    evaluation = EvaluationConfig(every_responses=9, samples_per_prompt=1)
    state = RunState(step=2, policy_version=2)
    case = make_trainer(tmp_path, config(5, evaluation=evaluation), state=state)
    case.trainer.metrics.totals["rollout/responses_total"] = 8.0
    case.trainer.run()
    assert [row["step"] for row in case.rows if "eval/pass_at_1" in row] == [3, 5]


def test_without_held_out_prompts_nothing_is_evaluated(tmp_path):
    case = make_trainer(tmp_path, config(), num_held_out=0)
    case.trainer.run()
    assert not any(event.startswith("evaluate") for event in case.events)


@pytest.mark.parametrize(
    ("every", "saved"),
    [(0, [5]), (2, [2, 4, 5]), (5, [5])],
    ids=["at the end", "every 2", "5 of 5"],
)
def test_checkpoints_are_due_every_so_many_steps_and_at_the_end(tmp_path, every, saved):
    checkpoint = CheckpointConfig(every_steps=every)
    case = make_trainer(tmp_path, config(5, checkpoint=checkpoint))
    case.trainer.run()
    assert saves_in(case) == [f"step_{step:05d}.tmp" for step in saved]


def test_a_checkpoint_knows_where_prompts_store_and_totals_stand(tmp_path):
    case = make_trainer(tmp_path, config(3, checkpoint=CheckpointConfig(every_steps=2)))
    case.trainer.run()
    state = read_state(tmp_path / "checkpoints/step_00002")
    assert (state.step, state.policy_version, state.store_cursor) == (2, 2, {"step": 2})
    assert state.totals["rollout/responses_total"] == 8
    assert (state.prompt_cursor["epoch"], state.prompt_cursor["offset"]) == (0, 4)
    last = read_state(tmp_path / "checkpoints/step_00003").policy_digest
    assert "" != state.policy_digest != last == case.trainer.policy_update.digest.value


class FakeReplay:
    """The rows of the step before, as they were."""

    def __init__(self):
        self.kept, self.forgotten, self.records = {}, [], {"reuse/replayed_rows": Sum(0)}

    def draw(self, samples, groups, *, step):
        drawn = [
            replace(s, origin="replayed", group_position=10 + i, uses_behaviour_logprobs=True)
            for i, s in enumerate(self.kept.get(step - 1, []))
        ]
        self.kept[step] = list(samples)
        self.records = {"reuse/replayed_rows": Sum(len(drawn))}
        return drawn

    def sync(self):
        self.synced = sorted(self.kept)

    def forget_before(self, step):
        self.forgotten.append(step)


def test_replayed_rows_train_beside_those_of_the_step_and_cost_no_response(tmp_path):
    """Two groups of two rows a step, and the four of the step before."""
    case = make_trainer(tmp_path, config(2, reuse=ReuseConfig(replay_frac=0.5)))
    case.trainer.replay = replay = FakeReplay()
    case.trainer.run()
    assert replay.synced == [1, 2]  # before the checkpoint at the end
    assert [mini.num_sequences for mini in case.actor.updated] == [4, 8]
    assert [row["reuse/replayed_rows"] for row in case.rows[1:]] == [0, 4]
    assert [row["rollout/responses_generated"] for row in case.rows[1:]] == [4, 4]
    assert [row["group/signal_groups"] for row in case.rows[1:]] == [2, 2]


def test_without_a_share_to_replay_nobody_is_asked(tmp_path):
    case = make_trainer(tmp_path, config(2))
    case.trainer.replay = replay = FakeReplay()
    case.trainer.run()
    assert replay.kept == {}


def test_a_checkpoint_knows_how_far_the_bonus_for_entropy_has_grown(tmp_path):
    """Below the floor after steps 1 and 2: 0, 0.005, and 0.01 in the step after the checkpoint."""
    algorithm = AlgorithmConfig(entropy_target=0.3)
    settings = config(2, algorithm=algorithm)
    first = make_trainer(tmp_path, settings)
    first.actor.entropies = [0.2, 0.2]
    first.trainer.run()
    assert first.actor.entropy_coefs == [0.0, 0.005]
    state = read_state(tmp_path / "checkpoints/step_00002")
    again = make_trainer(tmp_path, config(3, algorithm=algorithm), state=state)
    again.trainer.run()
    assert again.actor.entropy_coefs == [0.01]
    assert again.rows[-1]["actor/entropy_coef"] == 0.01


def test_a_resumed_run_publishes_what_it_holds_and_does_not_evaluate_step_0_again(tmp_path):
    case = make_trainer(tmp_path, config(4), state=RunState(step=3, policy_version=2))
    state = case.trainer.run()
    assert case.events[:2] == ["phase sync", "publish version 2"]
    assert case.events[3] == "rollout of step 4 by version 2"
    assert [row["step"] for row in case.rows] == [4]
    assert (state.step, state.policy_version) == (4, 3)


@pytest.mark.parametrize(("step", "published"), [(0, 1), (3, 0)])
def test_the_publish_with_which_a_resume_begins_is_in_no_steps_row(tmp_path, step, published):
    """The step after it trains and publishes nothing: its row is that of the run that was not killed."""
    case = make_trainer(
        tmp_path, config(4), rewards=[ALL_CORRECT], state=RunState(step=step) if step else None
    )
    case.trainer.run()
    assert sum("weight_sync/bytes" in row for row in case.rows) == published


def test_the_reference_is_refreshed_when_it_is_due(tmp_path):
    plan = config(4)
    plan = replace(plan, algorithm=replace(plan.algorithm, reference_refresh_steps=2, kl_coef=0.1))
    case = make_trainer(tmp_path, plan)
    case.trainer.run()
    at = [i for i, event in enumerate(case.events) if event == "refresh_reference"]
    assert [case.events[i - 1] for i in at] == ["publish version 2", "publish version 4"]


def test_the_steps_asked_for_are_dumped_as_they_trained(tmp_path):
    """In step 2 both prompts come by again, unsolved: the dump holds what they borrowed."""
    debug = DebugConfig(dump_steps=[2])
    case = make_trainer(tmp_path, config(3, debug=debug), rewards=[MIXED, ALL_WRONG], num_prompts=2)
    case.trainer.run()
    (dump,) = (tmp_path / "dumps").iterdir()
    assert dump.name == "step_00002.pt"
    assert [group.num_borrowed for group in load_groups(dump)] == [1, 1]


def test_the_ranks_status_says_how_many_steps_are_done(tmp_path):
    case = make_trainer(tmp_path, config(2))
    case.trainer.run()
    assert case.trainer.ranks.watch.steps_done == 2


def test_a_run_that_was_taken_over_during_a_rollout_stores_and_trains_nothing_more(tmp_path):
    """It was stopped while its servers sampled, and wakes after another process has gone on in its folder."""
    case = make_trainer(tmp_path, config(3))

    def lose_in_step_2(step: int) -> None:
        case.ownership.is_lost = step == 2

    case.sampler.on_collect = lose_in_step_2
    with pytest.raises(FolderOwnedError):
        case.trainer.run()
    assert case.events[-1] == "rollout of step 2 by version 1"
    assert [row["step"] for row in case.rows] == [0, 1]
    assert case.actor.saved == []


def test_a_run_that_was_taken_over_before_a_steps_end_writes_no_row_and_no_checkpoint(tmp_path):
    case = make_trainer(tmp_path, config(1))
    update = case.actor.update

    def lose(mini_batch: MiniBatch, *, entropy_coef: float | None = None) -> UpdateStats:
        case.ownership.is_lost = True
        return update(mini_batch, entropy_coef=entropy_coef)

    case.actor.update = lose  # type: ignore[method-assign]
    with pytest.raises(FolderOwnedError):
        case.trainer.run()
    assert [row["step"] for row in case.rows] == [0]
    assert case.actor.saved == []
