import pytest

from megatron_ar3po.run_state import CheckpointFolder, RunState, read_state


def save(folder: CheckpointFolder, step: int):
    state = RunState(step=step, policy_version=step, totals={"rollout/responses_total": 7.0})
    return folder.commit(folder.begin(step), state)


def test_a_committed_checkpoint_is_the_latest_and_reads_back(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    path = save(folder, 3)
    assert folder.latest() == path == tmp_path / "step_00003"
    assert read_state(path) == RunState(
        step=3, policy_version=3, totals={"rollout/responses_total": 7.0}
    )


def test_only_the_newest_stay(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    for step in (1, 2, 3):
        save(folder, step)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00002", "step_00003"]


def test_a_checkpoint_that_was_not_finished_is_not_the_latest(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    save(folder, 1)
    folder.begin(2)
    assert folder.latest() == tmp_path / "step_00001"


def test_nothing_saved_gives_none(tmp_path):
    assert CheckpointFolder(tmp_path, keep_last=1).latest() is None


def test_a_marker_that_names_nothing_says_what_to_do(tmp_path):
    (tmp_path / "latest").write_text("step_00009")
    with pytest.raises(ValueError, match=r"step_00009, which is not a whole checkpoint"):
        CheckpointFolder(tmp_path, keep_last=1).latest()
