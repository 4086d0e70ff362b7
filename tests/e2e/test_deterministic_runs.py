"""`run.deterministic=true`: the same run twice is the same run, whatever the servers' batches were; at two replicas it
draws the same; killed and resumed it is the same run too. A hundred kills: tests/chaos/test_killed_runs.py."""

from __future__ import annotations

import shutil
import time

import pytest
from harness.killed_runs import kill_group

from megatron_ar3po.run.state import read_state
from tools.compare_runs import compare_runs, responses_of

STEPS = 5
WORDS = [
    f"run.num_steps={STEPS}",
    "run.deterministic=true",
    "checkpoint.every_steps=2",
    "rollout.prompts_per_step=8",
    f"debug.dump_steps={[*range(1, STEPS + 1)]}",
    "actor.learning_rate=1e-3",
    "actor.lr_warmup_steps=0",
]


@pytest.fixture(scope="module")
def whole(module_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deterministic") / "whole"
    return module_runs(*WORDS, f"run.dir={folder}").wait().require_success()


def test_another_run_in_other_batches_has_the_same_tokens_rewards_ledger_metrics_and_weights(
    whole, start_run
):
    """Three requests at a time instead of all at once, stage by stage."""
    other = ["servers.max_concurrent_requests=3", "rollout.stage_scheduling=barrier"]
    again = start_run(*WORDS, *other).wait().require_success()
    assert list(compare_runs(whole.folder, again.folder)) == []


def test_two_replicas_draw_the_same_and_their_losses_agree_to_1e_5(whole, start_run):
    two = start_run(*WORDS, ranks=2).wait().require_success()
    one, other = responses_of(whole.folder), responses_of(two.folder)
    assert one == other and len(one) > 4 * 8 * STEPS
    for before, after in zip(whole.metrics, two.metrics, strict=True):
        assert ("actor/loss" in after) == ("actor/loss" in before)  # step 0 trains nothing
        if "actor/loss" in before:
            assert after["actor/loss"] == pytest.approx(before["actor/loss"], abs=1e-5)
            assert after["actor/grad_norm"] == pytest.approx(before["actor/grad_norm"], rel=1e-4)
        assert after.get("eval/pass_at_1") == before.get("eval/pass_at_1")


def test_a_run_that_was_killed_in_the_middle_of_a_step_and_resumed_is_the_run_that_was_not(
    whole, start_run
):
    """SIGKILL to the whole group, some tenths of a second into step 4; the checkpoint before is of step 2."""
    first = start_run(*WORDS, "run.num_steps=5")
    first.wait_for_step(3)
    time.sleep(0.15)
    kill_group(first)
    first.wait(60)
    assert first.processes_left(within_s=30) == []
    again = start_run(*WORDS, "run.resume=true").wait().require_success()
    assert list(compare_runs(whole.folder, again.folder)) == []
    assert again.processes_left() == []


CHOSEN = [
    *WORDS,
    "checkpoint.keep_last=3",
    "data.selection=weighted",
    "reuse.replay_frac=0.4",
    "reuse.replay_window=60",
    "algorithm.num_epochs=2",
    "algorithm.num_mini_batches=2",
    "algorithm.negative_weight=0.7",
    "algorithm.entropy_target=100",  # above any entropy: the bonus grows in every step
    "algorithm.entropy_coef_change=1e-3",
]


def test_choice_replay_passes_and_the_entropys_bonus_go_on_at_another_number_of_replicas(
    start_run, tmp_path
):
    """Two replicas to the end; the same from the checkpoint of step 2, at one. The policy's digest is of every row that
    trained, replayed ones included, in the order in which they did."""
    two = start_run(*CHOSEN, f"run.dir={tmp_path / 'two'}", ranks=2).wait().require_success()
    folder = tmp_path / "one"
    shutil.copytree(two.folder, folder)
    (folder / "checkpoints/latest").write_text("step_00002")
    for later in ("step_00004", "step_00005"):
        shutil.rmtree(folder / "checkpoints" / later)
    (folder / "DONE").unlink()  # or there would be nothing to go on with
    for step in (3, 4, 5):
        (folder / f"dumps/step_{step:05d}.pt").unlink()
    one = start_run(*CHOSEN, f"run.dir={folder}", "run.resume=true").wait().require_success()
    assert responses_of(one.folder) == responses_of(two.folder)
    rows = one.metrics[3:]
    assert all(row["reuse/replayed_rows"] > 0 for row in rows)
    assert [row["selection/chosen_prompts"] for row in rows] == [6, 6, 6]
    assert [row["actor/entropy_coef"] for row in rows] == pytest.approx([2e-3, 3e-3, 4e-3])
    for before, after in zip(two.metrics, one.metrics, strict=True):
        for name in {n for n in before if n.startswith(("selection/", "reuse/repl"))}:
            assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-5), name
    digests = {
        read_state(run.folder / "checkpoints/step_00005").policy_digest for run in (one, two)
    }
    assert len(digests) == 1
