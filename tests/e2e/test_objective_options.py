"""The options of the objective that reach into the loop, through the real trainer: a KL in the reward, a reference that
is refreshed and kept in checkpoints, down-sampling, a weight and a cap on loans. That each is right to the digit is
shown in tests/unit/algorithm, tests/parallel and tests/crosscheck; here they meet."""

import pytest

OPTIONS = [
    "algorithm.kl_coef=0.1",
    "algorithm.kl_in=reward",
    "algorithm.kl_estimator=k1",
    "algorithm.reference_refresh_steps=2",
    "algorithm.downsample_to=3",
    "algorithm.importance_sampling=token",
    "reuse.weight=0.5",
    "reuse.max_borrowed_frac=0.5",
    "evaluation.max_prompts=4",
]


def test_the_reference_moves_with_its_refresh_and_a_resumed_run_finds_it(start_run):
    """Step 1: the policy is the reference. Step 2: it has left it. Step 3: refreshed after step 2, it is again."""
    run = start_run("run.num_steps=3", *OPTIONS).wait().require_success()
    rows = {row["step"]: row for row in run.metrics}
    kl = [rows[step]["actor/reference_kl"] for step in (1, 2, 3)]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[2] == pytest.approx(0, abs=1e-6)
    assert abs(kl[1]) > 1e-5
    assert all(rows[step]["mismatch/beyond_cap_frac"] == 0 for step in (1, 2, 3))
    signal, samples = rows[3]["group/signal_groups"], rows[3]["actor/samples"]
    assert 0 < samples <= 3 * signal  # four or eight were drawn for each
    assert (run.folder / "checkpoints/step_00003/model/reference").is_dir()

    again = start_run("run.num_steps=4", "run.resume=true", *OPTIONS).wait().require_success()
    last = again.metrics[-1]
    assert last["step"] == 4 and abs(last["actor/reference_kl"]) > 1e-5
